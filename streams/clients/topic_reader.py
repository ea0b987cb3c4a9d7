"""Reading topics from a command: no group, no commits, committed records only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from confluent_kafka import OFFSET_BEGINNING, KafkaError, Message, TopicPartition

from streams.clients.cluster import offset_ranges, require_topics
from streams.clients.connection import command_config, connect, reading_consumer
from streams.clients.records import poll_records
from streams.errors import KafkaUnavailable
from streams.settings import Settings

READ_RECORDS_MAX: Final = 10_000
POLL_S: Final = 0.5
# Longer than a rolling restart keeps a cluster away.
SILENCE_S_MAX: Final = 60.0


class TopicReader:
    """Batches of records of some topics, partition by partition in order.

    Args:
        settings: the cluster.
        topics: names; each must exist.
        from_beginning: start at the oldest record instead of behind the newest.

    Raises:
        KafkaUnavailable: no cluster, or a topic is missing.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], *, from_beginning: bool) -> None:
        counts = require_topics(connect(settings), topics)
        self._last_error = ""
        self._consumer = reading_consumer(
            command_config(settings),
            settings.application_id,
            **{"fetch.message.max.bytes": 4_194_304, "error_cb": self._error},
        )
        # `until_end` stops where the partitions end now: it might never end if it followed a producer.
        ranges = offset_ranges(self._consumer, counts)
        self._ends = {key: end for key, (_, end) in ranges.items()}
        self._open = {key for key, (first, end) in ranges.items() if end > first}
        # The end is an offset, not "the end": a record produced after this line is read, however late the first fetch.
        start = dict.fromkeys(self._ends, OFFSET_BEGINNING) if from_beginning else self._ends
        self._consumer.assign([TopicPartition(name, p, offset) for (name, p), offset in start.items()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster."""
        self._consumer.close()

    def poll(self, wait_s: float) -> list[Message]:
        """Return what has arrived, waiting up to `wait_s` for the first record and no longer for the others."""
        return poll_records(self._consumer, wait_s, READ_RECORDS_MAX)[0]

    def follow(self) -> Iterator[list[Message]]:
        """Yield batches without an end; an empty one when nothing came for a moment."""
        while True:
            yield self.poll(0.2)

    def until_end(self) -> Iterator[list[Message]]:
        """Yield batches up to where each partition ended when the reader was made.

        Raises:
            KafkaUnavailable: the cluster was silent for SILENCE_S_MAX.
        """
        open_ = set(self._open)
        silent_s = 0.0
        while open_:
            messages, ends = poll_records(self._consumer, POLL_S, READ_RECORDS_MAX)
            silent_s = 0.0 if messages or ends else silent_s + POLL_S
            if silent_s >= SILENCE_S_MAX:
                raise KafkaUnavailable(
                    f"{len(open_)} partitions: no answer for {SILENCE_S_MAX:.0f} s ({self._last_error or 'no error'}); "
                    "check the cluster"
                )
            batch = []
            for message in messages:
                key = (str(message.topic()), message.partition() or 0)
                offset, end = message.offset() or 0, self._ends[key]
                if offset < end:
                    batch.append(message)
                if offset + 1 >= end:
                    open_.discard(key)
            open_ -= ends.keys()
            yield batch

    def _error(self, error: KafkaError) -> None:
        self._last_error = error.str()
