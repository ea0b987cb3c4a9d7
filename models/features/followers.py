"""The items clicked after each item, and their ids.

- An item is held from its first click until the watermark enters an hour that begins more than FOLLOWED_MS after its
  newest click. At most ITEMS_MAX items are held: beyond, a click on an id that is not held leaves no trace.
- A held item keeps the newest FOLLOWERS held items that were clicked directly after it in a session. They are seen for
  FOLLOWED_MS, to the hour in which the watermark stands.
- A click that comes again follows nothing.

The state is a function of the clicks given: batches and snapshots do not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt

from models.features import kernels
from models.features.history import none_of
from models.features.items import number_of
from models.features.keys import Rows
from models.features.sessions import SessionHistory

FOLLOWERS = 20
HOUR_MS = 3_600_000
FOLLOWED_MS = 7 * 24 * HOUR_MS
# Bounds the memory against ids that are no items (a fault upstream, an attack): so many take 0.16 GB a partition.
ITEMS_MAX = 250_000
NUMBERS_MIN = 256

Int64 = npt.NDArray[np.int64]


class ItemFollowers(SessionHistory):
    """The latest followers of every item, by its id: an item's row is a session whose clicks are its followers."""

    def __init__(self) -> None:
        super().__init__(FOLLOWERS, FOLLOWED_MS + HOUR_MS)  # no held item is as old
        self._number_of_row = np.zeros(NUMBERS_MIN, np.int64)
        self._row_of_number: dict[int, int] = {}
        self._floor_ms = kernels.NEVER  # by the hour in which the watermark stands
        self._untold: list[str] = []  # evicted since the last snapshot, held by an earlier one
        self._evicted: dict[int, str] = {}  # by the last update, whose results may name them

    def name(self, number: int) -> str | None:
        """Return the id of an item that the last update has returned; None for another."""
        row = self._row_of_number.get(number)
        return self._evicted.get(number) if row is None else self._index.keys_of(np.array([row]))[0]

    def begin(self) -> None:
        """Begin an update: forget the names of what the last one evicted."""
        self._evicted.clear()

    def expire(self, hour: int) -> None:
        """Forget the items that expire once the watermark is in this hour, counted from the epoch."""
        floor = hour * HOUR_MS - FOLLOWED_MS
        if floor != self._floor_ms:
            self._floor_ms = floor
            self._untold += self._evict_before(floor)

    def find(self, ids: Sequence[str]) -> tuple[Rows, Int64]:
        """Return the row of each item, int64[B], -1 where it is not held, and its number, int64[B]."""
        rows = self._index.find(ids)
        numbers = self._number_of_row[rows]
        strangers = np.flatnonzero(rows < 0)
        numbers[strangers] = [number_of(ids[place]) for place in strangers.tolist()]
        return rows, numbers

    def follow(
        self,
        ids: Sequence[str],
        rows: Rows,
        numbers: Int64,
        before: Int64,
        event_time: Int64,
        is_retry: npt.NDArray[np.bool_],
    ) -> Int64:
        """Record clicks in the order given, of one hour of the watermark; return what followed their items before.

        Args:
            ids: item ids, length B.
            rows: as `find` gave them; those of items held from now on are filled in.
            numbers: as `find` gave them.
            before: int64[B], the item directly before each click in its session, -1 for none.
            event_time: int64[B], ms since the epoch.
            is_retry: bool[B], clicks given before.

        Returns:
            int64[B, FOLLOWERS] numbers, the newest last, padded with -1 on the left.
        """
        followed = np.fromiter(map(self._row_of_number.get, before.tolist(), repeat(-1)), np.int64, len(before))
        for place in np.flatnonzero((rows < 0) | ((followed < 0) & (before >= 0))).tolist():
            followed[place] = self._row_of_number.get(int(before[place]), -1)
            if rows[place] < 0:
                rows[place] = self._hold(ids[place], int(numbers[place]), bool(event_time[place] >= self._floor_ms))
        self._log.reserve_rows(self._index.row_count)
        followed[is_retry | (rows < 0)] = -1
        # Two steps a click: it follows the item before, then its own item is looked at.
        steps = np.column_stack((followed, rows)).ravel()
        items = np.column_stack((numbers, np.full(len(numbers), -1))).ravel()
        taken = steps >= 0
        times = np.repeat(event_time, 2)[taken]
        seen = self._insert(steps[taken], items[taken], times, none_of(times), self._floor_ms)
        out = np.full((len(rows), FOLLOWERS), -1)
        out[rows >= 0] = seen[np.flatnonzero(taken) % 2 == 1]
        return out

    def _hold(self, name: str, number: int, is_recent: bool) -> int:
        row = self._row_of_number.get(number, -1)
        if row < 0 and is_recent and len(self) < ITEMS_MAX:
            row = self._index.row(name)
            self._number(name, number, row)
        return row

    def _number(self, name: str, number: int, row: int) -> None:
        if row >= len(self._number_of_row):
            self._number_of_row = np.concatenate((self._number_of_row, np.zeros(row + 1, np.int64)))
        self._number_of_row[row], self._row_of_number[number] = number, row

    def evict(self) -> list[str]:
        """Return the forgotten items that a snapshot holds. One of them may be held anew: the next snapshot has its row."""
        untold, self._untold = self._untold, []
        return untold + super().evict()

    def _forget(self, rows: Rows) -> None:
        names = self._index.keys_of(rows)
        for name, number in zip(names, self._number_of_row[rows].tolist(), strict=True):
            self._row_of_number.pop(number, None)
            self._evicted[number] = name
        super()._forget(rows)

    def load_distinct(self, keys: Sequence[bytes], rows_of_keys: Sequence[bytes | None]) -> None:
        """Do `KeyedHistory.load_distinct`."""
        super().load_distinct(keys, rows_of_keys)
        for name, row in zip(self.keys(), self._index.held_rows.tolist(), strict=True):
            self._number(name, number_of(name), row)
