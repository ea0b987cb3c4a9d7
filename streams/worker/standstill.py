"""Standstill: reports partitions that make no progress though records wait, and in the end stops the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from faust.types import TP

from streams.errors import KafkaUnavailable, Standstill, TopicChanged
from streams.worker.assembly import Parts
from streams.worker.process import WorkerProcess

Partition = TypeVar("Partition", bound=Hashable)

WATCH_S = 2.0
# Longer than a broker's restart of a second or two, shorter than an operator's patience: /ready says so.
STANDSTILL_S = 10.0


class Watchdog(Generic[Partition]):
    """Remembers when each partition last moved. No I/O; the clock is passed in.

    A partition stands still while it is behind and its progress (committed offset, records restored) does not change. A
    partition that is not behind, or not observed, does not stand still.
    """

    def __init__(self) -> None:
        self._seen: dict[Partition, tuple[Hashable, float]] = {}

    def observe(self, now: float, behind: Mapping[Partition, Hashable]) -> dict[Partition, float]:
        """Return for how many seconds each partition has stood still.

        Args:
            now: monotonic seconds.
            behind: the partitions with waiting records, and their progress: any value that changes with it.
        """
        seen: dict[Partition, tuple[Hashable, float]] = {}
        for tp, progress in behind.items():
            before = self._seen.get(tp)
            seen[tp] = before if before is not None and before[0] == progress else (progress, now)
        self._seen = seen
        return {tp: now - since for tp, (_, since) in seen.items()}


class StandstillWatch:
    """Looks for partitions that stand still, and for inputs that were given more partitions.

    Where aiokafka or a broker silently stops to deliver, only the log's end shows it: the watch asks the broker for it.

    Args:
        parts: of the worker.
        process: stopped with the first failure.
        stall_s_max: how long a partition may stand still before the worker stops.
    """

    def __init__(self, parts: Parts, process: WorkerProcess, stall_s_max: float) -> None:
        self._parts, self._process, self._stall_s_max = parts, process, stall_s_max
        self.reason: str | None = None

    async def run(self) -> None:
        """Look every WATCH_S until cancelled.

        Raises:
            TopicChanged: an input topic has more partitions than at the start.
        """
        watchdog: Watchdog[TP] = Watchdog()
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._process.loop.run_in_executor(None, self._check_partitions)
                behind = await self._behind()
            except KafkaUnavailable as exc:
                self.reason = str(exc)  # clients reconnect by themselves; meanwhile nothing is decided
                continue
            still = watchdog.observe(time.monotonic(), behind)
            tp, seconds = max(still.items(), key=lambda pair: pair[1], default=(None, 0.0))
            what = f"{tp and tp.topic}[{tp and tp.partition}]: no progress for {seconds:.0f} s, though records wait"
            self.reason = what if seconds > STANDSTILL_S else None
            if seconds > self._stall_s_max:
                self._process.stop_with(Standstill(f"{what}; the worker stops to begin anew"))

    def _check_partitions(self) -> None:
        counts = self._parts.partitions
        found = self._parts.producer.partition_counts(list(counts))
        for topic, count in counts.items():
            if found.get(topic, 0) > count:
                raise TopicChanged(
                    f"{topic}: expected {count} partitions, as at the start, found {found[topic]}; "
                    "the worker stops to begin anew with all of them"
                )

    async def _behind(self) -> dict[TP, tuple[int, int]]:
        run, reader = self._process.loop.run_in_executor, self._parts.ends_reader
        positions = self._process.consumer().committed_positions()
        restored = sum(table.restored_records for table in self._parts.tables.values())
        behind = {}
        for topic in sorted({tp.topic for tp in positions}):
            numbers = sorted(tp.partition for tp in positions if tp.topic == topic)
            ends = await run(None, reader.ends, topic, numbers)
            short = [number for number in numbers if positions[TP(topic, number)] < ends[number]]
            if not short:
                continue
            # Expired records do not count: a quiet partition may hold no record above the committed offset.
            begins = await run(None, reader.begins, topic, short)
            for number in short:
                if begins[number] < ends[number]:
                    behind[TP(topic, number)] = (positions[TP(topic, number)], restored)
        return behind
