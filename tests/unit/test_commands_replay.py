"""Replays: pace, and labels that come when they are due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.clients.event_producer import Delivery
from streams.contract.topics import LABELS, TRANSACTIONS, Topics
from streams.replaying.event_files import Slice
from streams.replaying.pacing import SLICE_RECORDS_MAX, Pace, Replay, encode, run

DAY_MS = 86_400_000


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Log:
    """Stands where the producer stands and writes down what is sent, and when confirmations are awaited."""

    topics = Topics()

    def __init__(self) -> None:
        self.entries: list[tuple[str, bytes, dict[str, Any]] | str] = []

    def send(self, topic: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.entries += [(topic, key, orjson.loads(value)) for key, value in zip(keys, values, strict=True)]

    def flush(self) -> None:
        self.entries.append("confirmed")

    def poll(self, wait_s: float = 0.0) -> None:
        """Nothing to report."""


def _slice(times: Sequence[int], first: int = 0) -> Slice:
    count = len(times)
    return Slice(
        {
            "transaction_id": [f"tx-{first + i}" for i in range(count)],
            "event_time": list(times),
            "card_id": [f"card-{i % 3}" for i in range(count)],
            "terminal_id": ["t"] * count,
            "amount": [1.0] * count,
        },
        np.array(times, np.int64),
        [None if i % 5 == 4 else i % 2 == 1 for i in range(count)],
    )


def _replay(slices: list[Slice], log: Log, pace: Pace | None = None, delay_ms: int | None = None) -> Replay:
    return Replay(slices, TRANSACTIONS, cast(Delivery, log), pace or Pace(), label_delay_ms=delay_ms)


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=30), st.floats(0.5, 5_000.0))
def test_rate_is_never_exceeded_and_made_up_for(gaps: list[float], rate: float) -> None:
    """However unevenly it is asked, by any time a pace has let go rate * time events and one, no more and no less."""
    clock = Clock()
    pace = Pace(rate=rate, clock=clock)
    taken = 0
    for gap in gaps:
        taken += pace.take(np.zeros(20_000, np.int64))
        assert taken == int((clock.now - 100.0) * rate) + 1
        clock.now += gap


def test_speedup_follows_event_time() -> None:
    """At 3600 times, an hour of events goes in a second, those of one instant together."""
    clock = Clock()
    pace = Pace(speedup=3600.0, clock=clock)
    times = np.array([0, 0, 1_800_000, 3_600_000, 90_000_000], np.int64)
    assert pace.take(times) == 2
    clock.now += 0.4
    assert pace.take(times[2:]) == 0
    clock.now += 0.1
    assert pace.take(times[2:]) == 1
    clock.now += 24.5
    assert pace.take(times[3:]) == 2


def test_speedup_that_was_reached_is_told() -> None:
    """A producer that keeps up reaches what was asked, one that comes for events too late reaches less."""
    clock = Clock()
    pace = Pace(speedup=3600.0, clock=clock)
    times = np.arange(0, 36_000_000, 60_000, dtype=np.int64)
    assert pace.speedup_reached() is None
    taken = pace.take(times)
    assert pace.speedup_reached() is None
    while taken < len(times):
        clock.now += 0.005
        taken += pace.take(times[taken:])
    reached = pace.speedup_reached()
    assert reached is not None and 3_590.0 < reached <= 3_600.0
    clock.now += 100.0
    assert pace.speedup_reached() == reached  # what follows the last event is not its time

    early = Pace(speedup=3600.0, clock=clock)
    early.take(times[:1])
    clock.now += 0.02
    early.take(times[1:])
    before = early.speedup_reached()
    clock.now += 0.005
    assert early.take(times[2:]) == 0
    assert early.speedup_reached() == before  # where nothing was due, nothing is late

    slow = Pace(speedup=3600.0, clock=clock)
    slow.take(times[:1])
    clock.now += 100.0
    slow.take(times[1:])
    assert slow.speedup_reached() == pytest.approx(359.4)


def test_history_goes_at_once_and_the_rest_waits_for_the_clock() -> None:
    """What lies before the history's end is not paced; what follows starts from zero when it is begun."""
    clock = Clock()
    pace = Pace(rate=10.0, history_until=100, clock=clock)
    times = np.array([1, 50, 99, 100, 101, 102], np.int64)
    assert pace.take(times) == 3
    assert not pace.history_over
    assert pace.take(times[3:]) == 0
    assert pace.history_over
    clock.now += 60.0
    assert pace.take(times[3:]) == 0
    pace.begin()
    assert pace.take(times[3:]) == 1
    clock.now += 0.1001
    assert pace.take(times[4:]) == 1


