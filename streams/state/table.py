"""StateTable: columnar feature state of the partitions a worker owns, as a function of the input.

A partition's state includes exactly the input records below its position. Recovery loads the rows of the last
checkpoint, then replays the input from the checkpoint's position to where live records begin, publishing nothing.
The rule is the same after a crash, a rebalance or a start, because it is tied to positions alone: a batch that does
not begin at the state's position makes the partition be restored first.

A checkpoint is written only once the committed offset has reached its position, so that state never runs ahead of
what is decided; a repeated decision after a crash therefore carries the same features and the same score.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from models.errors import StateError
from streams.clients.log_reader import LogReader
from streams.contract.events import Headers
from streams.errors import StateCorrupt
from streams.state.replica import MARKER, ROW, Replica
from streams.transport.record_batch import RecordBatch

logger = logging.getLogger(__name__)

Row = tuple[bytes, bytes | None]


class History(Protocol):
    """Keyed state of one partition (`HistoryGroup`)."""

    watermarks: Any

    def freeze(self, dirty_only: bool) -> Iterable[Row]:
        """Copy the rows; each iteration over the copy stands alone, on any thread."""

    def load_many(self, pairs: Mapping[bytes, bytes]) -> None: ...


H = TypeVar("H", bound=History)


class Marker(msgspec.Struct, frozen=True):
    """What a checkpoint includes: every record of the partition below `position`, in rows of this `layout`."""

    layout: str
    position: int
    watermarks: list[int]


@dataclass(slots=True)
class Partition(Generic[H]):
    """State of one partition and the position up to which it includes the input."""

    history: H
    position: int
    checkpointed: int
    full_snapshot_due: bool = False  # the next checkpoint must carry every row, because an earlier one was not written
    tombstones_due: frozenset[bytes] = frozenset()  # keys that the topic holds and the next checkpoint must bury
    in_use: bool = False  # a batch is being applied: the rows are of no position
    generation: int = -1  # the group's, under which the last batch was fetched


@dataclass(slots=True)
class Snapshot:
    """Rows of one partition at a position: a copy, to be read by another thread while the state moves on."""

    partition: int
    position: int
    marker: Marker
    tombstones_due: frozenset[bytes]
    frozen: Iterable[Row] = field(repr=False)

    def rows(self) -> Iterator[Row]:
        """Yield the rows as they stand in the topic: what is to be forgotten first, the marker last."""
        for key in self.tombstones_due:
            yield ROW + key, None
        for key, payload in self.frozen:
            yield ROW + key, payload
        yield MARKER, msgspec.json.encode(self.marker)


class StateTable(Generic[H]):
    """One history a partition. All methods run on the device thread or while it is idle.

    Args:
        topic: compacted topic of the checkpoints, with the partitions of the source.
        source: topic whose records make the state.
        layout: names what a row means; checkpoints of another layout are passed over.
        new_history: makes an empty history.
        replay: applies the values of consecutive records, with their timestamps and headers, to a history.
        reader: reads checkpoints and the source.
        at_hand: returns what is known here of a partition's checkpoint log, given what tells the log's end.
    """

    def __init__(
        self,
        topic: str,
        source: str,
        layout: str,
        new_history: Callable[[], H],
        replay: Callable[[H, list[bytes | None], list[int], list[Headers]], None],
        reader: LogReader,
        at_hand: Callable[[int, Callable[[], int]], Replica] = lambda number, end: Replica(),
    ) -> None:
        self.topic, self.source, self._layout = topic, source, layout
        self._new_history, self._replay, self._reader = new_history, replay, reader
        self._at_hand = at_hand
        self._partitions: dict[int, Partition[H]] = {}
        self.restored_records = 0

    def stands_before(self, batches: Sequence[RecordBatch]) -> bool:
        """Tell whether the histories stand just before `batches`, taken in order, so that `at` need not restore any."""
        positions: dict[int, int] = {}
        for batch in batches:
            number = batch.tp.partition
            part = self._partitions.get(number)
            if part is None or positions.get(number, part.position) != batch.first:
                return False
            positions[number] = batch.next_offset
        return True

    def at(self, batch: RecordBatch) -> H:
        """Return the history as it was just before `batch`, restored first where positions differ, to be changed now."""
        number = batch.tp.partition
        if not self.stands_before([batch]):
            self._partitions[number] = self._restore(number, batch.first)
        part = self._partitions[number]
        part.in_use = True
        return part.history

    def advance(self, batch: RecordBatch) -> None:
        """Note that `batch` is included now."""
        part = self._partitions[batch.tp.partition]
        part.position, part.generation, part.in_use = batch.next_offset, batch.generation, False

    def _restore(self, number: int, stop: int) -> Partition[H]:
        began = time.monotonic()
        copy = self._at_hand(number, partial(self._end, number))
        first, end = copy.next_offset, self._end(number)
        for messages in self._reader.read(self.topic, number, first, end):
            copy.apply([m.key() or b"" for m in messages], [m.value() for m in messages], end)
        marker, rows = self._marker(copy, number), copy.rows
        tombstones_due: frozenset[bytes] = frozenset()
        if marker is None or marker.layout != self._layout or marker.position > stop:
            # No checkpoint, or of another layout, or the group was set back before it: the log is the only truth.
            tombstones_due, rows, marker = frozenset(copy.behind).union(rows), {}, Marker(self._layout, 0, [])
        history = self._new_history()
        if rows:
            history.watermarks = marker.watermarks
            self._load(history, rows, number)
        for messages in self._reader.read(self.source, number, marker.position, stop):
            self._replay(
                history,
                [m.value() for m in messages],
                [m.timestamp()[1] for m in messages],
                [m.headers() for m in messages],
            )
            self.restored_records += len(messages)
        logger.info(
            f"{self.source}[{number}]: restored to {stop} from {len(rows)} rows at {marker.position} in "
            f"{time.monotonic() - began:.2f} s, {first} of {end} offsets of checkpoints from a file"
        )
        return Partition(
            history, stop, marker.position, full_snapshot_due=bool(tombstones_due), tombstones_due=tombstones_due
        )

    def _end(self, number: int) -> int:
        return self._reader.ends(self.topic, [number])[number]

    def _load(self, history: H, rows: dict[bytes, bytes], number: int) -> None:
        try:
            history.load_many(rows)
        except StateError as exc:
            raise StateCorrupt(f"{self.topic}[{number}]: {exc}; delete the topic to have it rebuilt") from exc

    def _marker(self, copy: Replica, number: int) -> Marker | None:
        try:
            return None if copy.marker is None else msgspec.json.decode(copy.marker, type=Marker)
        except msgspec.DecodeError as exc:
            raise StateCorrupt(
                f"{self.topic}[{number}]: unreadable marker: {exc}; delete the topic to rebuild it from {self.source}"
            ) from exc

    def moved(self, generation: int) -> list[int]:
        """Return the partitions that a checkpoint under a generation of the group would bring forward.

        A partition that has seen no batch under it is left out: it may have been elsewhere meanwhile, and a checkpoint
        must not fall behind one that was written there.
        """
        return [
            number
            for number, part in self._partitions.items()
            if part.position > part.checkpointed and part.generation == generation and not part.in_use
        ]

    def snapshot(self, number: int, generation: int) -> Snapshot | None:
        """Copy the rows of a partition that changed since its last snapshot; None where there is nothing to copy."""
        part = self._partitions.get(number)
        if part is None or part.generation != generation or part.in_use:
            return None
        frozen = part.history.freeze(not part.full_snapshot_due)
        marker = Marker(self._layout, part.position, part.history.watermarks)
        snapshot = Snapshot(number, part.position, marker, part.tombstones_due, frozen)
        part.checkpointed, part.full_snapshot_due, part.tombstones_due = part.position, False, frozenset()
        return snapshot

    def snapshot_failed(self, snapshot: Snapshot) -> None:
        """Take back a snapshot that did not reach Kafka: the next one carries every row and its evictions."""
        part = self._partitions.get(snapshot.partition)
        if part is not None:
            evicted = {key for key, payload in snapshot.frozen if payload is None}
            part.full_snapshot_due, part.checkpointed = True, -1
            part.tombstones_due = part.tombstones_due | snapshot.tombstones_due | evicted

    def keep(self, numbers: set[int]) -> None:
        """Forget the partitions that belong to others now."""
        for number in [n for n in self._partitions if n not in numbers]:
            del self._partitions[number]
