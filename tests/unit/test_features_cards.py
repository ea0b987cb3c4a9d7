"""Card history against a record-by-record oracle that keeps every payment."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import StateError
from models.features.cards import (
    CARD_FEATURES,
    EVICT_AFTER_MS,
    HORIZON_MS,
    KEPT_MS,
    MEAN_WINDOWS_MS,
    OUTLIER_RATIO,
    RECENT_MS,
    SUM_WINDOWS_MS,
    TYPICAL_MS,
    CardHistory,
)

T0 = 1_700_000_000_000
DAY_MS = 86_400_000

# A fourth element marks a payment that comes again.
Payment = tuple[str, int, float] | tuple[str, int, float, bool]


@dataclass
class CardOracle:
    """The written rules of models.features.cards, a record at a time, forgetting nothing on its own."""

    events_max: int
    log: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    watermark: int = -(2**62)

    def record(self, card: str, t: int, amount: float, again: bool = False) -> list[float]:
        self.watermark = max(self.watermark, t)
        if t < self.watermark - HORIZON_MS:
            return self.features([], t, amount)
        events = self.log.setdefault(card, [])
        counting = range(max(0, len(events) - self.events_max), len(events))
        like = [place for place in counting if again and events[place] == (t, amount)]
        place = like[-1] if like else sum(time <= t for time, _ in events)
        if not like:
            events.insert(place, (t, amount))
        first = max(0, len(events) - self.events_max)
        newest = events[-1][0]
        return self.features([e for e in events[first:place] if e[0] > newest - KEPT_MS], t, amount)

    def features(self, history: list[tuple[int, float]], t: int, amount: float) -> list[float]:
        row: list[float] = []
        for window in SUM_WINDOWS_MS + MEAN_WINDOWS_MS:
            inside = [a for time, a in history if time > t - window] + [amount]
            row += [len(inside), math.fsum(inside) / (1 if window in SUM_WINDOWS_MS else len(inside))]
        month = [(time, a) for time, a in history if time > t - HORIZON_MS]
        amounts = [a for _, a in month]
        mean = math.fsum(amounts) / len(amounts) if amounts else 0.0
        row.append((t - month[-1][0] if month else HORIZON_MS) / 1000)
        row.append(amount / mean if mean > 0 else 1.0)
        if len(amounts) > 1:
            deviation = math.sqrt(math.fsum((a - mean) ** 2 for a in amounts) / len(amounts))
            row.append(min(max((amount - mean) / max(deviation, 0.01 * mean + 0.01), -10.0), 10.0))
        else:
            row.append(0.0)
        largest = max([*amounts, amount])
        row.append(amount / largest if largest > 0 else 1.0)
        return row + typical([(time, a) for time, a in history if time > t - TYPICAL_MS], t, amount)


def typical(history: list[tuple[int, float]], t: int, amount: float) -> list[float]:
    """The features about what a card usually pays."""
    centre, spread = amount, amount / 2
    used = amounts = [a for _, a in history]
    for _ in range(3 if amounts else 0):
        if used:
            centre = math.fsum(used) / len(used)
            spread = math.sqrt(math.fsum((a - centre) ** 2 for a in used) / len(used))
        # On the bound to the last digit, a sum's rounding decides; a tolerance would hide a real difference.
        used = [a for a in amounts if a <= centre + 2 * spread]
    floor = max(centre, 0.01)
    recent = [(time, a) for time, a in history if time > t - RECENT_MS]
    largest = sorted([0.0, 0.0, *(a for _, a in recent)], reverse=True)
    outliers = [t - time for time, a in recent if a > OUTLIER_RATIO * floor]
    return [
        centre,
        min(amount / floor, 1000.0),
        min(max((amount - centre) / max(spread, 0.1 * centre + 0.01), -10.0), 50.0),
        min(amounts[-1] / floor, 1000.0) if amounts else 1.0,
        min(largest[0] / floor, 1000.0),
        min(largest[1] / floor, 1000.0),
        sum(age < RECENT_MS / 2 for age in outliers),
        len(outliers),
        min(outliers, default=RECENT_MS) / 3_600_000,
    ]


def update(history: CardHistory, payments: list[Payment]) -> np.ndarray:
    cards, times, amounts = zip(*(payment[:3] for payment in payments), strict=True)
    again = np.array([len(payment) > 3 for payment in payments])
    return history.update(list(cards), np.array(times, np.int64), np.array(amounts, np.float64), again)


# Steps that land on, just inside and just outside the edges of windows, horizons and evictions, and steps back in time.
edges = st.sampled_from(
    [0, *SUM_WINDOWS_MS, *MEAN_WINDOWS_MS, RECENT_MS // 2, RECENT_MS, TYPICAL_MS, KEPT_MS, EVICT_AFTER_MS]
)
steps = st.one_of(
    st.integers(0, 20 * 60_000),
    st.integers(0, 3 * DAY_MS),
    st.builds(lambda edge, off, sign: sign * (edge + off), edges, st.integers(-1, 1), st.sampled_from([1, 1, -1])),
)
amounts = st.one_of(st.integers(0, 200_000).map(lambda cents: cents / 100), st.floats(0, 1e6))


@st.composite
def payments(draw: st.DrawFn) -> list[Payment]:
    now = T0
    stream: list[Payment] = []
    for card, step, amount in draw(
        st.lists(st.tuples(st.sampled_from("abc"), steps, amounts), min_size=1, max_size=60)
    ):
        stream.append((card, now + step, amount))
        if draw(st.integers(0, 3)) == 0:
            stream.append((*draw(st.sampled_from(stream))[:3], True))
        if step > 0 and step < 3 * DAY_MS:
            now += step
        elif draw(st.integers(0, 5)) == 0:
            now = max(now, now + step)
    return stream


@settings(max_examples=300, deadline=None)
@given(payments(), st.sampled_from([1, 2, 5, 1024]))
def test_features_equal_those_of_an_oracle_that_keeps_every_payment(stream: list[Payment], events_max: int) -> None:
    """Windows, ties, late and out-of-order payments follow the written rules."""
    oracle = CardOracle(events_max)
    expected = np.array([oracle.record(*payment) for payment in stream])
    got = update(CardHistory(events_max), stream)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-6)
    assert np.array_equal(got[:, 0:12:2], expected[:, 0:12:2])


@settings(max_examples=200, deadline=None)
@given(payments(), st.sampled_from([1, 2, 5, 1024]), st.data())
def test_any_batch_split_with_recoveries_gives_bit_equal_features(
    stream: list[Payment], events_max: int, data: st.DataObject
) -> None:
    """Neither batches, nor evictions, nor a recovery from incremental checkpoints at any point change a bit."""
    whole = CardHistory(events_max)
    expected = update(whole, stream)
    history, topic, parts = CardHistory(events_max), dict[bytes, bytes](), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        parts.append(update(history, stream[:size]))
        stream = stream[size:]
        action = data.draw(st.sampled_from(["go on", "checkpoint", "recover", "evict"]))
        if action == "evict":
            history.snapshot(dirty_only=False)
            topic = dict(pair for pair in history.snapshot(dirty_only=False) if pair[1] is not None)
        if action in ("checkpoint", "recover"):
            for key, payload in history.snapshot(dirty_only=True):
                if payload is None:
                    del topic[key]
                else:
                    topic[key] = payload
        if action == "recover":
            watermark, history = history.watermark, CardHistory(events_max)
            history.load_many(topic.items())
            history.watermark = watermark
    assert np.array_equal(np.concatenate(parts), expected)
    assert history.digest() == whole.digest()


def test_an_arena_that_fills_in_the_middle_of_a_batch_grows_without_a_trace() -> None:
    """A batch larger than the arena gives the features of one payment at a time."""
    rng = np.random.default_rng(5)
    n = 30_000
    cards = [f"card-{c}" for c in rng.integers(0, 400, n)]
    times = np.sort(rng.integers(T0, T0 + 40 * DAY_MS, n)) - rng.integers(0, 2, n) * rng.integers(0, DAY_MS, n)
    spent = np.round(rng.gamma(2, 30, n), 2)
    oracle = CardOracle(1024)
    expected = np.array([oracle.record(*p) for p in zip(cards, times.tolist(), spent.tolist(), strict=True)])
    np.testing.assert_allclose(CardHistory().update(cards, times, spent), expected, rtol=1e-9, atol=1e-6)


def test_a_late_payment_sees_no_history_and_leaves_none() -> None:
    """More than the horizon behind the watermark: scored alone, and the card's next payment does not know of it."""
    history = CardHistory()
    update(history, [("b", T0 + HORIZON_MS, 5.0)])
    before = history.digest()
    count = CARD_FEATURES.index("card_count_30d")
    assert update(history, [("a", T0 - 1, 7.0)])[0, count] == 1
    assert update(history, [("a", T0 - 1, 7.0)])[0, count] == 1
    assert history.digest() == before
    assert update(history, [("a", T0, 7.0)])[0, count] == 1
    assert update(history, [("a", T0, 7.0)])[0, count] == 2


