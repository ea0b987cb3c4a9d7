"""Watchdog: which partitions stand still though there is something to do. No I/O; the clock is passed in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Partition = TypeVar("Partition", bound=Hashable)


class Watchdog(Generic[Partition]):
    """Remembers when each partition last moved.

    A partition stands still while it is behind and what it is observed with does not change: committed offset, records
    restored, whatever counts as progress. A partition that is not behind, or not observed, is not standing still.
    """

    def __init__(self) -> None:
        self._seen: dict[Partition, tuple[Hashable, float]] = {}

    def observe(self, now: float, behind: Mapping[Partition, Hashable]) -> dict[Partition, float]:
        """Return for how many seconds each partition has stood still.

        Args:
            now: monotonic seconds.
            behind: the partitions that have something to do, with what changes when they do it.
        """
        seen: dict[Partition, tuple[Hashable, float]] = {}
        for tp, progress in behind.items():
            before = self._seen.get(tp)
            seen[tp] = before if before is not None and before[0] == progress else (progress, now)
        self._seen = seen
        return {tp: now - since for tp, (_, since) in seen.items()}
