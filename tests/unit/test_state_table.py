"""State tables: what a checkpoint carries, and what a restore takes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from faust.types import TP

from streams.contract.events import Headers
from streams.errors import StateCorrupt
from streams.state.replica import Replica
from streams.state.table import Marker, Snapshot, StateTable
from streams.transport.record_batch import RecordBatch

Rows = list[tuple[bytes, bytes | None]]


class Letters:
    """A history: how often each letter came. A space forgets all."""

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}
        self.watermarks: list[int] = []
        self._dirty: set[bytes] = set()

    def add(self, value: bytes) -> None:
        if value == b" ":
            self._dirty |= self.counts.keys()
            self.counts.clear()
        else:
            self._dirty.add(value)
            self.counts[value] = self.counts.get(value, 0) + 1

    def freeze(self, dirty_only: bool) -> Rows:
        keys = sorted(self._dirty if dirty_only else self.counts)
        self._dirty = set()
        return [(key, b"%d" % self.counts[key] if key in self.counts else None) for key in keys]

    def load_many(self, pairs: Mapping[bytes, bytes]) -> None:
        self.counts = {key: int(payload) for key, payload in pairs.items()}


class Logs:
    """A reader of two topics that are lists."""

    def __init__(self, source: bytes) -> None:
        self.state: Rows = []
        self.source = [bytes([letter]) for letter in source]
        self.replayed = 0

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        assert topic == "state"
        return {0: len(self.state)}

    def read(self, topic: str, partition: int, first: int, stop: int) -> Iterator[list[Any]]:
        entries: Rows = self.state if topic == "state" else [(b"", value) for value in self.source]
        for key, value in entries[first:stop]:
            self.replayed += topic == "source"
            headers = [("of", value)] if topic == "source" else None
            yield [
                SimpleNamespace(
                    key=lambda k=key: k, value=lambda v=value: v, timestamp=lambda: (1, 0), headers=lambda h=headers: h
                )
            ]


def replay(
    history: Letters, values: Sequence[bytes | None], timestamps: Sequence[int], headers: Sequence[Headers]
) -> None:
    assert headers == [[("of", value)] for value in values], "each record has its own headers"
    for value in values:
        history.add(value or b"")


def table(logs: Logs, layout: str = "letters/1", *at_hand: Callable[..., Replica]) -> StateTable[Letters]:
    return StateTable("state", "source", layout, Letters, replay, logs, *at_hand)  # type: ignore[arg-type]


def decide(table: StateTable[Letters], logs: Logs, first: int, stop: int, generation: int = 1) -> dict[bytes, int]:
    """Apply a batch; return the counts before it."""
    values: list[bytes | None] = [*logs.source[first:stop]]
    count = stop - first
    batch = RecordBatch(
        TP("source", 0),
        first,
        stop,
        list(range(first, stop)),
        [b""] * count,
        values,
        [0] * count,
        [[("of", value)] for value in values],
        generation,
        0.0,
    )
    history = table.at(batch)
    before = dict(history.counts)
    replay(history, values, batch.timestamps, batch.headers)
    table.advance(batch)
    return before


def snapshot(table: StateTable[Letters], generation: int = 1) -> Snapshot:
    found = table.snapshot(0, generation)
    assert found is not None
    return found


def test_a_restore_takes_the_checkpoint_and_replays_the_rest() -> None:
    """Rows up to the marker's position, the source from there to where the batch begins."""
    logs = Logs(b"abacab")
    first = table(logs)
    decide(first, logs, 0, 3)
    logs.state += snapshot(first).rows()
    assert decide(table(logs), logs, 5, 6) == {b"a": 3, b"b": 1, b"c": 1}
    assert logs.replayed == 2


def test_a_checkpoint_that_is_not_there_as_a_whole_is_not_used() -> None:
    """Rows behind the last marker belong to a checkpoint whose end cannot be read yet: they would count twice."""
    logs = Logs(b"abacab")
    first = table(logs)
    decide(first, logs, 0, 3)
    logs.state += snapshot(first).rows()
    decide(first, logs, 3, 5)
    logs.state += list(snapshot(first).rows())[:-1]
    assert decide(table(logs), logs, 5, 6) == {b"a": 3, b"b": 1, b"c": 1}


