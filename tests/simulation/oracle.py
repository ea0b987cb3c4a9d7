"""Oracle: what must hold at every moment of a run, and at its end."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import msgspec

from streams.state.table import MARKER, ROW, Marker
from streams.transport.record_batch import RecordBatch
from tests.simulation.broker import Broker, Place
from tests.simulation.counting import CountHistory

INPUT, OUTPUT, STATE = "input", "output", "state"


class Violation(AssertionError):
    """The system has done what it must never do."""


class Oracle:
    """Knows the input, hence all outputs and every state; is told by the broker what becomes visible.

    Args:
        partitions: of the input.
        exactly_once: a repeated output is a violation.
    """

    def __init__(self, partitions: int, exactly_once: bool) -> None:
        self._exactly_once = exactly_once
        self._histories = [CountHistory() for _ in range(partitions)]
        self._offsets: list[list[int]] = [[] for _ in range(partitions)]  # of the input's committed records
        self._ids: list[list[bytes]] = [[] for _ in range(partitions)]
        self._counts: list[list[dict[str, int]]] = [[{}] for _ in range(partitions)]  # before each, and after the last
        self._first_undecided = [0] * partitions
        self._committed = [0] * partitions
        self._expected: dict[bytes, bytes] = {}
        self.decided: dict[bytes, int] = {}
        self.violation: Violation | None = None
        self.checkpoints = 0

    def note_input(self, partition: int, offset: int, value: bytes) -> None:
        """Note a committed record of the input."""
        count = self._histories[partition].add(value)
        self._expected[value] = value + b"=" + str(count).encode()
        self._offsets[partition].append(offset)
        self._ids[partition].append(value)
        self._counts[partition].append(dict(self._histories[partition].counts))

    def counts_at(self, partition: int, position: int) -> dict[str, int]:
        """Return the counts that include exactly the records below a position."""
        return self._counts[partition][bisect_left(self._offsets[partition], position)]

    def violated(self, what: str) -> None:
        """Remember the first violation; the run ends with it, even where a caller catches the exception."""
        self.violation = self.violation or Violation(what)
        raise self.violation

    # ---- told by the job and the broker

    def check_state(self, batch: RecordBatch, counts: Mapping[str, int]) -> None:
        """A state includes exactly the records below its position."""
        expected = self.counts_at(batch.tp.partition, batch.first)
        if counts != expected:
            self.violated(f"{batch}: expected state {expected}, got {dict(counts)}")

    def visible(self, place: Place, key: bytes | None, value: bytes | None) -> None:
        topic, partition = place
        if topic == STATE and key == MARKER and value is not None:
            marker = msgspec.json.decode(value, type=Marker)
            self.checkpoints += 1
            if marker.position > self._committed[partition]:
                self.violated(
                    f"state of {partition} written at {marker.position}, expected no more than the committed offset "
                    f"{self._committed[partition]}"
                )
        if topic != OUTPUT or value is None:
            return
        id = value.split(b"=")[0]
        if self._expected.get(id) != value:
            self.violated(f"expected output {self._expected.get(id)!r}, got {value!r}")
        if self._exactly_once and id in self.decided:
            self.violated(f"{value!r} was decided twice")
        self.decided[id] = self.decided.get(id, 0) + 1

    def offset_committed(self, place: Place, offset: int) -> None:
        """A committed offset never passes an undecided record."""
        topic, partition = place
        if topic != INPUT:
            return
        ids, index = self._ids[partition], self._first_undecided[partition]
        while index < len(ids) and ids[index] in self.decided:
            index += 1
        self._first_undecided[partition] = index
        if index < len(ids) and self._offsets[partition][index] < offset:
            self.violated(f"{INPUT}[{partition}]: offset {offset} committed, {ids[index]!r} before it is not decided")
        if offset < self._committed[partition]:
            self.violated(f"{INPUT}[{partition}]: offset {offset} committed after {self._committed[partition]}")
        self._committed[partition] = offset

    # ---- at the end

    def is_all_decided(self) -> bool:
        return len(self.decided) == len(self._expected)

    def missing(self) -> list[bytes]:
        return sorted(self._expected.keys() - self.decided.keys())

    def check_end(self, broker: Broker) -> None:
        """What a read_committed reader finds is right, whole, and in each key's order; and so is what is checkpointed."""
        orders: dict[bytes, list[bytes]] = {}
        for (topic, partition), log in broker.logs.items():
            if log.open:
                self.violated(f"{topic}[{partition}]: a transaction is still open: {sorted(log.open)}")
            if topic != OUTPUT:
                continue
            for _, entry in log.read(0, len(log.entries))[0]:
                id = (entry.value or b"").split(b"=")[0]
                seen = orders.setdefault(entry.key or b"", [])
                if id not in seen:
                    seen.append(id)
                elif self._exactly_once:
                    self.violated(f"{entry.value!r} is read twice")
                if self._expected.get(id) != entry.value:
                    self.violated(f"expected {self._expected.get(id)!r}, read {entry.value!r}")
        read = {id for ids in orders.values() for id in ids}
        if read != self._expected.keys():
            self.violated(f"expected {len(self._expected)} outputs, read {len(read)}; missing {self.missing()[:5]}")
        for ids in self._ids:
            for key, seen in orders.items():
                mine = [id for id in ids if id.split(b"/")[0] == key]
                if mine and self._exactly_once and seen != mine:
                    self.violated(f"key {key!r}: expected the order {mine}, read {seen}")
        for partition in range(len(self._ids)):
            self._check_checkpoint(broker, partition)

    def _check_checkpoint(self, broker: Broker, partition: int) -> None:
        log = broker.logs[(STATE, partition)]
        rows: dict[str, int] = {}
        position = 0
        for _, entry in log.read(0, len(log.entries))[0]:
            key = entry.key or b""
            if key[:1] == ROW and entry.value is not None:
                rows[key[1:].decode()] = int(entry.value)
            elif key[:1] == ROW:
                rows.pop(key[1:].decode(), None)
            elif entry.value is not None:
                position = msgspec.json.decode(entry.value, type=Marker).position
        if rows != self.counts_at(partition, position):
            self.violated(
                f"checkpoint of {partition} at {position}: expected {self.counts_at(partition, position)}, got {rows}"
            )
