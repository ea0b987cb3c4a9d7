"""HangWatch: tells a call of librdkafka that never returns from a slow one.

send_offsets_to_transaction can lose its answer with the coordinator's connection, and then waits for ever, whichever
time-out it was given (librdkafka #5456). The settings of WAKING end most such waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LOOK_S = 1.0
# For a transactional client. While it waits for the group's coordinator, it looks for a new one only when one of its own
# connections opens or closes. After a broker's death none may: the broker leaves the cluster, and the client no longer
# connects to it (#5511). Idle connections close after 4-5 s, and so wake the client. The next record opens them again; the
# one to the transaction coordinator reopens at once. No shorter: a connection that waits for a slow broker's answer counts
# as idle too, and its request would be repeated for ever. A broker that is gone is tried every second, not every ten.
WAKING = {"connections.max.idle.ms": 4_000, "reconnect.backoff.max.ms": 1_000}


class HangWatch:
    """Runs the blocking calls of one thread; other threads look whether they hang.

    Args:
        seconds_max: longer than any call takes that returns, while a broker answers.
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
        """Tell whether a call hangs: it is overdue now and was LOOK_S ago. Overdue once may be a pause of the process."""
        began_at, now = self._began_at, time.monotonic()
        if began_at is None or now - began_at <= self._seconds_max:
            self._suspect = None
        elif self._suspect is None or self._suspect[0] != began_at:
            self._suspect = began_at, now
        else:
            return now - self._suspect[1] >= LOOK_S
        return False
