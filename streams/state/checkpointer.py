"""Checkpointer: brings the state tables' rows to Kafka, never ahead of the committed offsets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from faust.types import TP

from streams.engine.device import Device
from streams.engine.metrics import Metrics
from streams.errors import ClientHangs, DeliveryFailed
from streams.state.table import Snapshot, StateTable
from streams.state.writer import StateWriter
from streams.transport.ownership.group_member import GroupMember

logger = logging.getLogger(__name__)


class Checkpointer:
    """Writes checkpoints, one at a time.

    The order of a checkpoint: 1. copy the changed rows and the position, between two micro-batches; 2. wait until the
    committed offset has reached the position; 3. write rows and marker in one transaction, fenced by the generation.
    A checkpoint that cannot be written costs nothing but a longer replay: the next one carries every row.

    Args:
        tables: the state tables, by name for the metrics.
        committed: tells the committed offset of a partition; None where it is not ours.
        member: tells who we are in the group, now; None while partitions move, or where others have taken ours over.
    """

    def __init__(
        self,
        tables: Mapping[str, StateTable[Any]],
        device: Device,
        writer: StateWriter,
        committed: Callable[[TP], int | None],
        member: Callable[[], GroupMember | None],
        metrics: Metrics,
    ) -> None:
        self._tables, self._device, self._writer = tables, device, writer
        self._committed, self._member, self._metrics = committed, member, metrics
        self._lock = asyncio.Lock()
        self._pool = ThreadPoolExecutor(1, "checkpoints")  # one writer, also when its caller has stopped waiting

    async def write(self, seconds_max: float) -> int:
        """Write a checkpoint of what changed and return how many rows; give up what is not written in time.

        Raises:
            ClientHangs, NotAllowed: there will be no checkpoint any more.
        """
        if self._writer.hangs():
            raise ClientHangs(
                "checkpoints: expected the last one to be written or given up, the client hangs; "
                "the worker stops, and the next owner replays what is missing"
            )
        deadline = time.monotonic() + seconds_max
        rows = 0
        try:
            async with asyncio.timeout(seconds_max), self._lock:
                member = self._member()
                if member is None:
                    return 0
                for name, table in self._tables.items():
                    # One partition at a time: the device is held up for the copy of one, not of all.
                    for number in await self._device.call(partial(table.moved, member.generation)):
                        rows += await self._write_one(name, table, number, member, deadline)
        except TimeoutError:
            logger.warning("the checkpoint was not written within %.1f s; the next one goes on", seconds_max)
        return rows

    async def _write_one(
        self, name: str, table: StateTable[Any], number: int, member: GroupMember, deadline: float
    ) -> int:
        taken: list[Snapshot] = []
        written = False
        try:
            await self._device.call(lambda: taken.extend(filter(None, [table.snapshot(number, member.generation)])))
            if not taken:
                return 0
            (snapshot,) = taken
            await self._wait_until_committed(TP(table.source, number), snapshot.position, member)
            count = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._send, table, snapshot, member, deadline
            )
            written = True
        except DeliveryFailed as exc:
            logger.warning("%s; the next checkpoint carries every row", exc)
            return 0
        finally:
            if not written:
                # Behind the copy on the device thread, which is made even if its caller waits no more.
                self._device.submit(partial(self._take_back, table, taken))
            if taken:
                self._metrics.checkpoints.labels(name, "written" if written else "failed").inc()
        self._metrics.checkpoint_rows.labels(name).inc(count)
        return count

    async def _wait_until_committed(self, tp: TP, position: int, member: GroupMember) -> None:
        while (offset := self._committed(tp)) is None or offset < position:
            if self._member() != member:
                raise DeliveryFailed(
                    f"{tp.topic}[{tp.partition}]: expected commit {position}, got an assignment that commits no more"
                )
            await asyncio.sleep(0.02)

    @staticmethod
    def _take_back(table: StateTable[Any], taken: Sequence[Snapshot]) -> None:
        for snapshot in taken:
            table.snapshot_failed(snapshot)

    def _send(self, table: StateTable[Any], snapshot: Snapshot, member: GroupMember, deadline: float) -> int:
        rows = snapshot.rows()
        return self._writer.write(table.topic, snapshot.partition, rows, member, snapshot.position, deadline)

    def close(self) -> None:
        """Let a checkpoint that is being written end."""
        self._pool.shutdown(wait=True)
