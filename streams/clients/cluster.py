"""Questions of a command to a cluster: partitions and offsets. Each error says what to do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.clients.connection import COMMAND_ANSWER_S_MAX
from streams.clients.records import Place
from streams.errors import KafkaUnavailable

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


def partition_counts(client: AdminClient | Consumer) -> dict[str, int]:
    """Return the number of partitions of each topic of the cluster.

    Raises:
        KafkaUnavailable: no answer within COMMAND_ANSWER_S_MAX.
    """
    try:
        topics = client.list_topics(timeout=COMMAND_ANSWER_S_MAX).topics
    except KafkaException as exc:
        raise KafkaUnavailable(f"the cluster stopped answering: {exc.args[0].str()}; check the broker") from exc
    return {name: len(topic.partitions) for name, topic in topics.items()}


def require_topics(client: AdminClient | Consumer, names: Iterable[str]) -> dict[str, int]:
    """Return the partition counts of `names`.

    Raises:
        KafkaUnavailable: one does not exist.
    """
    found = partition_counts(client)
    missing = [name for name in names if name not in found]
    if missing:
        raise KafkaUnavailable(
            f"topic {', '.join(missing)}: does not exist on this cluster; run `streams topics create`"
        )
    return {name: found[name] for name in names}


def offset_ranges(
    consumer: Consumer, counts: Mapping[str, int], answer_s_max: float = COMMAND_ANSWER_S_MAX
) -> dict[Place, tuple[int, int]]:
    """Return the first offset of each partition and the offset behind its last record.

    Args:
        consumer: client of the cluster.
        counts: partitions of each topic asked for.
        answer_s_max: seconds for all answers, elections of leaders included.

    Raises:
        KafkaUnavailable: a partition has no leader that answers in time.
    """
    found: dict[Place, tuple[int, int]] = {}
    deadline = time.monotonic() + answer_s_max
    for name, count in counts.items():
        for partition in range(count):
            place = TopicPartition(name, partition)
            while (name, partition) not in found:
                try:
                    found[name, partition] = consumer.get_watermark_offsets(place, timeout=answer_s_max)
                except KafkaException as exc:
                    # A topic just made, or a broker just lost: the next leader answers in a moment.
                    if exc.args[0].code() not in ELECTING or time.monotonic() > deadline:
                        raise KafkaUnavailable(
                            f"{name}[{partition}]: expected its offsets, got {exc.args[0].str()!r}; check the brokers"
                        ) from exc
                    time.sleep(ELECTION_POLL_S)
                    # The client would go by what it knows of a topic that was deleted and made again.
                    with contextlib.suppress(KafkaException):
                        consumer.list_topics(name, timeout=answer_s_max)
    return found
