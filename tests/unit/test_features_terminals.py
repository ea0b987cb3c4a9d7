"""Terminal history against an oracle over the set of labels, in any order of arrival."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.terminals import (
    LABEL_DELAY_MS,
    RECENT_LABELS,
    TERMINAL_FEATURES,
    WINDOWS_MS,
    TerminalHistory,
)

T0 = 1_699_999_200_000  # a whole hour
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
KEPT_MS = 60 * DAY_MS  # in place of 400 days, so that forgetting happens within the times below

Label = tuple[str, int, bool]
Query = tuple[str, int]


def oracle(labels: list[Label], terminal: str, t: int, granularity_ms: int) -> list[float]:
    """Features by the written rules, from all labels ever given."""
    g = granularity_ms
    cutoff = t // g * g - LABEL_DELAY_MS
    newest = max((-(-time // g) * g for _, time, _ in labels), default=0)
    forgotten = newest - (KEPT_MS + LABEL_DELAY_MS) // g * g - g  # labels up to here
    known = [(time, fraud) for name, time, fraud in labels if name == terminal and forgotten < time <= cutoff]
    row: list[float] = []
    for window in WINDOWS_MS:
        inside = [fraud for time, fraud in known if time > cutoff - window]
        row += [len(inside), sum(inside) / len(inside) if inside else 0.0]
    buckets: dict[int, Counter[bool]] = {}
    for time, fraud in known:
        if time > cutoff - WINDOWS_MS[-1]:
            buckets.setdefault(-(-time // g) * g, Counter())[fraud] += 1
    frauds = [end for end, counts in buckets.items() if counts[True]]
    row.append((cutoff - max(frauds)) / HOUR_MS if frauds else WINDOWS_MS[-1] / HOUR_MS)
    wanted, recent = RECENT_LABELS, 0.0
    for end in sorted(buckets, reverse=True):
        count = buckets[end].total()
        used = min(wanted, count)
        recent += used * buckets[end][True] / count
        wanted -= used
    row.append(recent)
    genuine = [end for end, counts in buckets.items() if counts[False]]
    streak = [end for end in buckets if end > max(genuine, default=-(2**62))]
    row.append(sum(buckets[end][True] for end in streak))
    row.append((cutoff - min(streak)) / HOUR_MS if streak else 0.0)
    row.append((cutoff - max(genuine)) / HOUR_MS if genuine else WINDOWS_MS[-1] / HOUR_MS)
    row.append(sum(counts.total() for end, counts in buckets.items() if end > max(frauds, default=-(2**62))))
    row.append(sum(counts[True] for end, counts in buckets.items() if end not in streak))
    return row


def add(history: TerminalHistory, labels: list[Label]) -> None:
    terminals, times, fraud = zip(*labels, strict=True) if labels else ((), (), ())
    history.add(list(terminals), np.array(times, np.int64), np.array(fraud, np.bool_))


def features(history: TerminalHistory, queries: list[Query]) -> np.ndarray:
    return history.features([terminal for terminal, _ in queries], np.array([t for _, t in queries], np.int64))


# Times on, just before and just after the edges of hours, windows, the delay and what is kept.
edges = st.sampled_from([0, *WINDOWS_MS, LABEL_DELAY_MS, KEPT_MS, KEPT_MS + LABEL_DELAY_MS])
times = st.one_of(
    st.integers(T0 - 8 * HOUR_MS, T0),
    st.integers(T0 - 70 * DAY_MS, T0 + 10 * DAY_MS),
    st.builds(
        lambda edge, hours, off: T0 - edge + hours * HOUR_MS + off, edges, st.integers(-2, 2), st.integers(-1, 1)
    ),
)
terminals = st.sampled_from("xyz")
labels_lists = st.lists(st.tuples(terminals, times, st.booleans()), max_size=60)
query_lists = st.lists(
    st.tuples(st.sampled_from("xyzw"), times.map(lambda t: t + LABEL_DELAY_MS)), min_size=1, max_size=20
)
granularities = st.sampled_from([1, 1000, HOUR_MS, DAY_MS])


@settings(max_examples=300, deadline=None)
@given(labels_lists, query_lists, granularities)
def test_features_equal_those_of_an_oracle_over_all_labels(
    labels: list[Label], queries: list[Query], granularity_ms: int
) -> None:
    """Windows end at the cutoff, to the millisecond, and shares count every label once."""
    history = TerminalHistory(granularity_ms=granularity_ms, kept_ms=KEPT_MS)
    add(history, labels)
    expected = np.array([oracle(labels, terminal, t, granularity_ms) for terminal, t in queries])
    np.testing.assert_allclose(features(history, queries), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(labels_lists, query_lists, granularities, st.data())
def test_state_is_a_function_of_the_set_of_labels(
    labels: list[Label], queries: list[Query], granularity_ms: int, data: st.DataObject
) -> None:
    """Any order, any batches, and recoveries and evictions in between give bit-equal features and the same digest."""
    straight = TerminalHistory(granularity_ms=granularity_ms, kept_ms=KEPT_MS)
    add(straight, labels)
    shuffled = data.draw(st.permutations(labels))
    history, topic = TerminalHistory(granularity_ms=granularity_ms, kept_ms=KEPT_MS), dict[bytes, bytes]()
    while shuffled:
        size = data.draw(st.integers(1, len(shuffled)))
        add(history, shuffled[:size])
        shuffled = shuffled[size:]
        if data.draw(st.booleans()):
            for key, payload in history.snapshot(dirty_only=True):
                if payload is None:
                    del topic[key]
                else:
                    topic[key] = payload
            history = TerminalHistory(granularity_ms=granularity_ms, kept_ms=KEPT_MS)
            history.load_many(topic.items())
    assert np.array_equal(features(history, queries), features(straight, queries))
    assert history.digest() == straight.digest()


def test_a_terminal_never_seen_has_no_history_and_takes_no_memory() -> None:
    """Asking about a terminal does not make it known."""
    history = TerminalHistory()
    assert features(history, [("x", T0)]).tolist() == [[0, 0, 0, 0, 0, 0, 720, 0, 0, 0, 720, 0, 0]]
    assert len(history) == 0


def test_labels_are_unknown_until_the_delay_has_passed() -> None:
    """A fraud counts for payments from the hour after its label's delay on, not before."""
    history = TerminalHistory()
    add(history, [("x", T0 + 1, True)])
    count = TERMINAL_FEATURES.index("terminal_labelled_1d")
    ready = T0 + LABEL_DELAY_MS + HOUR_MS
    assert features(history, [("x", ready - 1), ("x", ready)])[:, count].tolist() == [0, 1]


