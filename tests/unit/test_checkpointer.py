"""Checkpoints: given up in time, taken back as a whole, never for an assignment that has passed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.engine.device import Device
from streams.engine.metrics import Metrics
from streams.errors import ClientHangs, DeliveryFailed
from streams.state.checkpointer import Checkpointer
from streams.transport.ownership.group_member import GroupMember

MEMBER = GroupMember("group", 1, "member", None)


class Table:
    """A table with one partition, which is copied at position 5."""

    source, topic = "source", "state"

    def __init__(self) -> None:
        self.taken_back: list[Any] = []
        self.copied = 0

    def moved(self, generation: int) -> list[int]:
        return [0]

    def snapshot(self, number: int, generation: int) -> Any:
        self.copied += 1
        return SimpleNamespace(partition=number, position=5, rows=list)

    def snapshot_failed(self, snapshot: Any) -> None:
        self.taken_back.append(snapshot)


class Writer:
    """Writes at once, or raises."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.written: list[tuple[Any, ...]] = []
        self._failure, self.hanging = failure, False

    def hangs(self) -> bool:
        return self.hanging

    def write(self, *args: Any) -> int:
        if self._failure is not None:
            raise self._failure
        self.written.append(args)
        return 3


def run(main: Callable[[Device], Coroutine[Any, Any, None]]) -> None:
    async def with_device() -> None:
        device = Device(lambda: None)
        await main(device)
        await device.call(lambda: None)
        device.close()

    asyncio.run(asyncio.wait_for(with_device(), 10))


def checkpointer(
    table: Table,
    device: Device,
    writer: Writer,
    committed: Callable[[TP], int | None],
    member: Callable[[], GroupMember | None],
) -> Checkpointer:
    return Checkpointer({"table": table}, device, writer, committed, member, Metrics())  # type: ignore[arg-type, dict-item]


def test_a_checkpoint_is_written_once_its_position_is_committed() -> None:
    """With the position and the member under which the rows were copied."""
    table, writer, offsets = Table(), Writer(), iter([None, 4, 5])

    async def main(device: Device) -> None:
        assert await checkpointer(table, device, writer, lambda tp: next(offsets), lambda: MEMBER).write(5.0) == 3

    run(main)
    assert [args[3:5] for args in writer.written] == [(MEMBER, 5)]
    assert table.taken_back == []


def test_a_failed_write_takes_the_copy_back() -> None:
    """The next checkpoint is to carry every row."""
    table = Table()

    async def main(device: Device) -> None:
        writer = Writer(DeliveryFailed("on purpose"))
        assert await checkpointer(table, device, writer, lambda tp: 5, lambda: MEMBER).write(5.0) == 0

    run(main)
    assert len(table.taken_back) == 1


def test_a_new_assignment_gives_the_checkpoint_up() -> None:
    """The commit that it waits for may never come: others decide."""
    table, writer = Table(), Writer()
    members = iter([MEMBER, GroupMember("group", 2, "member", None), *[MEMBER] * 10_000])

    async def main(device: Device) -> None:
        began = time.monotonic()
        assert await checkpointer(table, device, writer, lambda tp: 4, lambda: next(members)).write(9.0) == 0
        assert time.monotonic() - began < 8.0

    run(main)
    assert writer.written == [] and len(table.taken_back) == 1


def test_nothing_is_copied_without_an_assignment() -> None:
    """A copy makes rows count as written."""
    table = Table()

    async def main(device: Device) -> None:
        assert await checkpointer(table, device, Writer(), lambda tp: 5, lambda: None).write(5.0) == 0

    run(main)
    assert table.copied == 0


def test_a_copy_that_comes_too_late_is_taken_back() -> None:
    """Time runs out while the device is busy: the copy is made all the same, and no later checkpoint would write its rows."""
    table, go_on = Table(), threading.Event()
    snapshot = table.snapshot

    async def main(device: Device) -> None:
        table.snapshot = lambda number, generation: go_on.wait() and snapshot(number, generation)  # type: ignore[method-assign]
        began = time.monotonic()
        assert await checkpointer(table, device, Writer(), lambda tp: 5, lambda: MEMBER).write(0.05) == 0
        assert time.monotonic() - began < 5.0
        go_on.set()

    run(main)
    assert (table.copied, len(table.taken_back)) == (1, 1)


def test_time_bounds_the_wait_for_another_checkpoint() -> None:
    """The one at a hand-over does not wait for one that hangs longer than it was given."""
    table = Table()

    async def main(device: Device) -> None:
        one = checkpointer(table, device, Writer(), lambda tp: 4, lambda: MEMBER)
        first = asyncio.ensure_future(one.write(1.0))
        await asyncio.sleep(0.01)
        began = time.monotonic()
        assert await one.write(0.05) == 0
        assert not first.done() and time.monotonic() - began < 0.9
        assert await first == 0

    run(main)


def test_a_writer_that_hangs_is_told_of() -> None:
    """Its thread is the only one, and cannot be ended: nothing would be written any more, without a sign of it."""
    table, writer = Table(), Writer()

    async def main(device: Device) -> None:
        each = checkpointer(table, device, writer, lambda tp: 5, lambda: MEMBER)
        assert await each.write(5.0) == 3
        writer.hanging = True
        with pytest.raises(ClientHangs, match="hangs"):
            await each.write(5.0)

    run(main)
