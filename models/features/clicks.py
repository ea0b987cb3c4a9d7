"""What clicks leave behind, one partition at a time: each session's items, and items that the model has never seen.

A model's vocabulary is closed, a catalogue is not. A click on an unknown item is kept under a number that follows from
its id, beside the known item that the session was on before (its anchor). Whoever is on that anchor later may be
recommended the new item: it has no vector, but it has been chosen from here.

- Numbers [0, N) are the model's items, others are new ones. Two new ids with one number (about one pair in two
  thousand million) are taken for the one that sorts first.
- An anchor keeps its newest FOLLOWERS clicks, known and new ones, for FOLLOWED_MS; the share of a new item among them
  is its probability, held down by PRIOR clicks that are never seen. Memory is bounded by the vocabulary and
  NEW_ITEMS_MAX; ids of new items are forgotten once nobody has clicked them for as long.
- A new item is known in its own partition only, and only from anchors that have led to it: its first click in a session
  without any known item teaches nothing. The next training gives it a vector.
- Every record sees the clicks before it and no others, however records are batched.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

from models.features.history import GroupSnapshot, HistoryGroup, KeyedHistory, Pairs, none_of
from models.features.sessions import SessionHistory

FOLLOWERS = 20
FOLLOWED_MS = 7 * 86_400_000
# A new item clicked once of once is no certainty: as if so many clicks had gone elsewhere.
PRIOR = 5.0
NUMBERS = 2**31
# Ids that are no items, a fault upstream or an attack, must not fill the memory: beyond, new ids are not learned.
NEW_ITEMS_MAX = 100_000

Int32 = npt.NDArray[np.int32]


class NewItems:
    """New items that each record of a batch may be recommended.

    Attributes:
        ids: For each record, ids of the new items that followed its anchor, the likeliest first.
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


class ClickHistory(HistoryGroup):
    """Sessions, followers of anchors, and ids of new items, kept and restored as one.

    Args:
        items: Size of the model's vocabulary (N).
        length: Items kept of a session (T).
        others: Further histories of the same records.
    """

    def __init__(self, items: int, length: int = 20, *others: KeyedHistory) -> None:
        self._known = items
        self._sessions = SessionHistory(length)
        self._followers = SessionHistory(FOLLOWERS, FOLLOWED_MS)
        self._names = SessionHistory(1, FOLLOWED_MS)
        self._name: dict[int, str] = {}
        super().__init__(self._sessions, self._followers, self._names, *others)

    def update(
        self,
        sessions: Sequence[str],
        items: Int32,
        ids: Sequence[str],
        event_time: npt.NDArray[np.int64],
        again: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Int32, NewItems]:
        """Record clicks in the order given.

        Args:
            sessions: Session ids, length B.
            items: int32[B] item indices, -1 for an item unknown to the model.
            ids: Item ids, length B.
            event_time: int64[B], ms since the epoch.
            again: bool[B], clicks given before: as for `SessionHistory.update`, and no follower of their anchor. None:
                no one.

        Returns:
            int32[B, T] known items that each click saw, its own last, oldest first, -1 elsewhere; and the new items
            that may be recommended with it, none of its own session.
        """
        again = none_of(items) if again is None else again
        unknown = np.flatnonzero(items < 0)
        numbers = items.copy()
        numbers[unknown] = [self._number(ids[place]) for place in unknown.tolist()]
        seen = self._sessions.update(sessions, numbers, event_time, again)
        names = [ids[place] for place in unknown.tolist()]
        self._learn(names, numbers[unknown], event_time[unknown])
        anchors = np.where(seen < self._known, seen, -1)
        before, now = latest(anchors[:, :-1]), latest(anchors)
        # Two steps a record: its click follows the anchor before, then its own anchor is asked; -1 only asks.
        keys = [str(anchor) for pair in zip(before.tolist(), now.tolist(), strict=True) for anchor in pair]
        steps = np.column_stack([np.where((before >= 0) & ~again, numbers, -1), np.full(len(items), -1)]).ravel()
        followers = self._followers.update(keys, steps.astype(np.int32), np.repeat(event_time, 2))[1::2]
        followers[now < 0] = -1
        self._followers.watermark = self._names.watermark = self._sessions.watermark
        return anchors, self._new_items(followers, seen)

    def _new_items(self, followers: Int32, seen: Int32) -> NewItems:
        ids: list[list[str]] = [[] for _ in followers]
        shares: list[list[float]] = [[] for _ in followers]
        rows = np.flatnonzero((followers >= self._known).any(axis=1))
        if len(rows):
            for row in rows.tolist():
                new = followers[row][(followers[row] >= self._known) & ~np.isin(followers[row], seen[row])]
                numbers, counts = np.unique(new, return_counts=True)
                total = PRIOR + np.count_nonzero(followers[row] >= 0)
                for place in np.argsort(-counts, kind="stable").tolist():
                    if (number := int(numbers[place])) in self._name:
                        ids[row].append(self._name[number])
                        shares[row].append(float(counts[place] / total))
        return NewItems(ids, shares)

    def _number(self, item: str) -> int:
        return self._known + crc32(item.encode()) % (NUMBERS - self._known)

    def _name_again(self) -> None:
        self._name = {self._number(name): name for name in sorted(self._names.keys(), reverse=True)}

    def _learn(self, names: list[str], numbers: Int32, event_time: npt.NDArray[np.int64]) -> None:
        room = np.array([self._names.holds(name) or len(self._names) < NEW_ITEMS_MAX for name in names], bool)
        self._names.update(
            [name for name, fits in zip(names, room, strict=True) if fits], numbers[room], event_time[room]
        )
        for number, name, fits in zip(numbers.tolist(), names, room, strict=True):
            if fits:
                self._name[number] = min(name, self._name.get(number, name))

    def freeze(self, dirty_only: bool) -> GroupSnapshot:
        """Return the rows of all parts, as `KeyedHistory.freeze` does of one."""
        frozen = super().freeze(dirty_only)
        self._name_again()  # evicted names leave
        return frozen

    def load_many(self, pairs: Pairs) -> None:
        """Put rows of snapshots in place, as `KeyedHistory.load_many` does.

        Raises:
            StateError: a payload is damaged, or of another version or kind.
        """
        super().load_many(pairs)
        self._name_again()


def latest(items: Int32) -> Int32:
    """Return int32[B]: the rightmost item >= 0 of each row, -1 where there is none."""
    known = items >= 0
    place = items.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return np.where(known.any(axis=1), items[np.arange(len(items)), place], -1).astype(np.int32)