def test_a_payment_that_comes_again_is_not_counted_twice() -> None:
    """It sees what it saw, itself included, and leaves the history as it was; one that is not held is recorded."""
    history = CardHistory()
    payments: list[Payment] = [("a", T0, 1.0), ("a", T0 + 1000, 2.0), ("a", T0 + 2000, 4.0)]
    first, before = update(history, payments), history.digest()
    assert np.array_equal(update(history, [(*payments[1], True)]), first[1:2])
    assert history.digest() == before
    assert update(history, [("a", T0 + 3000, 8.0)])[0, CARD_FEATURES.index("card_sum_10min")] == 15.0
    assert update(history, [("b", T0, 1.0, True), ("b", T0 + 1, 2.0)])[1, CARD_FEATURES.index("card_count_1h")] == 2.0


def test_a_payment_that_comes_again_is_looked_for_among_what_a_restore_brings_back() -> None:
    """Memory may hold events beyond the bound for a while; a state must not depend on that."""
    live = CardHistory(2)
    update(live, [("a", T0, 1.0), ("a", T0, 2.0), ("a", T0, 4.0)])  # the first counts no longer, and is there still
    restored = CardHistory(2)
    restored.load_many(live.snapshot(dirty_only=False))
    assert np.array_equal(update(live, [("a", T0, 1.0, True)]), update(restored, [("a", T0, 1.0, True)]))
    assert live.digest() == restored.digest()


