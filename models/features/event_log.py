"""One time-ordered log of events per row, all in one arena."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features import kernels
from models.features.keys import Rows

SLOTS_MIN = 1 << 12
ROWS_MIN = 1 << 8


class EventLog:
    """Events of every row: an int64 time and one value each, ascending in time, ties in order of arrival.

    A row grows by doubling: it moves to a larger block and its old one is handed to the next row of that size, so that
    memory never needs a compaction pause. A full row first drops what no feature can see: events not newer than the
    floor that the caller names, and events beyond its newest `events_per_key_max`.

    Args:
        value_dtype: dtype of the value beside each time; 8 bytes wide.
        events_per_key_max: the newest events of a row that count; older ones are as if they had never been.
    """

    def __init__(self, value_dtype: npt.DTypeLike, events_per_key_max: int) -> None:
        assert events_per_key_max >= 1 and np.dtype(value_dtype).itemsize == 8
        self.events_per_key_max = events_per_key_max
        self.times = np.empty(SLOTS_MIN, np.int64)
        self.values = np.empty(SLOTS_MIN, value_dtype)
        self.heap = np.full(1 + kernels.CAPACITY_CLASSES, -1, np.int64)
        self.heap[0] = 0
        self.meta = np.empty((0, 4), np.int64)
        self.dirty = np.empty(0, np.uint8)
        self.reserve_rows(ROWS_MIN)

    @property
    def newest(self) -> npt.NDArray[np.int64]:
        """Time of the newest event of each row, int64[R]; kernels.NEVER where a row is empty."""
        return self.meta[:, kernels.NEWEST]

    def reserve_rows(self, rows: int) -> None:
        """Make rows 0..rows-1 usable."""
        have = len(self.meta)
        if rows <= have:
            return
        size = max(rows, 2 * have)
        meta = np.zeros((size, 4), np.int64)
        meta[:, kernels.NEWEST] = kernels.NEVER
        meta[:have] = self.meta
        dirty = np.zeros(size, np.uint8)
        dirty[:have] = self.dirty
        self.meta, self.dirty = meta, dirty

    def grow(self) -> None:
        """Double the arena."""
        times = np.empty(2 * self.times.size, np.int64)
        values = np.empty(times.size, self.values.dtype)
        used = int(self.heap[0])
        times[:used] = self.times[:used]
        values[:used] = self.values[:used]
        self.times, self.values = times, values

    def run(self, step: Callable[[int], int], count: int) -> None:
        """Call `step(begin)`, which returns the records done, until it has done `count`; grow the arena where it stops."""
        done = step(0)
        while done < count:
            self.grow()
            done = step(done)

    def clear(self, rows: Rows) -> None:
        """Drop all events of `rows`."""
        kernels.free_rows(rows, self.meta, self.times, self.heap)
        self.dirty[rows] = 0

    def read(self, row: int, kept: int, floor: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Return times and values of `row` that count: newer than `floor` and than the row's newest less `kept`."""
        first, count = np.empty(1, np.int64), np.empty(1, np.int64)
        kernels.visible_slots(
            np.array([row]), self.meta, self.times, kept, floor, self.events_per_key_max, first, count
        )
        part = slice(int(first[0]), int(first[0] + count[0]))
        return self.times[part], self.values[part]

    def restore(self, row: int, times: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Replace the events of `row`."""
        while not kernels.restore_row(self.meta, row, times, values, self.times, self.values, self.heap):
            self.grow()
