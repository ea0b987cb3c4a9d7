"""What clicks leave behind belongs to no model: a new recommender answers as if it had always been there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ModelError
from models.features import followers, items
from models.features.clicks import PRIOR, ClickHistory
from models.features.followers import FOLLOWED_MS, FOLLOWERS, HOUR_MS
from models.features.items import ItemTable, number_of
from models.features.sessions import IDLE_MS

T0 = 1_700_000_000_000 // HOUR_MS * HOUR_MS
LENGTH = 5
ITEMS = "abcdefgh"
# Fewer than there are items, so that some are refused.
HELD_MAX = 4

Click = tuple[str, str, int, bool]
# Of a click: the items that the model knows, the new ones and their shares.
Answer = tuple[list[int], list[str], list[float]]

steps = st.one_of(
    st.integers(0, 60_000),
    st.sampled_from([0, 0, 1_000, HOUR_MS, 20 * HOUR_MS, IDLE_MS + 1, FOLLOWED_MS - HOUR_MS, FOLLOWED_MS + HOUR_MS]),
    st.sampled_from([-1, -1_000, -HOUR_MS, -IDLE_MS, -IDLE_MS - 1, -FOLLOWED_MS, -FOLLOWED_MS - HOUR_MS]),
)
vocabularies = st.permutations(ITEMS).flatmap(lambda order: st.integers(1, len(ITEMS)).map(lambda n: order[:n]))


@pytest.fixture(autouse=True)
def _few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "ITEMS_MAX", HELD_MAX)


@st.composite
def clicks(draw: st.DrawFn) -> list[Click]:
    now, stream = T0, list[Click]()
    for session, item, step in draw(
        st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from(ITEMS), steps), min_size=1, max_size=60)
    ):
        stream.append((session, item, now + step, False))
        if draw(st.integers(0, 5)) == 0:
            stream.append((*draw(st.sampled_from(stream))[:3], True))
        if step > 0 and (step <= 60_000 or draw(st.booleans())):
            now += step
    return stream


def answers(history: ClickHistory, stream: list[Click], vocabulary: list[str]) -> list[Answer]:
    """Have a history take clicks as one batch; return what a model of this vocabulary answers with."""
    sessions, ids, times, again = zip(*stream, strict=True)
    table = ItemTable(vocabulary)
    trails = history.update(list(sessions), list(ids), np.array(times, np.int64), np.array(again))
    new = history.new_items(trails, table.places(trails.followers) >= 0)
    return list(zip(table.places(trails.sessions).tolist(), new.ids, new.shares, strict=True))


@dataclass
class ClickOracle:
    """The written rules of `clicks` and `followers`, a click at a time, with ids in the place of numbers."""

    vocabulary: list[str]
    watermark: int = -(2**62)
    log: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    followed: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def session(self, session: str, item: str, t: int, again: bool) -> list[str]:
        """Return the items that a click sees, its own last."""
        if t < self.watermark - IDLE_MS:
            return [item]
        log = self.log.get(session, [])
        if log and log[-1][0] < self.watermark - IDLE_MS:
            log = []
        if not (again and (t, item) in log):
            log = sorted([*log, (t, item)], key=lambda click: click[0])[-LENGTH:]
        self.log[session] = log
        if (t, item) not in log:
            return [item]
        last = max(place for place, click in enumerate(log) if click == (t, item))
        return [each for _, each in log[: last + 1]]

    def record(self, session: str, item: str, t: int, again: bool) -> Answer:
        self.watermark = max(self.watermark, t)
        floor = self.watermark // HOUR_MS * HOUR_MS - FOLLOWED_MS
        self.held = {each: newest for each, newest in self.held.items() if newest >= floor}
        self.followed = {each: row for each, row in self.followed.items() if each in self.held}
        seen = self.session(session, item, t, again)
        before = seen[-2] if len(seen) > 1 else ""
        if item not in self.held and t >= floor and len(self.held) < HELD_MAX:
            self.held[item], self.followed[item] = t, []
        row: list[str] = []
        if item in self.held:
            if before in self.held and not again:
                both = sorted([*self.followed[before], (t, item)], key=lambda click: click[0])
                self.followed[before], self.held[before] = both[-FOLLOWERS:], max(self.held[before], t)
            self.held[item] = max(self.held[item], t)
            row = [each for time, each in self.followed[item] if floor <= time <= t]
        new = Counter(each for each in row if each not in self.vocabulary and each not in seen)
        order = sorted(new, key=lambda each: (-new[each], number_of(each)))
        known = [self.vocabulary.index(each) if each in self.vocabulary else -1 for each in seen]
        return [-1] * (LENGTH - len(known)) + known, order, [new[each] / (PRIOR + len(row)) for each in order]


@settings(max_examples=300, deadline=None)
@given(clicks(), vocabularies)
def test_answers_equal_those_of_an_oracle(stream: list[Click], vocabulary: list[str]) -> None:
    """Sessions, followers, names, bounds and expiry follow the written rules."""
    oracle = ClickOracle(vocabulary)
    assert answers(ClickHistory(LENGTH), stream, vocabulary) == [oracle.record(*click) for click in stream]


@settings(max_examples=300, deadline=None)
@given(clicks(), st.data())
def test_a_new_recommender_answers_as_if_it_had_always_been_there(stream: list[Click], data: st.DataObject) -> None:
    """Models with the same items, with more and with fewer take turns, over snapshots and restores, at any places.

    Each one's answers are bit for bit those of a pass from the first click with it alone; so is what is left in the end.
    """
    history, topic, begin = ClickHistory(LENGTH), dict[bytes, bytes](), 0
    vocabulary = data.draw(vocabularies)
    while begin < len(stream):
        end = data.draw(st.integers(begin + 1, len(stream)))
        alone = answers(ClickHistory(LENGTH), stream[:end], vocabulary)
        assert answers(history, stream[begin:end], vocabulary) == alone[begin:]
        begin = end
        action = data.draw(st.sampled_from(["go on", "checkpoint", "swap", "swap", "restart"]))
        if action != "go on":
            for key, payload in history.freeze(dirty_only=True):
                if payload is None:
                    del topic[key]
                else:
                    topic[key] = payload
        if action in ("swap", "restart"):
            watermarks, history = history.watermarks, ClickHistory(LENGTH)
            history.watermarks = watermarks
            history.load_many(topic)
        if action == "swap":
            vocabulary = data.draw(vocabularies)
    whole = ClickHistory(LENGTH)
    answers(whole, stream, vocabulary)
    assert history.digest() == whole.digest()


def test_a_table_finds_its_own_items_and_no_others() -> None:
    """Thousands of ids, texts of any script: each has its place, strangers and what is no number have none."""
    ids = [f"item-{number}" for number in range(5_000)] + ["", "ö", "\x00", "商品"]
    numbers = np.array([[number_of(item), number_of(item + "?"), -1] for item in ids])
    found = ItemTable(ids).places(numbers)
    assert found[:, 0].tolist() == list(range(len(ids))) and (found[:, 1:] == -1).all() and found.dtype == np.int32
    assert ItemTable([]).places(numbers).max() == -1


def test_what_is_refused_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id beyond the bound takes no share of what followed the item before; one that is too old takes no room."""
    monkeypatch.setattr(followers, "ITEMS_MAX", 2)
    history = ClickHistory(LENGTH)
    stream = [("p", item, T0 + place, False) for place, item in enumerate("abc")]
    stream += [("q", "b", T0 + 10, False), ("q", "c", T0 + 11, False), ("r", "a", T0 + 12, False)]
    assert answers(history, stream, ["a"])[-1] == ([-1] * 4 + [0], ["b"], [1 / (1 + PRIOR)])
    later = T0 + 2 * FOLLOWED_MS
    answers(history, [("s", "d", later, False), ("t", "e", T0, False), ("u", "f", later, False)], ["a"])
    assert [key for key, _ in history.freeze(dirty_only=False) if key[:1] == b"1"] == [b"1d", b"1f"]


def test_two_items_of_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary in which one item would be taken for another does not load."""
    monkeypatch.setattr(items, "number_of", len)
    with pytest.raises(ModelError, match="item 'cd': expected a number of its own, got 2"):
        ItemTable(["a", "ab", "cd"])
