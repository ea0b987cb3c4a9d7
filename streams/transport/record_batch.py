"""RecordBatch: consecutive records of one partition, the unit in which this application reads, decides and commits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import faust
from faust.types import TP

from streams.contract.events import Headers


@dataclass(slots=True, eq=False)
class RecordBatch:
    """Consecutive records of one partition, covering the log positions [first, next_offset) with their holes.

    Holes (transaction markers, aborted or compacted records) belong to the batch whose span covers them, so that
    the batches of a partition are contiguous and a committed offset can pass them.

    Attributes:
        tp: topic and partition.
        first: position where the span begins.
        next_offset: position to read next; the offset to commit once every output is confirmed.
        offsets, keys, values, timestamps, headers: one entry a record; timestamps in milliseconds since the epoch.
        generation: the group's generation under which the batch was fetched.
        fetched_at: monotonic seconds.
    """

    tp: TP
    first: int
    next_offset: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    headers: list[Headers]
    generation: int
    fetched_at: float

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        return True  # an empty batch still moves the position past its holes

    @property
    def size_bytes(self) -> int:
        """Return the size of all keys, values and headers."""
        size = sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))
        for headers in filter(None, self.headers):
            size += sum(len(name) + len(value or b"") for name, value in headers)
        return size

    def __str__(self) -> str:
        return f"{self.tp.topic}[{self.tp.partition}]@{self.first}..{self.next_offset}"


class RecordSpan:
    """Cuts the records of one fetch into contiguous batches of at most `records_max`."""

    def __init__(self, tp: TP, first: int, generation: int, records_max: int) -> None:
        self.tp, self.first, self.position = tp, first, first
        self._generation, self._records_max, self._now = generation, records_max, time.monotonic()
        self._done: list[RecordBatch] = []
        self._open = self._new()

    def _new(self) -> RecordBatch:
        return RecordBatch(
            *(self.tp, self.position, self.position),
            offsets=[],
            keys=[],
            values=[],
            timestamps=[],
            headers=[],
            generation=self._generation,
            fetched_at=self._now,
        )

    def extend(self, records: Iterable[Any]) -> None:
        """Append the records at or after the position."""
        left = list(records)
        if left and left[0].offset < self.position:  # a compressed batch begins before the position that was asked for
            left = [record for record in left if record.offset >= self.position]
        while left:
            if len(self._open.offsets) == self._records_max:
                self.position = self._open.next_offset = left[0].offset
                self._done.append(self._open)
                self._open = self._new()
            current, room = self._open, self._records_max - len(self._open.offsets)
            part, left = left[:room], left[room:]
            current.offsets += [record.offset for record in part]
            current.keys += [record.key for record in part]
            current.values += [record.value for record in part]
            current.timestamps += [record.timestamp for record in part]
            current.headers += [record.headers for record in part]

    def pass_to(self, position: int) -> None:
        """Move the position past a log batch, its holes included."""
        self.position = self._open.next_offset = max(self.position, position)

    def close(self) -> list[RecordBatch]:
        """Return the batches; the last covers the trailing holes."""
        if self._open.next_offset > self._open.first:
            self._done.append(self._open)
        return self._done


Fetch = list[RecordBatch]


class BatchSchema(faust.Schema):
    """Marks a topic as batched: its agents get a `Fetch` (a list of RecordBatch), undecoded, as the event's value."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Fetch:
        value: Fetch = message.value
        return value
