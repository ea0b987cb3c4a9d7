"""The demo's counts, its page, and its workers' end."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streams.commands.demo import demo_partitions
from streams.commands.demo_tally import Latencies, Tally
from streams.commands.demo_view import DemoView
from streams.contract.events import DeadLetter, Decision, RankedItem, Reason, Recommendation, Timings
from streams.contract.topics import Topics
from streams.processes.worker_pool import WorkerEnded, WorkerPool
from streams.replaying.event_files import Slice
from streams.settings import load_settings


class Record:
    """What a consumer hands out, as far as the tally looks at it."""

    def __init__(self, topic: str, value: bytes | None) -> None:
        self._topic, self._value = topic, value

    def topic(self) -> str:
        return self._topic

    def value(self) -> bytes | None:
        return self._value

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0


TIMINGS = Timings(1.0, 1.0)


def _record(topic: str, event: Any) -> Message:
    return cast(Message, Record(topic, msgspec.json.encode(event)))


def _decision(name: str, decision: Literal["approve", "decline"] = "approve") -> Message:
    reasons = [Reason("baseline", -5.0), Reason("night", 2.0)]
    event = Decision("d", name, "c", "t", 3.0, 0, 0.5, decision, 0.5, reasons, "fraud", "0" * 64, 0, TIMINGS)
    return _record("fraud-decisions", event)


def _payments(*names: str) -> Slice:
    return Slice({"transaction_id": list(names)}, np.zeros(len(names), np.int64))


@given(st.lists(st.floats(0.0, 1_000.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_percentiles_are_within_a_bin(values: list[float], share: float) -> None:
    """A percentile is at most a tenth of a millisecond above the exact one."""
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    (found,) = latencies.percentiles(share)
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert found is not None
    assert exact - 1e-6 <= found <= exact + 0.1 + 1e-6


def test_percentiles_keep_the_order_of_the_question() -> None:
    """Shares may be asked for in any order; without values there is no percentile."""
    latencies = Latencies()
    assert latencies.percentiles(0.99, 0.5) == [None, None]
    for value in range(100):
        latencies.add(float(value))
    assert latencies.percentiles(0.99, 0.5) == [98.1, 49.1]


def test_answers_are_matched_by_id() -> None:
    """Each event needs one answer: none is lost, a second is a repeat, and others' events do not count."""
    now = [10.0]
    tally = Tally(("tx-1-", "ev-1-"), Topics(), clock=lambda: now[0])
    tally.start_timing()
    tally.sending("transactions", _payments("tx-1-a", "tx-1-b", "tx-1-c"))
    now[0] = 10.020
    tally.receive([_decision("tx-1-a"), _decision("tx-1-b", "decline"), _decision("tx-1-a"), _decision("tx-2-a")])
    assert (tally.pending, tally.repeated) == (1, 1)
    assert dict(tally.decisions) == {"approve": 1, "decline": 1}
    (p50,) = tally.recent_percentiles(0.5)
    assert p50 == pytest.approx(20.0, abs=0.11)


def test_records_of_others_are_passed_over() -> None:
    """On a cluster of the user's anything may stand in the topics: it neither counts nor ends the demo."""
    tally = Tally(("tx-", "ev-"), Topics())
    tally.sending("transactions", _payments("tx-a"))
    foreign = [None, b"", b"hello", b"null", b"[]", b'{"transaction_id":"tx-a"}', b"\xff"]
    for topic in ("fraud-decisions", "recommendations", "dead-letters"):
        tally.receive([cast(Message, Record(topic, value)) for value in foreign])
    assert (tally.pending, tally.repeated, tally.dead_letters, tally.answered.total()) == (1, 0, 0, 0)
    tally.receive([_decision("tx-a")])
    assert tally.pending == 0


