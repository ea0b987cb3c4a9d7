"""History of clicks, one partition at a time: the items of each session, and the followers of each item.

A model's vocabulary is closed, a catalogue is not. An item that the model has no vector for has still been clicked after
another: a session on that other item may be recommended the new one. Which items are new depends on the model that asks.
The state does not: it holds items by the number of their id (`items`). A new model takes it over, and answers as if it had
been there from the first click.

- A session keeps its newest LENGTH clicks, on items of any kind; a model sees those of them that it knows (`sessions`).
- A click may be answered with the new items that followed its own item directly, in other sessions of its partition,
  within FOLLOWED_MS (`followers`): those that the session itself has not seen. An item that is clicked for the first
  time has no followers, known to the model or not.
- The share of a new item among the followers is its probability, held down by PRIOR clicks that are never seen.
- An item is new in its own partition only, until the next training gives it a vector.
- Every record sees the clicks before it and no others, however records are batched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.features.followers import FOLLOWERS, HOUR_MS, ItemFollowers
from models.features.history import HistoryGroup, KeyedHistory, none_of
from models.features.sessions import LENGTH, SessionHistory

# One click of one is no certainty: a share counts as if so many more clicks had gone to other items.
PRIOR = 5.0

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class NewItems:
    """New items that each record of a batch may be recommended.

    Attributes:
        ids: For each record, ids of the new items that followed its item, the likeliest first.
        shares: Their probabilities in (0, 1).
    """

    def __init__(self, ids: list[list[str]], shares: list[list[float]]) -> None:
        self.ids, self.shares = ids, shares

    def extend(self, others: NewItems) -> None:
        """Add the records of another batch."""
        self.ids += others.ids
        self.shares += others.shares

    def without(self, records: Container[int]) -> NewItems:
        """Return all records but those at the places given."""
        kept = [place for place in range(len(self.ids)) if place not in records]
        return NewItems([self.ids[place] for place in kept], [self.shares[place] for place in kept])


class Trails(NamedTuple):
    """What each of B clicks saw, in numbers of items, oldest first, padded with -1 on the left.

    Attributes:
        sessions: int64[B, T] items of its session, its own last.
        followers: int64[B, F] items that followed its own item in other sessions or this one.
    """

    sessions: Int64
    followers: Int64


class ClickHistory(HistoryGroup):
    """Sessions and what followed each item, kept and restored as one.

    Args:
        length: Clicks kept of a session (T), >= 2.
        others: Further histories of the same records.
    """

    def __init__(self, length: int = LENGTH, *others: KeyedHistory) -> None:
        assert length >= 2, "a click follows the one before it"
        self._sessions = SessionHistory(length)
        self._followers = ItemFollowers()
        self._length = length
        super().__init__(self._sessions, self._followers, *others)

    def update(
        self, sessions: Sequence[str], items: Sequence[str], event_time: Int64, is_retry: Bool | None = None
    ) -> Trails:
        """Record clicks in the order given.

        Args:
            sessions: Session ids, length B.
            items: Item ids, length B.
            event_time: int64[B], ms since the epoch.
            is_retry: bool[B], clicks given before: as for `SessionHistory.update`, and following no item. None: no click.

        Returns:
            What each click saw.
        """
        is_retry = none_of(items) if is_retry is None else is_retry
        watermark, count = self._sessions.watermark, len(items)
        hours = np.maximum.accumulate(np.maximum(event_time, watermark)) // HOUR_MS
        turns = np.flatnonzero(np.diff(hours, prepend=watermark // HOUR_MS)).tolist()
        trails = Trails(np.empty((count, self._length), np.int64), np.empty((count, FOLLOWERS), np.int64))
        self._followers.begin()
        for begin, end in pairwise(sorted({0, *turns, count})):
            self._followers.expire(int(hours[begin]))
            part = slice(begin, end)
            rows, numbers = self._followers.find(items[part])
            seen = self._sessions.update(sessions[part], numbers, event_time[part], is_retry[part])
            trails.sessions[part] = seen
            trails.followers[part] = self._followers.follow(
                items[part], rows, numbers, seen[:, -2], event_time[part], is_retry[part]
            )
            self._followers.watermark = self._sessions.watermark
        return trails

    def new_items(self, trails: Trails, known: Bool) -> NewItems:
        """Return the new items that each click of the last update may be recommended, none of its own session.

        Args:
            trails: Of the last update: ids of earlier ones may be forgotten.
            known: bool[B, F], True where the asking model knows the follower; any value where there is no follower.
        """
        ids: list[list[str]] = [[] for _ in known]
        shares: list[list[float]] = [[] for _ in known]
        followers = trails.followers
        asked = (followers >= 0) & ~known
        for row in np.flatnonzero(asked.any(axis=1)).tolist():
            seen = set(trails.sessions[row].tolist())
            counts = Counter(number for number in followers[row, asked[row]].tolist() if number not in seen)
            total = PRIOR + int(np.count_nonzero(followers[row] >= 0))
            for number, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
                name = self._followers.name(number)
                if name is not None:  # a row without a click of this update may hold any number
                    ids[row].append(name)
                    shares[row].append(count / total)
        return NewItems(ids, shares)