def test_a_payment_does_not_see_later_stamped_ones() -> None:
    """An out-of-order payment is scored as of its own time; those after it see it."""
    history = CardHistory()
    got = update(history, [("a", T0, 1.0), ("a", T0 + 2000, 2.0), ("a", T0 + 1000, 4.0), ("a", T0 + 3000, 8.0)])
    assert got[:, CARD_FEATURES.index("card_sum_10min")].tolist() == [1.0, 3.0, 5.0, 15.0]


def test_what_a_card_no_longer_keeps_is_seen_by_no_late_payment() -> None:
    """More than KEPT_MS behind the card's newest, an event is gone by rule, whether or not memory holds it still."""
    typical_amount = CARD_FEATURES.index("card_typical_amount")
    for age, seen in ((KEPT_MS, 3.0), (KEPT_MS - 1, 1.0)):
        stream = [("a", T0, 1.0), ("a", T0 + age, 1.0), ("a", T0 + 40 * DAY_MS, 3.0)]
        assert update(CardHistory(), stream)[2, typical_amount] == seen


def test_outliers_of_a_theft_do_not_hide_the_next_one() -> None:
    """After two payments of five times the usual, the usual is what it was and the two are counted."""
    day = DAY_MS
    stream = [("a", T0 + k * day, 10.0 + k % 3) for k in range(20)]
    stream += [("a", T0 + 20 * day, 55.0), ("a", T0 + 29 * day, 50.0), ("a", T0 + 30 * day, 50.0)]
    row = dict(zip(CARD_FEATURES, update(CardHistory(), stream)[-1], strict=True))
    assert 10.0 <= row["card_typical_amount"] <= 12.0
    assert row["card_amount_over_typical"] > 4.0 and row["card_amount_deviation"] > 10.0
    assert (row["card_outliers_7d"], row["card_outliers_14d"], row["card_hours_since_outlier"]) == (1, 2, 24)
    assert row["card_largest_14d_over_typical"] > row["card_second_14d_over_typical"] > 4.0


def test_a_huge_payment_does_not_hide_a_large_one() -> None:
    """The second round leaves out what only the first round's outlier made look usual."""
    stream = [("a", T0 + k * DAY_MS, amount) for k, amount in enumerate([10.0] * 20 + [1000.0, 100.0, 10.0])]
    assert update(CardHistory(), stream)[-1, CARD_FEATURES.index("card_typical_amount")] == 10.0


@pytest.mark.parametrize(("age", "week", "fortnight"), [(7 * DAY_MS, 0, 1), (7 * DAY_MS - 1, 1, 1), (RECENT_MS, 0, 0)])
def test_outliers_count_in_exact_windows(age: int, week: int, fortnight: int) -> None:
    """One exactly 7 days old is not of the last 7 days, one exactly 14 days old not of the last 14."""
    usual = [("a", T0 + k * DAY_MS, 10.0) for k in range(20)]
    outlier = T0 + 20 * DAY_MS
    row = update(CardHistory(), [*usual, ("a", outlier, 50.0), ("a", outlier + age, 10.0)])[-1]
    assert row[CARD_FEATURES.index("card_outliers_7d")] == week
    assert row[CARD_FEATURES.index("card_outliers_14d")] == fortnight