def test_rows_of_a_discarded_checkpoint_are_buried() -> None:
    """A checkpoint of another layout is passed over, and the next one tells that its rows are gone, read or not."""
    logs = Logs(b"ab")
    first = table(logs)
    decide(first, logs, 0, 2)
    logs.state += [*snapshot(first).rows(), (b"rz", b"1")]
    second = table(logs, layout="letters/2")
    logs.source = [b"c", b"d", b"e"]
    decide(second, logs, 2, 3)
    rows = list(snapshot(second).rows())
    assert {key for key, payload in rows if payload is None} == {b"ra", b"rb", b"rz"}
    assert dict(rows[3:-1]) == {b"rc": b"1", b"rd": b"1", b"re": b"1"}


def test_a_checkpoint_after_a_failed_one_is_whole() -> None:
    """It carries every row, and the end of those that the failed one was to tell of; the one after it only changes."""
    logs = Logs(b"ab cd")
    first = table(logs)
    decide(first, logs, 0, 2)
    logs.state += snapshot(first).rows()
    decide(first, logs, 2, 4)
    first.snapshot_failed(snapshot(first))
    assert first.moved(1) == [0]
    rows = list(snapshot(first).rows())[:-1]
    assert set(rows[:2]) == {(b"ra", None), (b"rb", None)} and rows[2:] == [(b"rc", b"1")]
    decide(first, logs, 4, 5)
    assert list(snapshot(first).rows())[:-1] == [(b"rd", b"1")]


def test_a_partition_in_use_is_not_copied() -> None:
    """While a batch is applied, or after one that failed midway, the rows are of no position."""
    logs = Logs(b"ab")
    first = table(logs)
    decide(first, logs, 0, 1)
    batch = RecordBatch(TP("source", 0), 1, 2, [1], [b""], [b"b"], [0], [()], 1, 0.0)
    first.at(batch)
    assert first.snapshot(0, 1) is None and first.moved(1) == []
    first.advance(batch)
    assert first.moved(1) == [0]


def test_a_state_of_an_earlier_generation_is_not_copied() -> None:
    """The partition may have been elsewhere meanwhile; a batch of the present generation shows where the state stands."""
    logs = Logs(b"abc")
    first = table(logs)
    decide(first, logs, 0, 1, generation=1)
    assert first.moved(2) == [] and first.snapshot(0, 2) is None
    decide(first, logs, 1, 2, generation=2)
    assert first.moved(2) == [0] and snapshot(first, 2).position == 2


def test_a_marker_that_cannot_be_read_stops_the_worker() -> None:
    """It says which topic to delete."""
    logs = Logs(b"a")
    logs.state = [(b"m", b"{")]
    with pytest.raises(StateCorrupt, match=r"state\[0\]: unreadable marker.*delete the topic"):
        decide(table(logs), logs, 0, 1)


def test_a_group_that_was_set_back_is_restored_from_the_input() -> None:
    """A checkpoint beyond where the batch begins knows too much."""
    logs = Logs(b"abab")
    first = table(logs)
    decide(first, logs, 0, 4)
    found = list(snapshot(first).rows())
    logs.state += found
    assert msgspec.json.decode(found[-1][1] or b"", type=Marker).position == 4
    assert decide(table(logs), logs, 2, 4) == {b"a": 1, b"b": 1}


def known_up_to(logs: Logs, offset: int) -> Callable[..., Replica]:
    """Return a copy of the checkpoint log up to an offset, as a file has one."""
    copy = Replica()
    part = logs.state[:offset]
    copy.apply([key for key, _ in part], [payload for _, payload in part], offset)
    return lambda number, end: copy


@pytest.mark.parametrize("layout", ["letters/1", "letters/2"])
@pytest.mark.parametrize("first", [2, 4, 5])
def test_a_restore_from_a_copy_and_the_tail_is_that_from_the_log(layout: str, first: int) -> None:
    """Wherever the copy ends: with tombstones, a torn checkpoint, another layout, a marker above where a batch begins."""
    logs = Logs(b"ab cab")
    writer = table(logs)
    for begin, end in ((0, 2), (2, 4), (4, 5)):
        decide(writer, logs, begin, end)
        logs.state += snapshot(writer).rows()
    decide(writer, logs, 5, 6)
    logs.state += [*list(snapshot(writer).rows())[:-1], (b"rz", None)]

    def outcome(restored: StateTable[Letters]) -> tuple[object, ...]:
        before = decide(restored, logs, first, first + 1)
        return before, sorted(snapshot(restored).rows(), key=repr)

    expected = outcome(table(logs, layout))
    for offset in range(len(logs.state) + 1):
        assert outcome(table(logs, layout, known_up_to(logs, offset))) == expected, offset
