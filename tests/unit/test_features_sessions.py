"""Session history against a record-by-record oracle that keeps every click."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import StateError
from models.features.cards import CardHistory
from models.features.sessions import IDLE_MS, SessionHistory

T0 = 1_700_000_000_000

# A fourth element marks a click that comes again.
Click = tuple[str, int, int] | tuple[str, int, int, bool]


@dataclass
class SessionOracle:
    """The written rules of models.features.sessions, a click at a time."""

    length: int
    log: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    watermark: int = -(2**62)

    def record(self, session: str, item: int, t: int, again: bool = False) -> list[int]:
        self.watermark = max(self.watermark, t)
        if t < self.watermark - IDLE_MS:
            return self.padded([item])
        if self.newest.get(session, t) < self.watermark - IDLE_MS:
            del self.log[session], self.newest[session]
        self.newest[session] = max(self.newest.get(session, t), t)
        clicks = self.log.setdefault(session, [])
        place = sum(time <= t for time, _ in clicks)
        kept_before = max(0, len(clicks) - self.length)
        if item < 0:
            return self.padded([i for _, i in clicks[kept_before:place]])
        like = [number for number in range(kept_before, len(clicks)) if again and clicks[number] == (t, item)]
        if like:
            return self.padded([i for _, i in clicks[kept_before : like[-1]]] + [item])
        clicks.insert(place, (t, item))
        kept = max(0, len(clicks) - self.length)
        return self.padded([i for _, i in clicks[kept:place]] + [item])

    def padded(self, items: list[int]) -> list[int]:
        return [-1] * (self.length - len(items)) + items


def update(history: SessionHistory, clicks: list[Click]) -> np.ndarray:
    sessions, items, times = zip(*(click[:3] for click in clicks), strict=True)
    again = np.array([len(click) > 3 for click in clicks])
    return history.update(list(sessions), np.array(items, np.int64), np.array(times, np.int64), again)


steps = st.one_of(
    st.integers(0, 60_000),
    st.sampled_from([IDLE_MS - 1, IDLE_MS, IDLE_MS + 1, -1, -60_000, -IDLE_MS, -IDLE_MS - 1]),
)


@st.composite
def clicks(draw: st.DrawFn) -> list[Click]:
    now = T0
    stream: list[Click] = []
    for session, item, step in draw(
        st.lists(st.tuples(st.sampled_from("pqr"), st.integers(-1, 30), steps), min_size=1, max_size=60)
    ):
        stream.append((session, item, now + step))
        if draw(st.integers(0, 3)) == 0:
            stream.append((*draw(st.sampled_from(stream))[:3], True))
        if step > 0 and (step <= 60_000 or draw(st.booleans())):
            now += step
    return stream


@settings(max_examples=300, deadline=None)
@given(clicks(), st.sampled_from([1, 2, 5, 20]))
def test_sequences_equal_those_of_an_oracle_that_keeps_every_click(stream: list[Click], length: int) -> None:
    """Order, padding, unknown items, late clicks and new starts follow the written rules."""
    oracle = SessionOracle(length)
    got = update(SessionHistory(length), stream)
    assert got.tolist() == [oracle.record(*click) for click in stream]
    assert got.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(clicks(), st.sampled_from([1, 5, 20]), st.data())
def test_any_batch_split_with_recoveries_gives_equal_sequences(
    stream: list[Click], length: int, data: st.DataObject
) -> None:
    """Neither batches, nor evictions, nor a recovery from incremental checkpoints at any point change an item."""
    whole = SessionHistory(length)
    expected = update(whole, stream)
    history, topic, parts = SessionHistory(length), dict[bytes, bytes](), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        parts.append(update(history, stream[:size]))
        stream = stream[size:]
        action = data.draw(st.sampled_from(["go on", "checkpoint", "recover"]))
        if action != "go on":
            for key, payload in history.snapshot(dirty_only=True):
                if payload is None:
                    del topic[key]
                else:
                    topic[key] = payload
        if action == "recover":
            watermark, history = history.watermark, SessionHistory(length)
            history.load_many(topic.items())
            assert history.watermark == watermark
    assert np.array_equal(np.concatenate(parts), expected)
    assert history.digest() == whole.digest()


def test_thousands_of_sessions_in_one_batch() -> None:
    """Arena and rows grow inside a batch without a trace."""
    rng = np.random.default_rng(7)
    stream = [
        (f"s{s}", int(item), T0 + 10 * k)
        for k, (s, item) in enumerate(zip(rng.integers(0, 4000, 40_000), rng.integers(-1, 999, 40_000), strict=True))
    ]
    oracle = SessionOracle(20)
    assert update(SessionHistory(20), stream).tolist() == [oracle.record(*click) for click in stream]


def test_a_session_after_a_silent_day_starts_anew() -> None:
    """Up to the idle time a session goes on; a millisecond more and it has no past."""
    history = SessionHistory(length=3)
    update(history, [("p", 4, T0), ("p", 5, T0 + IDLE_MS)])
    assert update(history, [("p", 6, T0 + 2 * IDLE_MS)])[0].tolist() == [4, 5, 6]
    assert update(history, [("p", 7, T0 + 3 * IDLE_MS + 1)])[0].tolist() == [-1, -1, 7]


def test_unknown_items_keep_a_session_alive_and_take_no_place() -> None:
    """Clicks on items the model does not know show the session as it is without them."""
    history = SessionHistory(length=3)
    got = update(
        history, [("p", 4, T0), ("p", -1, T0 + IDLE_MS), ("p", 5, T0 + 2 * IDLE_MS), ("q", -1, T0 + 2 * IDLE_MS)]
    )
    assert got.tolist() == [[-1, -1, 4], [-1, -1, 4], [-1, 4, 5], [-1, -1, -1]]


def test_idle_sessions_are_evicted_and_told_once() -> None:
    """A silent day later a session leaves memory, and its end is told."""
    history = SessionHistory()
    update(history, [("p", 1, T0)])
    assert len(history.snapshot(dirty_only=True)) == 1
    update(history, [("q", 1, T0 + IDLE_MS + 1)])
    pairs = history.snapshot(dirty_only=True)
    assert pairs[0] == (b"p", None) and pairs[1][0] == b"q" and len(pairs) == 2
    assert len(history) == 1


def test_payloads_of_another_history_are_refused() -> None:
    """A card's row is not read as a session's."""
    cards = CardHistory()
    cards.update(["a"], np.array([T0]), np.array([1.0]))
    with pytest.raises(StateError, match="SessionHistory: a: expected a payload of version 1 and kind 3"):
        SessionHistory().load_many(cards.snapshot(dirty_only=True))


def test_a_session_of_many_days_is_recovered_whole() -> None:
    """As long as it is not idle a session keeps clicks older than the idle time, in checkpoints too."""
    history, recovered = SessionHistory(length=3), SessionHistory(length=3)
    update(history, [("p", 4, T0), ("p", 5, T0 + IDLE_MS), ("p", 6, T0 + 2 * IDLE_MS)])
    recovered.load_many(history.snapshot(dirty_only=True))
    assert recovered.digest() == history.digest()
    assert update(recovered, [("p", -1, T0 + 2 * IDLE_MS)]).tolist() == [[4, 5, 6]]
