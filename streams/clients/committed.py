"""The offsets that a group has committed, with the words that stand by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from confluent_kafka import Consumer, TopicPartition


def committed_offsets(
    config: Mapping[str, str], group: str, places: Sequence[TopicPartition], *, stable: bool, seconds_max: float
) -> list[TopicPartition]:
    """Return the committed offset of each place, with its metadata; -1001 where there is none. Blocking.

    Asked by a consumer of its own that joins nothing. librdkafka's AdminClient (2.16) would end the process by SIGSEGV
    where the broker that it asks is not the group's coordinator any more (#5040).

    Args:
        config: connection settings of librdkafka.
        stable: wait until no open transaction holds an offset of these places.

    Raises:
        KafkaException: _TIMED_OUT without an answer, or while a transaction is open; else what the broker refuses.
    """
    isolation = "read_committed" if stable else "read_uncommitted"
    asking = {**config, "group.id": group, "enable.auto.commit": False, "isolation.level": isolation}
    with closing(Consumer(asking)) as consumer:
        found: list[TopicPartition] = consumer.committed(
            [TopicPartition(tp.topic, tp.partition) for tp in places], seconds_max
        )
        return found
