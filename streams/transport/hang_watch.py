"""HangWatch: tells a call of librdkafka that will never return from one that takes its time.

Its send_offsets_to_transaction may lose the answer with the coordinator's connection, and then waits for it for ever,
whatever time-out it was given (librdkafka #5456).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class HangWatch:
    """Runs one thread's blocking calls, and is asked by another.

    Args:
        seconds_max: what no call takes that will return.
    """

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._began_at: float | None = None
        self._suspect: float | None = None

    def run(self, call: Callable[[], Result]) -> Result:
        """Return what `call` returns."""
        self._began_at = time.monotonic()
        try:
            return call()
        finally:
            self._began_at = None

    def hangs(self) -> bool:
        """Tell whether one call was over its time both now and when this was asked last: once may be a pause of the process."""
        began_at = self._began_at
        if began_at is not None and time.monotonic() - began_at <= self._seconds_max:
            began_at = None
        before, self._suspect = self._suspect, began_at
        return began_at is not None and began_at == before