@given(
    st.lists(st.integers(0, 3 * DAY_MS), min_size=1, max_size=60).map(sorted),
    st.sampled_from([0, 1, 3_600_000, DAY_MS, 30 * DAY_MS]),
    st.integers(1, 20),
)
def test_each_label_comes_once_and_before_the_payments_of_its_day(times: list[int], delay_ms: int, cut: int) -> None:
    """A label due at a payment's time is confirmed before that payment is sent; none is early, none is forgotten."""
    log = Log()
    slices = [_slice(times[i : i + cut], first=i) for i in range(0, len(times), cut)]
    run([_replay(slices, log, delay_ms=delay_ms)], cast(Delivery, log), tick=lambda: None)
    sent = [entry for entry in log.entries if isinstance(entry, tuple)]
    payments = [value for topic, _, value in sent if topic == TRANSACTIONS.name]
    assert [value["event_time"] for value in payments] == times
    expected = {
        name: label
        for part in slices
        for name, label in zip(part.fields["transaction_id"], part.labels or [], strict=True)
        if label is not None
    }
    labels = [value for topic, _, value in sent if topic == LABELS.name]
    assert {value["transaction_id"]: value["is_fraud"] for value in labels} == expected
    assert len(labels) == len(expected)
    by_id = {value["transaction_id"]: value for value in payments}
    assert all(value["event_time"] == by_id[value["transaction_id"]]["event_time"] for value in labels)

    known: set[str] = set()
    waiting: set[str] = set()
    seen: set[str] = set()
    for entry in log.entries:
        if entry == "confirmed":
            known |= waiting
            continue
        topic, _, value = cast(tuple[str, bytes, dict[str, Any]], entry)
        if topic == LABELS.name:
            waiting.add(value["transaction_id"])
        else:
            clock = value["event_time"]
            seen.add(value["transaction_id"])
            # Within an hour none need be known: these payments may go together.
            lasting = max(delay_ms, 3_600_000)
            due = {v["transaction_id"] for v in payments if v["event_time"] + lasting <= clock}
            assert due & expected.keys() <= known


def test_labels_are_held_until_they_are_due() -> None:
    """With a delay of 7 days, payments of six days have published no label; the rest comes at the end."""
    log = Log()
    replay = _replay([_slice([day * DAY_MS for day in range(6)])], log, delay_ms=7 * DAY_MS)
    while replay.advance() is not None:
        pass
    assert replay.labels == 0
    replay.finish()
    assert replay.labels == 5


def test_keys_are_the_cards() -> None:
    """A record's key is its card, for payments and labels alike."""
    log = Log()
    run([_replay([_slice([1, 2, 3, 4])], log, delay_ms=0)], cast(Delivery, log), tick=lambda: None)
    sent = [entry for entry in log.entries if isinstance(entry, tuple)]
    assert len(sent) == 8
    assert all(key == value["card_id"].encode() for _, key, value in sent)


def test_paced_replay_sends_all_and_waits_between() -> None:
    """A rate of 100/s takes ten seconds for a thousand events and one, and ends confirmed."""
    clock, log = Clock(), Log()
    replay = _replay([_slice(list(range(1001)))], log, Pace(rate=100.0, clock=clock))
    run([replay], cast(Delivery, log), tick=lambda: None, sleep=clock.sleep)
    assert replay.events == 1001
    assert 10.0 <= clock.now - 100.0 < 10.1
    assert log.entries[-1] == "confirmed"


def test_turns_are_bounded() -> None:
    """One turn sends at most SLICE_RECORDS_MAX, so that other streams and the screen have theirs."""
    replay = _replay([_slice(list(range(3 * SLICE_RECORDS_MAX)))], Log())
    assert replay.advance() == SLICE_RECORDS_MAX


def test_absent_optional_fields_are_left_out() -> None:
    """A null is not a value: a record without a currency has no currency."""
    assert encode({"a": ["x", "y"], "currency": ["EUR", None]}) == [b'{"a":"x","currency":"EUR"}', b'{"a":"y"}']
