"""Topics of a benchmark: made empty, measured by their end offsets, read back in full."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.benchmark.statistics import BenchmarkError, Ints, position_of
from streams.clients.cluster import offset_ranges, partition_counts, require_topics
from streams.clients.connection import COMMAND_ANSWER_S_MAX, admin_client, reading_consumer
from streams.clients.records import Place, poll_records
from streams.clients.topic_admin import make_topics

Kafka = Mapping[str, Any]  # connection settings of librdkafka

# The broker's clock stamps outputs, so that a rate depends neither on the clock nor on the honesty of the system under test.
LOG_APPEND_TIME: Final = {"message.timestamp.type": "LogAppendTime"}

DELETE_S_MAX: Final = 30.0  # a broker deletes the files of a partition in the background, at its own pace
READ_S_MAX: Final = 60.0
READ_RECORDS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Outputs:
    """All records of an output topic, in the order of the log of each partition.

    Args:
        positions: int64[n], the input position that each record names, -1 without one.
        times_ms: int64[n], the timestamp of each record.
        log_append_time: whether the broker set the timestamps.
    """

    positions: Ints
    times_ms: npt.NDArray[np.int64]
    log_append_time: bool


def fresh_topics(kafka: Kafka, topics: Sequence[NewTopic], *, replace: bool) -> None:
    """Make the topics exist and be empty.

    Args:
        kafka: connection settings.
        topics: the topics; one that exists and is empty stays as it is.
        replace: delete topics that exist; without it a topic that holds records is an error: another user may need them.

    Raises:
        BenchmarkError: a topic holds records and `replace` is off, or the cluster refuses.
        KafkaUnavailable: no answer in time.
    """
    admin = admin_client(kafka)
    with closing(reader(kafka)) as consumer:
        existing = partition_counts(admin).keys() & {topic.topic for topic in topics}
        if replace:
            _delete(admin, existing)
            existing = set()
        elif held := [f"{name} ({n:,} records)" for name in sorted(existing) if (n := _records_held(consumer, name))]:
            raise BenchmarkError(
                f"expected empty topics, got {', '.join(held)}; use an empty cluster, or --recreate-topics to DELETE them"
            )
        missing = [topic for topic in topics if topic.topic not in existing]
        refused = make_topics(admin, consumer, missing, taken_s_max=DELETE_S_MAX)
    if refused:
        raise BenchmarkError("; ".join(f"{name}: not created: {error.str()}" for name, error in refused.items()))


def remove_topics(kafka: Kafka, topics: Sequence[str]) -> None:
    """Delete topics that the benchmark made for itself."""
    admin = admin_client(kafka)
    _delete(admin, partition_counts(admin).keys() & set(topics))


def end_offsets(kafka: Kafka, topic: str) -> list[int]:
    """Return the end offset of each partition."""
    with closing(reader(kafka)) as consumer:
        return [end for _first, end in _ranges(consumer, topic).values()]


def read_outputs(kafka: Kafka, topic: str, run: str) -> Outputs:
    """Read a topic from beginning to end.

    Raises:
        BenchmarkError: the end was not reached in time.
        KafkaUnavailable: a partition cannot be read.
    """
    positions: list[int] = []
    times: list[int] = []
    kind = TIMESTAMP_LOG_APPEND_TIME
    with closing(reader(kafka)) as consumer:
        open_ = {place for place, (_first, end) in _ranges(consumer, topic).items() if end}
        consumer.assign([TopicPartition(*place, 0) for place in open_])
        deadline = time.monotonic() + READ_S_MAX
        while open_:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{topic}: expected to read it within {READ_S_MAX:.0f} s; the broker is too slow")
            messages, ends = poll_records(consumer, 0.2, READ_RECORDS_MAX)
            for message in messages:
                kind, stamp = message.timestamp()
                positions.append(position_of(message.value(), run))
                times.append(stamp)
            open_ -= ends.keys()
    return Outputs(np.array(positions, np.int64), np.array(times, np.int64), kind == TIMESTAMP_LOG_APPEND_TIME)


def reader(kafka: Kafka, **extra: Any) -> Consumer:
    """Return a consumer that belongs to no group and commits nothing."""
    return reading_consumer(kafka, "streams-benchmark-reader", **extra)


def _ranges(consumer: Consumer, topic: str) -> dict[Place, tuple[int, int]]:
    return offset_ranges(consumer, require_topics(consumer, [topic]))


def _records_held(consumer: Consumer, topic: str) -> int:
    return sum(end - first for first, end in _ranges(consumer, topic).values())


def _delete(admin: AdminClient, names: set[str]) -> None:
    if not names:
        return
    for name, future in admin.delete_topics(list(names), request_timeout=COMMAND_ANSWER_S_MAX).items():
        try:
            future.result()
        except KafkaException as exc:
            raise BenchmarkError(f"{name}: not deleted: {exc.args[0].str()}") from exc
    deadline = time.monotonic() + DELETE_S_MAX
    while names & partition_counts(admin).keys():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{', '.join(sorted(names))}: expected deletion within {DELETE_S_MAX:.0f} s")
        time.sleep(0.1)
