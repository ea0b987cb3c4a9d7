"""Latest items of each session, at the moment of each click.

Rules, all in event time:

- A click sees itself and those clicks of its session that were processed before it, are stamped no later and are still
  kept: a session keeps the items of its newest `length` clicks. An item of -1 keeps a session alive and takes no place.
- The watermark is the largest event_time processed. A session whose newest click is more than IDLE_MS behind it starts
  anew at its next click and is evicted. A click more than IDLE_MS behind it is answered alone and leaves nothing.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.features import kernels
from models.features.event_log import EventLog
from models.features.history import KeyedHistory, column, none_of
from models.features.keys import Rows

# Clicks kept of a session, for every model. A row of another length has another meaning: change the layout with it.
LENGTH = 20
IDLE_MS = 86_400_000
PAYLOAD_KIND = 3


def warm_up() -> None:
    """Compile, or read from the cache, all kernels that clicks need, so that no record waits for them."""
    history = SessionHistory()
    history.update(["session"], np.zeros(1, np.int64), np.ones(1, np.int64))
    history.load_many(history.snapshot(dirty_only=True))
    history.evict()


class SessionHistory(KeyedHistory):
    """Latest items of every session.

    Args:
        length: clicks kept of a session, T.
        idle_ms: silence, measured by the watermark, after which a session starts anew.
    """

    def __init__(self, length: int = LENGTH, idle_ms: int = IDLE_MS) -> None:
        assert length >= 1 and idle_ms > 0
        super().__init__(EventLog(np.int64, length), PAYLOAD_KIND, 1, -kernels.NEVER, idle_ms)
        self._length = length
        self._idle_ms = idle_ms

    def _floor(self) -> int:
        return kernels.NEVER  # a session that is not idle keeps its clicks, however old

    def update(
        self,
        sessions: Sequence[str],
        items: npt.ArrayLike,
        event_time: npt.NDArray[np.int64],
        is_retry: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Record clicks in the order given and return the items that each saw, itself last.

        Args:
            sessions: session ids, length B.
            items: int64[B], numbers >= 0 of items, -1 for none.
            event_time: int64[B], ms since the epoch.
            is_retry: bool[B], clicks given before: recorded only where the session no longer holds them. None: no click.

        Returns:
            int64[B, T], oldest first, padded with -1 on the left.
        """
        known = none_of(sessions) if is_retry is None else column(is_retry, np.bool_)
        numbers = column(items, np.int64)
        assert len(sessions) == len(numbers) == len(event_time) == len(known)
        return self._insert(self._rows(sessions), numbers, column(event_time, np.int64), known, kernels.NEVER)

    def _insert(
        self,
        rows: Rows,
        items: npt.NDArray[np.int64],
        event_time: npt.NDArray[np.int64],
        is_retry: npt.NDArray[np.bool_],
        floor: int,
    ) -> npt.NDArray[np.int64]:
        """Do `update` for rows, int64[B]; clicks stamped before `floor` are not seen."""
        log, out = self._log, np.empty((len(rows), self._length), np.int64)

        def step(begin: int) -> int:
            done, self._watermark = kernels.update_sessions(
                begin, rows, items, event_time, is_retry, log.meta, log.times, log.values, log.heap, log.dirty,
                self._watermark, self._idle_ms, floor, out,
            )  # fmt: skip
            return int(done)

        log.run(step, len(rows))
        return out
