"""MicroBatcher: the batches that wait for the device, and when a micro-batch is due. No I/O; the clock is passed in."""

from __future__ import annotations

from collections import deque

from streams.transport.record_batch import RecordBatch


class MicroBatcher:
    """Work-conserving: a free device takes the waiting records of all partitions, in order of arrival.

    Args:
        records_max: most records of a micro-batch; a larger single RecordBatch goes alone.
        wait_ms_max: how long, in ms, the oldest record may wait for more while the micro-batch is not full; 0: never.
    """

    def __init__(self, records_max: int, wait_ms_max: float = 0.0) -> None:
        self._records_max = records_max
        self._wait_s_max = wait_ms_max / 1000.0
        self._queue: deque[RecordBatch] = deque()
        self.records = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, batch: RecordBatch) -> None:
        """Queue one batch behind the others."""
        self._queue.append(batch)
        self.records += len(batch)

    def due_in(self, now: float) -> float | None:
        """Return the seconds until a micro-batch may start, 0.0 if one may now, None if nothing waits."""
        if not self._queue:
            return None
        if self.records >= self._records_max:
            return 0.0
        return max(0.0, self._queue[0].fetched_at + self._wait_s_max - now)

    def waited(self, now: float) -> float:
        """Return the seconds since the oldest record was fetched, 0.0 if nothing waits."""
        return now - self._queue[0].fetched_at if self._queue else 0.0

    def take(self) -> list[RecordBatch]:
        """Remove and return the next micro-batch; empty if nothing waits."""
        taken: list[RecordBatch] = []
        count = 0
        while self._queue and (not taken or count + len(self._queue[0]) <= self._records_max):
            batch = self._queue.popleft()
            taken.append(batch)
            count += len(batch)
        self.records -= count
        return taken

    def clear(self) -> int:
        """Drop what waits, which is read again; return the number of records."""
        count, self.records = self.records, 0
        self._queue.clear()
        return count