def test_an_hour_with_more_labels_than_wanted_counts_by_its_share() -> None:
    """Of the last 5 labels, 2 come from an hour with 4, of which 2 are frauds: one fraud; and one of the newest 3."""
    history = TerminalHistory()
    older = [("x", T0 + minute, minute < 3) for minute in range(1, 5)]
    newer = [("x", T0 + HOUR_MS + minute, minute == 2) for minute in range(1, 4)]
    add(history, older + newer)
    moment = T0 + LABEL_DELAY_MS + 2 * HOUR_MS
    assert features(history, [("x", moment)])[0, TERMINAL_FEATURES.index("terminal_recent_frauds")] == 2


def test_an_hour_with_a_genuine_label_ends_the_streak_of_frauds() -> None:
    """Two hours of nothing but fraud are the streak; the mixed hour before them is not, and its fraud came before."""
    history = TerminalHistory()
    mixed = [("x", T0 + 1, False), ("x", T0 + 2, True)]
    frauds = [("x", T0 + HOUR_MS + 1, True), ("x", T0 + HOUR_MS + 2, True), ("x", T0 + 4 * HOUR_MS + 1, True)]
    add(history, mixed + frauds)
    row = dict(zip(TERMINAL_FEATURES, features(history, [("x", T0 + LABEL_DELAY_MS + 9 * HOUR_MS)])[0], strict=True))
    assert (row["terminal_fraud_streak"], row["terminal_streak_hours"]) == (3, 7)
    assert (row["terminal_hours_since_genuine"], row["terminal_frauds_before_streak"]) == (8, 1)
    assert row["terminal_labels_since_fraud"] == 0
    add(history, [("x", T0 + 5 * HOUR_MS + 1, False)])
    row = dict(zip(TERMINAL_FEATURES, features(history, [("x", T0 + LABEL_DELAY_MS + 9 * HOUR_MS)])[0], strict=True))
    assert (row["terminal_fraud_streak"], row["terminal_streak_hours"]) == (0, 0)
    assert (row["terminal_labels_since_fraud"], row["terminal_frauds_before_streak"]) == (1, 4)


def test_a_busy_terminal_costs_an_entry_an_hour() -> None:
    """A million labels in a month take the room of 721."""
    history = TerminalHistory()
    for day in range(30):
        times = T0 + day * DAY_MS + np.arange(33_333) * 2500
        history.add(["x"] * len(times), times, np.zeros(len(times), np.bool_))
    (key, payload), = history.snapshot(dirty_only=False)  # fmt: skip
    assert key == b"x" and payload is not None and len(payload) <= 721 * 8 + 24
    assert features(history, [("x", T0 + 38 * DAY_MS)])[0, 4] > 900_000


def test_labels_may_run_a_year_ahead_of_payments() -> None:
    """A worker that starts over has read all labels before its first payment: it sees what it saw live."""
    live, late = TerminalHistory(), TerminalHistory()
    early = [("x", T0 + k * HOUR_MS, k % 3 == 0) for k in range(50)]
    add(live, early)
    add(late, [*early, *(("x", T0 + day * DAY_MS, True) for day in range(3, 365))])
    moments = [("x", T0 + LABEL_DELAY_MS + k * HOUR_MS) for k in range(50)]
    assert np.array_equal(features(live, moments), features(late, moments))
