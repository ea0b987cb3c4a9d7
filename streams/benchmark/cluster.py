"""Topics of a benchmark: made empty, measured by their end offsets, read back in full."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.benchmark.statistics import BenchmarkError, Ints, position_of

Kafka = Mapping[str, str]  # connection settings as librdkafka spells them

# The broker's clock stamps outputs, so that a rate does not rest on the clock or the honesty of the system under test.
LOG_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}

ANSWER_S_MAX = 15.0
# What a cluster answers while a new topic's, or a restarted broker's, leaders are being elected.
ELECTING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
DELETE_S_MAX = 30.0
READ_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """All records of an output topic, in the order of the log of each partition.

    Args:
        positions: int64[n], the input position that each names, -1 where it names none.
        times_ms: int64[n], the timestamp of each.
        log_append_time: whether the broker stamped them.
    """

    positions: Ints
    times_ms: npt.NDArray[np.int64]
    log_append_time: bool


def fresh_topics(kafka: Kafka, topics: Sequence[NewTopic], *, replace: bool) -> None:
    """Make the topics exist and be empty.

    Args:
        kafka: connection settings.
        topics: what to make; one that exists and is empty stays as it is.
        replace: delete topics that exist; otherwise a topic that holds records is an error, since another user may need them.

    Raises:
        BenchmarkError: a topic holds records and `replace` is off, or the cluster refuses.
    """
    admin = AdminClient(dict(kafka))
    existing = _topic_names(admin).intersection(topic.topic for topic in topics)
    if replace:
        _delete(admin, existing)
        existing = set()
    elif held := [f"{name} ({count:,} records)" for name in sorted(existing) if (count := _records_held(kafka, name))]:
        raise BenchmarkError(
            f"expected empty topics, got {', '.join(held)}; use an empty cluster, or --recreate-topics to DELETE them"
        )
    _create(admin, {topic.topic: topic for topic in topics if topic.topic not in existing})


def remove_topics(kafka: Kafka, topics: Sequence[str]) -> None:
    """Delete topics that the benchmark made for itself."""
    admin = AdminClient(dict(kafka))
    _delete(admin, _topic_names(admin).intersection(topics))


def end_offsets(kafka: Kafka, topic: str) -> list[int]:
    """Return the end offset of each partition."""
    with reader(kafka) as consumer:
        return [high for _low, high in watermarks(consumer, topic)]


def read_outputs(kafka: Kafka, topic: str, run: str) -> Outputs:
    """Read a topic from beginning to end.

    Raises:
        BenchmarkError: the end was not reached in time, or a record could not be read.
    """
    positions: list[int] = []
    times: list[int] = []
    kind = TIMESTAMP_LOG_APPEND_TIME
    with reader(kafka, **{"enable.partition.eof": True}) as consumer:
        open_partitions = {partition for partition, (_, high) in enumerate(watermarks(consumer, topic)) if high}
        consumer.assign([TopicPartition(topic, partition, 0) for partition in open_partitions])
        deadline = time.monotonic() + READ_S_MAX
        while open_partitions:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{topic}: expected to read it within {READ_S_MAX:.0f} s; the broker is too slow")
            for message in consumer.consume(10_000, timeout=0.2):
                if message.error() is not None:
                    open_partitions.discard(end_of_partition(message))
                    continue
                kind, stamp = message.timestamp()
                positions.append(position_of(message.value(), run))
                times.append(stamp)
    return Outputs(np.array(positions, np.int64), np.array(times, np.int64), kind == TIMESTAMP_LOG_APPEND_TIME)


def end_of_partition(message: Message) -> int:
    """Return the partition whose end an error message reports; any other error is raised."""
    error = message.error()
    if error.code() != KafkaError._PARTITION_EOF:
        raise BenchmarkError(f"{message.topic()}[{message.partition()}]: {error.str()}")
    return int(message.partition())


@contextlib.contextmanager
def reader(kafka: Kafka, **extra: Any) -> Iterator[Consumer]:
    """Yield a consumer that belongs to no group and commits nothing."""
    consumer = Consumer(
        {
            **kafka,
            "group.id": "streams-benchmark-reader",  # required by the client; never joined
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            **extra,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def watermarks(consumer: Consumer, topic: str) -> list[tuple[int, int]]:
    """Return (first, end) offsets of each partition, in the order of the partitions.

    Raises:
        BenchmarkError: no answer within ANSWER_S_MAX; a leader that is being elected is waited for.
    """
    deadline = time.monotonic() + ANSWER_S_MAX
    while True:
        try:
            metadata = consumer.list_topics(topic, timeout=ANSWER_S_MAX).topics[topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            return [
                consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S_MAX)
                for partition in sorted(metadata.partitions)
            ]
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() not in ELECTING or time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{topic}: expected its offsets, got {error.str()!r}; see the broker's log"
                ) from exc
            time.sleep(0.1)


def _records_held(kafka: Kafka, topic: str) -> int:
    with reader(kafka) as consumer:
        return sum(high - low for low, high in watermarks(consumer, topic))


def _topic_names(admin: AdminClient) -> set[str]:
    try:
        return set(admin.list_topics(timeout=ANSWER_S_MAX).topics)
    except KafkaException as exc:
        raise BenchmarkError(f"cluster: no answer within {ANSWER_S_MAX:.0f} s ({exc.args[0].str()})") from exc


def _delete(admin: AdminClient, names: set[str]) -> None:
    if not names:
        return
    for name, future in admin.delete_topics(list(names)).items():
        if error := _error(future):
            raise BenchmarkError(f"{name}: {error.str()}")
    deadline = time.monotonic() + DELETE_S_MAX
    while names & _topic_names(admin):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{', '.join(sorted(names))}: expected deletion within {DELETE_S_MAX:.0f} s")
        time.sleep(0.1)


def _create(admin: AdminClient, topics: Mapping[str, NewTopic]) -> None:
    missing = dict(topics)
    deadline = time.monotonic() + DELETE_S_MAX
    while missing:
        for name, future in admin.create_topics(list(missing.values())).items():
            error = _error(future)
            if error is None:
                del missing[name]
            # A deleted name stays taken for a moment after its deletion was acknowledged.
            elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                raise BenchmarkError(f"{name}: {error.str()}")
        time.sleep(0.1)
    while not topics.keys() <= _topic_names(admin):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{', '.join(topics)}: expected to see them within {DELETE_S_MAX:.0f} s")
        time.sleep(0.05)


def _error(future: Any) -> KafkaError | None:
    try:
        future.result(timeout=DELETE_S_MAX)
    except KafkaException as exc:
        error: KafkaError = exc.args[0]
        return error
    return None
