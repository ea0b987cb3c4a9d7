"""The whole job on a real Kafka: payments, clicks and labels in; decisions, slates and dead letters out."""

from __future__ import annotations

import collections
import random
import threading
import time

import orjson
import pytest

from tests.support.oracle import FraudOracle, assert_each_decided_rightly, checkpointed_digests
from tests.support.traffic import BAD_PAYMENTS, clicks, payments
from tests.support.workers import Bench

pytestmark = pytest.mark.kafka


def test_every_payment_is_decided_and_every_bad_record_is_a_dead_letter(bench: Bench) -> None:
    """16 kinds of bad input, a tenth of 10,000 records: each a dead letter, each good one decided as offline."""
    good, labels = payments(9_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    kinds = list(BAD_PAYMENTS.values())
    mixed = [(orjson.dumps(p), p["card_id"].encode()) for p in good]
    generator = random.Random(5)
    for index in range(1_000):
        mixed.insert(generator.randrange(len(mixed)), (kinds[index % len(kinds)], b"c1"))  # type: ignore[arg-type]
    bench.produce("transactions", [value for value, _ in mixed], [key for _, key in mixed])
    worker = bench.start(0).wait_until_ready()
    bench.wait_for("fraud-decisions", 9_000)
    bench.wait_for("dead-letters", 1_000)

    decisions, letters = bench.read_json("fraud-decisions"), bench.read_json("dead-letters")
    inputs = bench.read("transactions")
    oracle = FraudOracle(inputs, bench.read("transaction-labels"))
    assert assert_each_decided_rightly(decisions, oracle) == 0
    assert len(letters) == 1_000
    bad = {(m.partition(), m.offset()) for m in inputs} - {(0, -1)}
    places = {(letter["partition"], letter["offset"]) for letter in letters}
    assert len(places) == 1_000 and places <= bad
    assert all(letter["topic"] == "transactions" and letter["stage"] == "decode" for letter in letters)
    assert collections.Counter(d["decision"] for d in decisions).keys() <= {"approve", "review", "decline"}
    assert all(bool(d["reasons"]) == (d["decision"] != "approve") for d in decisions)

    assert worker.get("/live")[0] == 200
    status, metrics = worker.get("/metrics")
    assert status == 200 and b'streams_records_total{job="fraud"} 10000.0' in metrics
    assert worker.stop() < 10.0
    assert checkpointed_digests(bench.read("test-card-state")) == oracle.digests


def test_every_click_is_answered_without_seen_items(bench: Bench) -> None:
    """Each click gets one slate that leaves out what the session has seen; unknown items get a working answer."""
    events = clicks(3_000)
    strangers = [
        dict(
            event_id=f"n{i}",
            event_time=events[-1]["event_time"] + i,
            session_id=f"new{i}",
            item_id="never-seen",
            event_type="view",
        )
        for i in range(20)
    ]
    bench.produce_json("clickstream", "session_id", events + strangers)
    bench.start(0).wait_until_ready()
    bench.wait_for("recommendations", 3_020)
    slates = {slate["event_id"]: slate for slate in bench.read_json("recommendations")}
    assert len(slates) == 3_020
    seen: dict[str, list[str]] = collections.defaultdict(list)
    for event in events:
        seen[event["session_id"]].append(event["item_id"])
        items = [item["item_id"] for item in slates[event["event_id"]]["items"]]
        assert len(items) == len(set(items)) == 20
        assert not set(items) & set(seen[event["session_id"]][-20:])
    assert {slates[s["event_id"]]["strategy"] for s in strangers} == {"popular"}


@pytest.mark.settings(checkpoint_interval_s=1, session_timeout_s=6)
def test_nothing_is_lost_through_kills_and_rebalances(bench: Bench) -> None:
    """kill -9 twice under load, a second worker joining and leaving: all decided, state as if nothing had happened."""
    records, labels = payments(60_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    stopped = threading.Event()

    def traffic() -> None:
        for begin in range(0, len(records), 500):
            bench.produce_json("transactions", "card_id", records[begin : begin + 500])
            time.sleep(0.2)
        stopped.set()

    load = threading.Thread(target=traffic)
    load.start()
    first = bench.start(0).wait_until_ready()
    bench.wait_for("fraud-decisions", 2_000)
    first.kill()
    first = bench.start(0).wait_until_ready()
    bench.wait_for("fraud-decisions", bench.count("fraud-decisions") + 2_000)
    second = bench.start(1).wait_until_ready()
    bench.wait_for("fraud-decisions", bench.count("fraud-decisions") + 2_000)
    second.stop()
    first.kill()
    last = bench.start(0).wait_until_ready()
    load.join()
    assert stopped.is_set()
    bench.wait_for("fraud-decisions", 60_000)
    oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))

    def all_decided() -> bool:
        return len({d["transaction_id"] for d in bench.read_json("fraud-decisions")}) == 60_000

    deadline = time.monotonic() + 60
    while not all_decided() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert_each_decided_rightly(bench.read_json("fraud-decisions"), oracle)
    assert last.stop() < 10.0
    assert checkpointed_digests(bench.read("test-card-state")) == oracle.digests
