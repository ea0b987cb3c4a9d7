"""The offsets that a group has committed, with their metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from confluent_kafka import TopicPartition

from streams.clients.connection import reading_consumer


def committed_offsets(
    config: Mapping[str, str], group: str, places: Sequence[TopicPartition], *, stable: bool, seconds_max: float
) -> list[TopicPartition]:
    """Return the committed offset of each place, with its metadata; -1001 where there is none. Blocking.

    Asked by a consumer of its own that joins nothing. librdkafka's AdminClient (2.16) ends the process by SIGSEGV where
    the broker that it asks is not the group's coordinator any more (#5040).

    Args:
        config: connection settings of librdkafka.
        group: consumer group.
        places: partitions asked for.
        stable: wait until no open transaction holds an offset of these places.
        seconds_max: seconds to wait for the answer.

    Raises:
        KafkaException: _TIMED_OUT without an answer, or while a transaction is open; else the broker's refusal.
    """
    isolation = "read_committed" if stable else "read_uncommitted"
    with closing(reading_consumer(config, group, **{"isolation.level": isolation})) as consumer:
        found: list[TopicPartition] = consumer.committed(
            [TopicPartition(tp.topic, tp.partition) for tp in places], seconds_max
        )
        return found
