"""Device: the thread that owns models and feature state; micro-batches run one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Device:
    """The thread that owns the models and the feature state. Its methods are for the loop's thread.

    Args:
        initialise: called on the thread before anything else.
    """

    def __init__(self, initialise: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(1, "device", initialise)
        self._users: deque[Callable[[], None]] = deque()
        self.in_flight = 0

    def on_free(self, start_due: Callable[[], None]) -> None:
        """Have `start_due` called whenever there may be room, for all users in turn."""
        self._users.append(start_due)

    def _freed(self) -> None:
        self.in_flight -= 1
        self._users.rotate(-1)  # another user comes first each time, so that no topic starves another
        for start_due in tuple(self._users):
            start_due()

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run `work` in turn on the device thread and return its result."""
        future = asyncio.wrap_future(self.submit(work))
        # A caller that stops waiting does not stop the thread: the device is free when the work ends, not before.
        return await asyncio.shield(future)

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` in turn; then tell the users on the loop."""
        loop = asyncio.get_running_loop()
        self.in_flight += 1
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._freed))
        return future

    def close(self) -> None:
        """Finish the running work, drop the waiting work."""
        self._pool.shutdown(wait=True, cancel_futures=True)
