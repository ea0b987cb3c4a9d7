"""WorkerProcess: the running process as its parts see it: Faust's consumer, the loop, and the failure that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from faust.types import TP

from streams.transport.consumer import Consumer
from streams.transport.ownership.group_member import GroupMember
from streams.transport.record_batch import RecordBatch


class WorkerProcess:
    """The process, as the parts of a worker see it.

    Args:
        name: client id in the group and transactional id; no other live process has it.
        consumer: returns Faust's consumer, once it exists.
        fail: called on the loop with the error that must stop the process, once.
        loop: the process's; it need not run yet.
    """

    def __init__(
        self,
        name: str,
        consumer: Callable[[], Consumer],
        fail: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name, self.consumer, self.loop = name, consumer, loop
        self._fail = fail
        self.failure: BaseException | None = None
        self.member: GroupMember | None = None  # this worker's identity in the group; None before the first assignment

    def stop_with(self, exc: BaseException) -> None:
        """Remember the error and stop the process. Uncommitted input is read again by the next owner."""
        if self.failure is None:
            self.failure = exc
            self._fail(exc)

    def stop_from_thread(self, exc: BaseException) -> None:
        """Do the same, from a thread other than the loop's."""
        self.loop.call_soon_threadsafe(self.stop_with, exc)

    def is_current(self, batch: RecordBatch) -> bool:
        """Tell whether a batch is of the present assignment."""
        return self.consumer().is_current(batch)

    def confirm(self, batch: RecordBatch) -> None:
        """Note that the broker holds every answer to a batch."""
        self.consumer().confirm(batch)

    def committed(self, tp: TP) -> int | None:
        """Return the committed offset of a partition; None where it is not ours."""
        return self.consumer().committed(tp)

    async def claim(self, offsets: Mapping[TP, int], metadata: str) -> bool:
        """Commit offsets with metadata that tells their owner; False where the group has moved on."""
        return await self.consumer().claim(offsets, metadata)

    def committed_by_transaction(self, offsets: Mapping[TP, int]) -> None:
        """Note the offsets that a transaction of outputs has committed."""
        self.consumer().committed_by_transaction(offsets)
