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
    caller's floor, and events beyond its newest `events_per_key_max`.

    Args:
        value_dtype: dtype of the value beside each time; 8 bytes wide.
        events_per_key_max: the newest events of a row that count; older ones have no effect.
    """

    def __init__(self, value_dtype: npt.DTypeLike, events_per_key_max: int) -> None:
        assert events_per_key_max >= 1 and np.dtype(value_dtype).itemsize == 8
        self.events_per_key_max = events_per_key_max
        self.times = np.empty(SLOTS_MIN, np.int64)
        self.values = np.empty(SLOTS_MIN, value_dtype)
        self.heap = np.full(2 + kernels.CAPACITY_CLASSES, -1, np.int64)
        self.heap[0] = 0
        self.meta = np.empty((0, 4), np.int64)
        self.dirty = np.empty(0, np.uint8)  # touched since the last snapshot
        self.told = np.empty(0, np.uint8)  # a snapshot holds the row, so that a later one must hold its eviction
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
        self.meta = meta
        self.dirty = np.concatenate((self.dirty, np.zeros(size - have, np.uint8)))
        self.told = np.concatenate((self.told, np.zeros(size - have, np.uint8)))

    def grow(self) -> None:
        """Double the arena."""
        times = np.empty(2 * self.times.size, np.int64)
        values = np.empty(times.size, self.values.dtype)
        used = int(self.heap[0])
        times[:used] = self.times[:used]
        values[:used] = self.values[:used]
        self.times, self.values = times, values

    def run(self, step: Callable[[int], int], count: int) -> None:
        """Call `step(begin)`, which returns the records done, until it has done `count`; grow the arena in between."""
        done = step(0)
        while done < count:
            self.grow()
            done = step(done)

    def clear(self, rows: Rows) -> None:
        """Drop all events of `rows`."""
        kernels.free_rows(rows, self.meta, self.times, self.heap)
        self.dirty[rows] = 0
        self.told[rows] = 0

    def visible(self, rows: Rows, kept: int, floor: int) -> tuple[Rows, Rows]:
        """Return the first slot and the number of the events of `rows` that count.

        Args:
            rows: int64[R].
            kept: events not newer than their row's newest less `kept` do not count.
            floor: events not newer than `floor` do not count.
        """
        first, count = np.empty_like(rows), np.empty_like(rows)
        kernels.visible_slots(rows, self.meta, self.times, kept, floor, self.events_per_key_max, first, count)
        return first, count

    def restore(
        self,
        rows: Rows,
        ends: Rows,
        newest: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        values: npt.NDArray[Any],
    ) -> None:
        """Replace the events of `rows`, which are distinct: row k gets those from ends[k - 1] to ends[k]."""
        self.run(
            lambda begin: int(
                kernels.restore_rows(
                    begin, rows, ends, newest, times, values, self.meta, self.times, self.values, self.heap
                )
            ),
            len(rows),
        )
