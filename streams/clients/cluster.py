"""What commands ask a cluster, with sentences that say what to do where it does not answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.clients.connection import ANSWER_S_MAX, QUIET
from streams.errors import KafkaUnavailable
from streams.settings import Settings

# What a client hears of a partition between two leaders.
ELECTING: Final = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
    }
)
ELECTION_POLL_S: Final = 0.05


def partition_counts(admin: AdminClient) -> dict[str, int]:
    """Return the number of partitions of each topic of the cluster."""
    try:
        topics = admin.list_topics(timeout=ANSWER_S_MAX).topics
    except KafkaException as exc:
        raise KafkaUnavailable(f"the cluster stopped answering: {exc.args[0].str()}; check the broker") from exc
    return {name: len(topic.partitions) for name, topic in topics.items()}


def require_topics(admin: AdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return the partition counts of `names`.

    Raises:
        KafkaUnavailable: one does not exist.
    """
    found = partition_counts(admin)
    missing = [name for name in names if name not in found]
    if missing:
        raise KafkaUnavailable(
            f"topic {', '.join(missing)}: does not exist on this cluster; run `streams topics create`"
        )
    return {name: found[name] for name in names}


def reading_consumer(settings: Settings, **extra: Any) -> Consumer:
    """Return a consumer that joins no group, commits nothing and sees committed records only."""
    config: dict[str, Any] = {
        **settings.librdkafka(),
        **QUIET,
        "group.id": settings.application_id,  # the client wants one that it may see; assign() never joins it
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        **extra,
    }
    return Consumer(config)


def offset_ranges(consumer: Consumer, counts: Mapping[str, int]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return the first offset and the offset behind the last record of each partition.

    Args:
        consumer: client of the cluster.
        counts: partitions of each topic asked for.

    Raises:
        KafkaUnavailable: a partition has no leader that answers within ANSWER_S_MAX.
    """
    found: dict[tuple[str, int], tuple[int, int]] = {}
    deadline = time.monotonic() + ANSWER_S_MAX
    for name, count in counts.items():
        for partition in range(count):
            place = TopicPartition(name, partition)
            while (name, partition) not in found:
                try:
                    found[name, partition] = consumer.get_watermark_offsets(place, timeout=ANSWER_S_MAX)
                except KafkaException as exc:
                    # A topic just made, or a broker just lost: the next leader answers in a moment.
                    if exc.args[0].code() not in ELECTING or time.monotonic() > deadline:
                        raise KafkaUnavailable(
                            f"{name}[{partition}]: expected its offsets, got {exc.args[0].str()!r}; check the brokers"
                        ) from exc
                    time.sleep(ELECTION_POLL_S)
    return found
