"""Reading topics from a command: no group, no commits, committed records only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from streams.clients.cluster import offset_ranges, reading_consumer, require_topics
from streams.clients.connection import connect
from streams.errors import KafkaUnavailable
from streams.settings import Settings

READ_RECORDS_MAX: Final = 10_000
# A cluster that is away for longer than a rolling restart takes is worth a word and an end.
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
            settings,
            **{
                "enable.partition.eof": True,
                "fetch.message.max.bytes": 4_194_304,
                "queued.max.messages.kbytes": 65_536,
                "error_cb": self._error,
            },
        )
        # Records that arrive while a reader of "what is there" reads are not its business, or it might never end.
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
        return [message for message in self._take(wait_s) if self._is_record(message)]

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
            messages = self._take(0.5)
            silent_s = 0.0 if messages else silent_s + 0.5
            if silent_s >= SILENCE_S_MAX:
                raise KafkaUnavailable(
                    f"{len(open_)} partitions: no answer for {SILENCE_S_MAX:.0f} s ({self._last_error or 'no error'}); "
                    "check the cluster"
                )
            batch = []
            for message in messages:
                key = (str(message.topic()), int(message.partition() or 0))
                error = message.error()
                # The end is also told by an event: transaction markers have offsets but are never handed out.
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    open_.discard(key)
                elif self._is_record(message):
                    offset = int(message.offset() or 0)
                    if offset < self._ends[key]:
                        batch.append(message)
                    if offset + 1 >= self._ends[key]:
                        open_.discard(key)
            yield batch

    def _take(self, wait_s: float) -> list[Message]:
        first = self._consumer.poll(wait_s)
        return [] if first is None else [first, *self._consumer.consume(READ_RECORDS_MAX, 0)]

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() != KafkaError._PARTITION_EOF:
            raise KafkaUnavailable(f"{message.topic()}[{message.partition()}]: {error.str()}") from KafkaException(
                error
            )
        return False

    def _error(self, error: KafkaError) -> None:
        self._last_error = error.str()