def test_idle_cards_are_evicted_and_told_once() -> None:
    """A card further behind than any payment can see leaves memory; a snapshot tells its end if an earlier one told of it."""
    history = CardHistory()
    update(history, [("a", T0, 1.0), ("b", T0, 1.0)])
    assert dict(history.snapshot(dirty_only=True)).keys() == {b"a", b"b"}
    update(history, [("c", T0 + EVICT_AFTER_MS, 1.0)])
    assert [key for key, _ in history.snapshot(dirty_only=True)] == [b"c"]
    update(history, [("d", T0 + EVICT_AFTER_MS + 1, 1.0), ("e", T0, 1.0)])
    assert len(history) == 5
    assert {key: payload is None for key, payload in history.snapshot(dirty_only=True)} == {
        b"a": True, b"b": True, b"d": False,
    }  # fmt: skip
    assert len(history) == 2
    update(history, [(f"late card {n} in the row of another", T0, 1.0) for n in range(3)])
    assert history.snapshot(dirty_only=True) == []


def test_a_snapshot_is_unmoved_by_later_updates() -> None:
    """What was frozen is iterated as it was, while the history goes on."""
    history = CardHistory()
    update(history, [("a", T0, 1.0)])
    frozen = history.freeze(dirty_only=True)
    update(history, [("a", T0 + 1, 2.0), ("b", T0, 3.0)])
    loaded = CardHistory()
    loaded.load_many(frozen)
    alone = CardHistory()
    update(alone, [("a", T0, 1.0)])
    assert len(frozen) == 1 and loaded.digest() == alone.digest() and loaded.watermark == T0


def test_digest_tells_histories_apart() -> None:
    """One amount, one time or one card more gives another digest; the order of cards does not."""
    base = [("a", T0, 1.0), ("b", T0, 1.0)]
    streams = [base, [*base, ("c", T0, 1.0)], [("a", T0, 1.0), ("b", T0, 1.01)], [("a", T0 + 1, 1.0), ("b", T0, 1.0)]]
    digests = []
    for stream in [*streams, base[::-1]]:
        history = CardHistory()
        update(history, stream)
        digests.append(history.digest())
    assert len(set(digests)) == len(streams) and digests[-1] == digests[0]


def test_a_busy_card_costs_bounded_memory() -> None:
    """A card that pays a hundred thousand times a day keeps its newest payments only."""
    history = CardHistory(events_per_key_max=64)
    for begin in range(0, 20_000, 2000):
        times = T0 + np.arange(begin, begin + 2000) * 1000
        got = history.update(["hot"] * 2000, times, np.ones(2000))
    assert got[-1, CARD_FEATURES.index("card_count_30d")] == 64
    assert history._log.meta[0, 2] <= 128 and history._log.times.size == 4096


def test_many_cards_that_come_and_go_reuse_rows_and_blocks() -> None:
    """Eviction gives memory back: a hundred generations of cards need that of two or three."""
    history = CardHistory()
    for generation in range(100):
        cards = [f"{generation}-{c}" for c in range(200)] * 5
        history.update(cards, np.full(1000, T0 + generation * (EVICT_AFTER_MS + 1)), np.ones(1000))
        history.snapshot(dirty_only=True)
    assert history._index.row_count == 400 and history._log.times.size <= 8192


def test_a_damaged_or_foreign_payload_is_refused() -> None:
    """Nothing is loaded and the error names the card."""
    history = CardHistory()
    update(history, [("a", T0, 1.0), ("a", T0 + 5, 2.5)])
    (key, payload), = history.snapshot(dirty_only=False)  # fmt: skip
    assert payload is not None
    swapped = payload[:16] + payload[20:24] + payload[16:20] + payload[24:]
    for damaged in (payload[:-8], payload[:-1], payload + bytes(8), b"", b"\x09" + payload[1:], swapped,
                    payload[:1] + b"\x02" + payload[2:]):  # fmt: skip
        empty = CardHistory()
        with pytest.raises(StateError, match="CardHistory: bad: expected a payload of version 1"):
            empty.load_many([(key, payload), (b"bad", damaged)])
        assert len(empty) == 0


def test_wrong_amounts_are_a_programmer_error() -> None:
    """Amounts that would poison sums for 30 days never enter the history."""
    for amount in (math.nan, math.inf, -0.01):
        with pytest.raises(AssertionError):
            update(CardHistory(), [("a", T0, amount)])


def test_read_only_and_strided_columns_are_taken() -> None:
    """Columns straight from a file give the same features as arrays of one's own."""
    times, spent = np.arange(T0, T0 + 6000, 1000), np.arange(6.0)
    expected = CardHistory().update(["a"] * 3, times[::2].copy(), spent[::2].copy())
    times.flags.writeable = spent.flags.writeable = False
    assert np.array_equal(CardHistory().update(["a"] * 3, times[::2], spent[::2]), expected)
