"""Flow: what the consumer asks of its application."""

from __future__ import annotations

import time
from collections.abc import Sequence

from faust.types import TP

from streams.settings import Settings


class Flow:
    """Bounds of the consumer, and what to do around an assignment; as it stands, right for an ordinary Faust application.

    Attributes:
        settings: bounds on fetching and draining, and the guarantee: outputs of an ordinary application join no transaction.
    """

    settings = Settings(guarantee="at_least_once")

    def drain_deadline(self) -> float:
        """Return until when a drain that begins now may go on, monotonic."""
        return time.monotonic() + self.settings.drain_s_max

    async def take_over(self, partitions: Sequence[TP]) -> None:
        """Called with the batched partitions of a new assignment, before any is fetched."""

    async def drain(self, deadline: float) -> None:
        """Called before the last commit under an assignment; finish what has begun until `deadline`, monotonic."""

    async def drained(self, deadline: float) -> None:
        """Called after that commit."""