def test_degraded_answers_are_counted_and_shown() -> None:
    """A demo whose model fails does not look like one whose model works."""
    tally = Tally(("tx-", "ev-"), Topics())
    tally.sending("transactions", _payments("tx-a", "tx-b"))
    tally.sending("clickstream", Slice({"event_id": ["ev-a"]}, np.zeros(1, np.int64)))
    rule = [Reason("night_amount", None, 612.5, 500.0)]
    by_rules = Decision(
        "d", "tx-a", "c", "t", 3.0, 0, None, "review", None, rule, "fraud", "0" * 64, 0, TIMINGS, "rules", True
    )
    slate = Recommendation("d", "ev-a", "s", [RankedItem("i", 0.1)], "popular", 0.1, "r", "0" * 64, 0, 0, TIMINGS, True)
    tally.receive([_record("fraud-decisions", by_rules), _decision("tx-b"), _record("recommendations", slate)])
    assert (tally.pending, tally.degraded) == (0, 2)
    for terminal in (True, False):
        out = io.StringIO()
        with DemoView(tally, "embedded Kafka", 60.0, Console(file=out, force_terminal=terminal, width=140)) as view:
            view.tick(phase="live")
        for text in ("2 degraded", "rules", "night_amount 612.5"):
            assert text in out.getvalue(), text


def test_history_has_no_latency() -> None:
    """What was sent before timing began counts as answered, not as late."""
    tally = Tally(("tx-", "ev-"), Topics())
    tally.sending("transactions", _payments("tx-a"))
    tally.start_timing()
    tally.receive([_decision("tx-a")])
    assert tally.pending == 0
    assert tally.latencies.percentiles(0.5) == [None]


def _view(console: Console, duration_s: float = 60.0) -> DemoView:
    tally = Tally(("tx-", "ev-"), Topics())
    tally.sending("transactions", _payments("tx-a", "tx-b"))
    tally.receive([_decision("tx-a", "decline")])
    items = [RankedItem("item-5", 1.0)]
    slate = Recommendation("d", "ev-a", "s-1", items, "sequence", 1.0, "recommender", "0" * 64, 0, 0, TIMINGS)
    tally.sending("clickstream", Slice({"event_id": ["ev-a"]}, np.zeros(1, np.int64)))
    tally.receive([_record("recommendations", slate)])
    letter = DeadLetter("transactions", 2, 7, None, None, "decode", "not-json", "expected JSON")
    tally.receive([_record("dead-letters", letter)])
    return DemoView(tally, "embedded Kafka", duration_s, console)


def test_page_shows_decisions_slates_and_dead_letters() -> None:
    """On a terminal, one page tells what happens."""
    out = io.StringIO()
    with _view(Console(file=out, force_terminal=True, width=140, height=40)) as view:
        view.tick(phase="live")
    page = out.getvalue()
    for text in ("decline", "night +2.0", "item-5", "transactions[2]@7", "not-json", "1:00"):
        assert text in page, text
    assert "baseline" not in page


def test_lines_where_there_is_no_terminal() -> None:
    """In a pipe or a CI log, a line now and then instead of a page, without control characters."""
    out = io.StringIO()
    with _view(Console(file=out, width=80)) as view:
        view.tick(phase="live")
        view.tick(phase="live")
        view.tick(phase="ending")
    lines = out.getvalue().splitlines()
    assert [line.split()[2] for line in lines if "waiting" in line] == ["live", "ending"]
    assert "waiting 1 " in lines[0] and "1 decline" in lines[0] and "1 dead letters" in lines[0]
    assert "\x1b" not in out.getvalue()


def test_worker_that_ends_early_is_reported_with_its_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that cannot start ends the command with the worker's own sentence, and its log's last lines."""
    environment = {"STREAMS_TOP_K": "0", "STREAMS_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    with (
        pytest.raises(WorkerEnded, match=r"worker 3 ended with exit code 1: .*top_k=0"),
        WorkerPool(1, tmp_path, environment, first_slot=3) as pool,
    ):
        pool.wait_until_ready()
    assert "worker 3:" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "workers", "expected"), [({}, 1, 2), ({}, 3, 3), ({"partitions": 8}, 3, 8)])
def test_partitions_of_a_broker_of_the_demos_own(given: dict[str, int], workers: int, expected: int) -> None:
    """One for each worker, 2 at least; a number that the user has set counts."""
    assert demo_partitions(load_settings(env={}, **given), workers) == expected
