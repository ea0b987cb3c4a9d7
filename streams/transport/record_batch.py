"""RecordBatch: consecutive records of one partition, the unit in which this application reads, decides and commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faust
from faust.types import TP

Headers = Sequence[tuple[str, bytes]]


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

    def __str__(self) -> str:
        return f"{self.tp.topic}[{self.tp.partition}]@{self.first}..{self.next_offset}"


Fetch = list[RecordBatch]


class BatchSchema(faust.Schema):
    """Marks a topic as batched: its agents get a `Fetch` (a list of RecordBatch), undecoded, as the event's value."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Fetch:
        value: Fetch = message.value
        return value
