"""Counting: the simplest job with a state. Each key is counted; the output of a record is its id and the count so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from streams.contract.events import Headers
from streams.contract.topics import Topic
from streams.engine.answered import Answered
from streams.state.table import StateTable
from streams.transport.record_batch import RecordBatch

FORGET_AT = 4  # a key is forgotten with this count, and begins anew: rows are deleted too


class CountHistory:
    """Counts of one partition, as `streams.state.table.History`."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.watermarks = [0]
        self._dirty: set[str] = set()

    def add(self, value: bytes) -> int:
        """Count a record and return its key's count."""
        key = value.decode().split("/")[0]
        count = self.counts.get(key, 0) + 1
        self._dirty.add(key)
        if count == FORGET_AT:
            del self.counts[key]
        else:
            self.counts[key] = count
        self.watermarks = [self.watermarks[0] + 1]
        return count

    def freeze(self, dirty_only: bool) -> Iterable[tuple[bytes, bytes | None]]:
        keys = sorted(self._dirty if dirty_only else self._dirty | self.counts.keys())
        self._dirty = set()
        return [(key.encode(), str(self.counts[key]).encode() if key in self.counts else None) for key in keys]

    def load_many(self, pairs: Mapping[bytes, bytes]) -> None:
        self.counts = {key.decode(): int(payload) for key, payload in pairs.items()}


def replay(history: CountHistory, values: list[bytes | None], timestamps: list[int], headers: list[Headers]) -> None:
    """Count without an output."""
    for value in values:
        history.add(value or b"")


class CountingJob:
    """As `streams.engine.pipeline.Job`.

    Args:
        check: told of each batch and the counts before it.
        dawdle: takes its time.
    """

    name = "counting"

    def __init__(
        self,
        table: StateTable[CountHistory],
        topic: Topic,
        check: Callable[[RecordBatch, dict[str, int]], None],
        dawdle: Callable[[], None],
    ) -> None:
        self._table, self._topic, self._check, self._dawdle = table, topic, check, dawdle

    def decode(self, batch: RecordBatch) -> list[bytes]:
        return [value or b"" for value in batch.values]

    def is_quick(self, batches: Sequence[RecordBatch], decoded: Sequence[list[bytes]]) -> bool:
        return self._table.stands_before(batches)

    def prepare(self, decoded: Sequence[list[bytes]]) -> None:
        """Nothing is missing."""

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[list[bytes]]) -> list[Answered]:
        answered = []
        for batch, values in zip(batches, decoded, strict=True):
            history = self._table.at(batch)
            self._check(batch, history.counts)
            self._dawdle()
            counts = [history.add(value) for value in values]
            self._table.advance(batch)
            results = [value + b"=" + str(count).encode() for value, count in zip(values, counts, strict=True)]
            answered.append(Answered(self._topic, [key or b"" for key in batch.keys], results))
        return answered
