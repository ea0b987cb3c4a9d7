"""HangWatch: tells a call of librdkafka that will never return from one that takes its time.

Its send_offsets_to_transaction may lose the answer with the coordinator's connection, and then waits for it for ever,
whatever time-out it was given (librdkafka #5456). The settings of WAKING end most such waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LOOK_S = 1.0
# For a transactional client. While it waits for the group's coordinator it asks who that is only as one of its own connections
# comes or goes, and after a broker's death none may: the dead one leaves the cluster, and is not tried any more (#5511).
# Idle connections go after 4-5 s, and so wake it; the next record makes them anew, but the one to the transactions'
# coordinator comes back at once. No less: what waits for a slow broker's answer counts as idle, too, and would have to be
# asked again for ever. A broker that is gone is tried every second, not every ten.
WAKING = {"connections.max.idle.ms": 4_000, "reconnect.backoff.max.ms": 1_000}


class HangWatch:
    """Runs one thread's blocking calls, while others look.

    Args:
        seconds_max: what no call takes that will return, if a broker answers.
    """

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._began_at: float | None = None
        self._suspect: tuple[float, float] | None = (
            None  # when the call began, and when it was first seen over its time
        )

    def run(self, call: Callable[[], Result]) -> Result:
        """Return what `call` returns."""
        self._began_at = time.monotonic()
        try:
            return call()
        finally:
            self._began_at = None

    def look(self) -> bool:
        """Tell whether a call hangs: over its time now, and at a look LOOK_S ago, for once may be a pause of the process."""
        began_at, now = self._began_at, time.monotonic()
        if began_at is None or now - began_at <= self._seconds_max:
            self._suspect = None
        elif self._suspect is None or self._suspect[0] != began_at:
            self._suspect = began_at, now
        else:
            return now - self._suspect[1] >= LOOK_S
        return False
