"""The simulator: seeded, endless, ordered by event time, and frauds that look like what they are called."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from models.simulator.blocks import DAY_MS, START_MS
from models.simulator.clicks import ClickSimulator, simulate_clicks
from models.simulator.payments import PATTERNS, PaymentSimulator, simulate_payments


@pytest.fixture(scope="module")
def payments():
    return simulate_payments(120_000, seed=11)


@pytest.fixture(scope="module")
def clicks():
    return simulate_clicks(60_000, seed=11)


@pytest.mark.parametrize("simulate", [simulate_payments, simulate_clicks])
def test_same_seed_gives_same_columns_and_another_seed_does_not(simulate):
    """A seed reproduces a run."""
    first, again, other = simulate(5_000, seed=3), simulate(5_000, seed=3), simulate(5_000, seed=4)
    for name in first:
        assert np.array_equal(first[name], again[name]), name
        if name not in ("pattern", "is_fraud"):
            assert not np.array_equal(first[name], other[name]), name


@pytest.mark.parametrize("simulator", [PaymentSimulator, ClickSimulator])
@pytest.mark.parametrize("sizes", [(1, 4_999), (0, 2_500, 2_500), (4_321, 679)])
def test_stream_does_not_depend_on_the_sizes_asked_for(simulator, sizes):
    """`next(a)` then `next(b)` is `next(a + b)`."""
    whole = simulator(5).next(5_000)
    source = simulator(5)
    parts = [source.next(size) for size in sizes]
    for name, column in whole.items():
        assert [value for part in parts for value in part[name]] == list(column), name


@pytest.mark.parametrize("simulate", [simulate_payments, simulate_clicks])
def test_event_time_never_goes_back_and_starts_where_asked(simulate):
    """Records come in event-time order from start_ms on, across blocks."""
    start_ms = START_MS + 123 * DAY_MS
    columns = simulate(30_000, seed=2, start_ms=start_ms)
    assert columns["event_time"].dtype == np.int64
    assert np.all(np.diff(columns["event_time"]) >= 0)
    assert start_ms <= columns["event_time"][0] < start_ms + DAY_MS


@pytest.mark.parametrize(("simulate", "key"), [(simulate_payments, "transaction_id"), (simulate_clicks, "event_id")])
def test_record_ids_are_unique_also_across_seeds(simulate, key):
    """A decision id is derived from the record's id, so two producers must not share one."""
    ids = simulate(3_000, seed=1)[key] + simulate(3_000, seed=2)[key]
    assert len(set(ids)) == 6_000


def test_about_one_payment_in_a_hundred_is_fraud_and_every_pattern_occurs(payments):
    """The label agrees with the pattern, and no pattern is missing or rules the rest."""
    pattern = np.array(payments["pattern"])
    assert np.array_equal(payments["is_fraud"], pattern != "genuine")
    assert 0.005 < payments["is_fraud"].mean() < 0.02
    counts = Counter(pattern[payments["is_fraud"]])
    assert set(counts) == set(PATTERNS[1:])
    assert max(counts.values()) < 0.7 * payments["is_fraud"].sum()


def test_fraud_is_as_frequent_on_the_first_days_as_later(payments):
    """What was compromised before the start is still so: no warm-up that a model could learn."""
    day = (payments["event_time"] - START_MS) // DAY_MS
    pattern = np.array(payments["pattern"])
    for lasting in ("compromised-terminal", "stolen-card"):
        first, rest = (pattern[day < 5] == lasting).mean(), (pattern[day >= 5] == lasting).mean()
        assert 0.4 < first / rest < 2.5, lasting


def test_patterns_look_like_their_names(payments):
    """Stolen cards pay more, tests are tiny and quick, bursts come at night, compromised terminals are few."""
    pattern = np.array(payments["pattern"])
    amount, event_time = payments["amount"], payments["event_time"]
    genuine = np.median(amount[pattern == "genuine"])
    assert np.median(amount[pattern == "stolen-card"]) > 3 * genuine
    assert amount[pattern == "big-amount"].min() >= 220
    assert amount[pattern == "card-testing"].max() <= 3
    assert ((event_time[pattern == "night-burst"] % DAY_MS) < 6 * 3_600_000).all()
    terminals = np.array(payments["terminal_id"])
    assert len(set(terminals[pattern == "compromised-terminal"])) < 0.05 * len(set(terminals))
    tests = defaultdict(list)
    for place in np.flatnonzero(pattern == "card-testing"):
        tests[payments["card_id"][place]].append(event_time[place])
    assert all(len(times) >= 4 for times in tests.values())


def test_amounts_are_positive_cents(payments):
    """Amounts are money: at least 0.50, two decimals, finite."""
    amount = payments["amount"]
    assert amount.min() >= 0.5
    assert np.isfinite(amount).all()
    assert np.allclose(amount * 100, np.rint(amount * 100), atol=1e-6)


def test_sessions_have_a_few_clicks_in_one_stretch_of_time(clicks):
    """A session is two clicks at least as a rule, forty at most, and minutes apart at most."""
    times = defaultdict(list)
    for session, event_time in zip(clicks["session_id"], clicks["event_time"], strict=True):
        times[session].append(event_time)
    lengths = np.array([len(values) for values in times.values()])
    assert 3 < lengths.mean() < 10
    assert lengths.max() <= 40
    assert max(np.diff(values).max() for values in times.values() if len(values) > 1) < 15 * 60_000


def test_next_item_is_told_by_the_last_one(clicks):
    """An item's few usual followers cover most next clicks: there is something to learn from a session."""
    last: dict[str, str] = {}
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    for session, item in zip(clicks["session_id"], clicks["item_id"], strict=True):
        if session in last:
            followers[last[session]][item] += 1
        last[session] = item
    total = sum(sum(counter.values()) for counter in followers.values())
    covered = sum(sum(count for _, count in counter.most_common(20)) for counter in followers.values())
    popular = Counter(clicks["item_id"])
    assert covered / total > 0.6
    assert sum(count for _, count in popular.most_common(20)) / len(clicks["item_id"]) < 0.15


def test_catalogue_does_not_depend_on_the_seed_and_launches_new_items():
    """A recommender trained on one seed's shoppers serves another's, and meets items it has never seen."""
    one, other = ClickSimulator(1), ClickSimulator(2)
    assert np.array_equal(one.catalogue.successors, other.catalogue.successors)
    first_day = set(one.next(100_000)["item_id"])
    later = set(one.next(600_000)["item_id"])
    assert any(item.count("-") == 2 for item in later - first_day)


def test_populations_too_small_to_simulate_are_refused():
    """A wrong population is an error that names the bound."""
    with pytest.raises(ValueError, match="terminals >= 50"):
        PaymentSimulator(terminals=3)
    with pytest.raises(ValueError, match="items >= 100"):
        ClickSimulator(items=3)
