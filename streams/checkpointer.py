"""Checkpointer: brings the state tables' rows to Kafka, never ahead of the committed offsets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from faust.types import TP

from streams.errors import DeliveryFailed
from streams.metrics import Metrics
from streams.scoring import Device
from streams.state import Snapshot, StateTable
from streams.transport.state_writer import StateWriter
from streams.transport.transactions import GroupMember

logger = logging.getLogger(__name__)


class Checkpointer:
    """Writes checkpoints, one at a time.

    The order of a checkpoint: 1. copy the changed rows and the position, between two micro-batches; 2. wait until the
    committed offset has reached the position; 3. write rows and marker in one transaction, fenced by the generation.
    A checkpoint that cannot be written costs nothing but a longer replay: the next one carries every row.

    Args:
        tables: the state tables, by name for the metrics.
        committed: tells the committed offset of a partition; None where it is not ours.
        member: tells who we are in the group, now.
    """

    def __init__(
        self,
        tables: Mapping[str, StateTable[Any]],
        device: Device,
        writer: StateWriter,
        committed: Callable[[TP], int | None],
        member: Callable[[], GroupMember],
        metrics: Metrics,
    ) -> None:
        self._tables, self._device, self._writer = tables, device, writer
        self._committed, self._member, self._metrics = committed, member, metrics
        self._lock = asyncio.Lock()

    async def write(self, seconds_max: float) -> int:
        """Write a checkpoint of what changed and return how many rows; give up what is not committed in time."""
        deadline = time.monotonic() + seconds_max
        rows = 0
        async with self._lock:
            for name, table in self._tables.items():
                # One partition at a time: the device is held up for the copy of one, not of all.
                for number in await self._device.call(table.moved):
                    snapshot = await self._device.call(partial(table.snapshot, number))
                    if snapshot is not None:
                        rows += await self._write_one(name, table, snapshot, deadline)
        return rows

    async def _write_one(self, name: str, table: StateTable[Any], snapshot: Snapshot, deadline: float) -> int:
        tp = TP(table.source, snapshot.partition)
        try:
            await self._wait_until_committed(tp, snapshot.position, deadline)
            count = await asyncio.get_running_loop().run_in_executor(None, self._send, table, snapshot)
        except DeliveryFailed as exc:
            logger.warning("%s; the next checkpoint carries every row", exc)
            await self._device.call(lambda: table.not_written(snapshot))
            self._metrics.checkpoints.labels(name, "failed").inc()
            return 0
        self._metrics.checkpoints.labels(name, "written").inc()
        self._metrics.checkpoint_rows.labels(name).inc(count)
        return count

    async def _wait_until_committed(self, tp: TP, position: int, deadline: float) -> None:
        while True:
            offset = self._committed(tp)
            if offset is not None and offset >= position:
                return
            if time.monotonic() > deadline:
                raise DeliveryFailed(
                    f"{tp.topic}[{tp.partition}]: expected committed offset {position}, got {offset} in time"
                )
            await asyncio.sleep(0.02)

    def _send(self, table: StateTable[Any], snapshot: Snapshot) -> int:
        return self._writer.write(table.topic, snapshot.partition, snapshot.rows(), self._member(), snapshot.position)
