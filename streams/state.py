"""StateTable: columnar feature state of the partitions a worker owns, as a function of the input.

A partition's state includes exactly the input records below its position. Recovery loads the rows of the last
checkpoint, then replays the input from the checkpoint's position to where live records begin, publishing nothing.
The rule is the same after a crash, a rebalance or a start, because it is tied to positions alone: a batch that does
not begin at the state's position makes the partition be restored first.

A checkpoint is written only once the committed offset has reached its position, so that state never runs ahead of
what is decided; a repeated decision after a crash therefore carries the same features and the same score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from streams.errors import StateCorrupt
from streams.transport.reader import LogReader
from streams.transport.record_batch import RecordBatch

ROW, MARKER = b"r", b"m"
Row = tuple[bytes, bytes | None]


class History(Protocol):
    """Keyed state of one partition (`CardHistory`, `ClickHistory`)."""

    watermark: Any

    def freeze(self, dirty_only: bool) -> Iterable[Row]: ...

    def load_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> None: ...

    def digest(self) -> str: ...


H = TypeVar("H", bound=History)


class Marker(msgspec.Struct, frozen=True):
    """What a checkpoint includes: every record of the partition below `position`, in rows of this `layout`."""

    layout: str
    position: int
    watermark: int


@dataclass(slots=True)
class Partition(Generic[H]):
    """State of one partition and the position up to which it includes the input."""

    history: H
    position: int
    checkpointed: int
    whole: bool = False  # the next checkpoint must carry every row, because an earlier one was not written


@dataclass(slots=True)
class Snapshot:
    """Rows of one partition at a position: a copy, to be read by another thread while the state moves on."""

    partition: int
    position: int
    marker: Marker
    frozen: Iterable[Row] = field(repr=False)

    def rows(self) -> Iterator[Row]:
        """Yield the rows as they stand in the topic, the marker last."""
        for key, payload in self.frozen:
            yield ROW + key, payload
        yield MARKER, msgspec.json.encode(self.marker)


class StateTable(Generic[H]):
    """One history a partition. All methods run on the device thread or while it is idle.

    Args:
        topic: compacted topic of the checkpoints, with the partitions of the source.
        source: topic whose records make the state.
        layout: names what a row means (version, vocabulary); checkpoints of another layout are passed over.
        new_history: makes an empty history.
        replay: applies the values of consecutive records, with their timestamps, to a history.
        reader: reads checkpoints and the source.
    """

    def __init__(
        self,
        topic: str,
        source: str,
        layout: str,
        new_history: Callable[[], H],
        replay: Callable[[H, list[bytes | None], list[int]], None],
        reader: LogReader,
    ) -> None:
        self.topic, self.source, self._layout = topic, source, layout
        self._new_history, self._replay, self._reader = new_history, replay, reader
        self._partitions: dict[int, Partition[H]] = {}
        self.restored_records = 0
        self.restore_s = 0.0

    def has(self, batch: RecordBatch) -> bool:
        """Tell whether the history stands just before `batch`, so that `at` need not restore it."""
        part = self._partitions.get(batch.tp.partition)
        return part is not None and part.position == batch.first

    def at(self, batch: RecordBatch) -> H:
        """Return the history as it was just before `batch`, restored first where positions differ."""
        number = batch.tp.partition
        if not self.has(batch):
            self._partitions[number] = self._restore(number, batch.first)
        return self._partitions[number].history

    def advance(self, batch: RecordBatch) -> None:
        """Note that `batch` is included now."""
        self._partitions[batch.tp.partition].position = batch.next_offset

    def _restore(self, number: int, stop: int) -> Partition[H]:
        began = time.monotonic()
        rows, marker = self._checkpoint(number)
        if marker is None or marker.layout != self._layout or marker.position > stop:
            # No checkpoint, or of another layout, or the group was set back before it: the log is the only truth.
            rows, marker = {}, Marker(self._layout, 0, 0)
        history = self._new_history()
        if rows:
            history.watermark = marker.watermark
            history.load_many(list(rows.items()))
        for messages in self._reader.read(self.source, number, marker.position, stop):
            self._replay(history, [m.value() for m in messages], [m.timestamp()[1] for m in messages])
            self.restored_records += len(messages)
        self.restore_s += time.monotonic() - began
        return Partition(history, stop, marker.position)

    def _checkpoint(self, number: int) -> tuple[dict[bytes, bytes], Marker | None]:
        rows: dict[bytes, bytes] = {}
        marker: Marker | None = None
        for messages in self._reader.read(self.topic, number, 0):
            for message in messages:
                key, payload = message.key() or b"", message.value()
                kind, name = key[:1], key[1:]
                if kind == MARKER and payload is not None:
                    marker = self._read_marker(payload, number)
                elif kind == ROW and payload is None:
                    rows.pop(name, None)
                elif kind == ROW and payload is not None:
                    rows[name] = payload
        return rows, marker

    def _read_marker(self, payload: bytes, number: int) -> Marker:
        try:
            return msgspec.json.decode(payload, type=Marker)
        except msgspec.DecodeError as exc:
            raise StateCorrupt(
                f"{self.topic}[{number}]: unreadable marker: {exc}; delete the topic to rebuild it from {self.source}"
            ) from exc

    def moved(self) -> list[int]:
        """Return the partitions that a checkpoint would bring forward."""
        return [number for number, part in self._partitions.items() if part.position > part.checkpointed]

    def snapshot(self, number: int) -> Snapshot | None:
        """Copy the rows of a partition that changed since its last snapshot; None where it is not ours any more."""
        part = self._partitions.get(number)
        if part is None:
            return None
        frozen = part.history.freeze(not part.whole)
        part.checkpointed, part.whole = part.position, False
        marker = Marker(self._layout, part.position, int(part.history.watermark))
        return Snapshot(number, part.position, marker, frozen)

    def not_written(self, snapshot: Snapshot) -> None:
        """Take back a snapshot that did not reach Kafka: the partition's next one is whole."""
        part = self._partitions.get(snapshot.partition)
        if part is not None:
            part.whole, part.checkpointed = True, -1

    def keep(self, numbers: set[int]) -> None:
        """Forget the partitions that belong to others now."""
        for number in [n for n in self._partitions if n not in numbers]:
            del self._partitions[number]

    def digest(self) -> dict[int, str]:
        """Return the SHA-256 of each partition's rows."""
        return {number: part.history.digest() for number, part in sorted(self._partitions.items())}

    def positions(self) -> dict[int, int]:
        """Return the position of each partition."""
        return {number: part.position for number, part in sorted(self._partitions.items())}
