"""The whole job on a real Kafka: payments, clicks and labels in; decisions, slates and dead letters out."""

from __future__ import annotations

import collections
import random
import signal
import threading

import msgspec
import orjson
import pytest

from streams.commands.dead_letters import original_value
from streams.contract.events import LETTER_VALUE_BYTES_MAX, DeadLetter
from tests.support.oracle import FraudOracle, checkpointed_digests, repeats_of_right_decisions
from tests.support.traffic import BAD_PAYMENTS, clicks, payments
from tests.support.workers import Bench, poll_until

pytestmark = pytest.mark.kafka
HOUR_MS = 3_600_000


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
    worker = bench.start(0, interpreter=True).wait_until_ready()
    bench.wait_for("fraud-decisions", 9_000)
    bench.wait_for("dead-letters", 1_000)

    inputs = bench.read("transactions")
    oracle = FraudOracle(inputs, bench.read("transaction-labels"))
    assert repeats_of_right_decisions(bench.read("fraud-decisions"), oracle) == 0
    letters = [msgspec.json.decode(message.value(), type=DeadLetter) for message in bench.read("dead-letters")]
    bad = {(m.partition(), m.offset()): m.value() for m in inputs if m.value() in kinds}
    assert len(letters) == len(bad) == 1_000
    assert {(letter.partition, letter.offset): original_value(letter) for letter in letters} == bad
    assert all(letter.topic == "transactions" and letter.stage == "decode" for letter in letters)
    decisions = bench.read_json("fraud-decisions")
    assert {d["decision"] for d in decisions} == {"approve", "review", "decline"}
    assert all(bool(d["reasons"]) == (d["decision"] != "approve") for d in decisions)

    assert worker.get("/live")[0] == 200
    status, metrics = worker.get("/metrics")
    assert status == 200 and b'streams_records_total{job="fraud"} 10000.0' in metrics
    assert worker.stop() < 10.0
    assert checkpointed_digests(bench.read(f"{bench.application_id}-card-state")) == oracle.digests


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


def test_record_too_long_for_a_letter_is_cut_and_its_neighbours_are_decided(bench: Bench) -> None:
    """Keys and values that JSON or base64 make longer than a topic takes, alone or together, stop no worker."""
    good, _ = payments(100)
    noise = random.Random(3).randbytes  # neither text nor to be compressed
    long = [(b"", b"\x01" * 400_000), (b"", noise(900_000)), (noise(950_000), b"c1"), (noise(500_000), noise(480_000))]
    bench.produce("transactions", [value for value, _ in long], [key for _, key in long])
    bench.produce_json("transactions", "card_id", good)
    bench.start(0)
    bench.wait_for("fraud-decisions", 100)
    bench.wait_for("dead-letters", len(long))
    letters = [msgspec.json.decode(message.value(), type=DeadLetter) for message in bench.read("dead-letters")]
    assert sorted((letter.key_bytes or 0, letter.value_bytes or 0) for letter in letters) == [
        (0, 950_000), (400_000, 0), (480_000, 0), (900_000, 0),
    ]  # fmt: skip
    (cut,) = (letter for letter in letters if letter.value_bytes)
    assert original_value(cut) == long[2][0][:LETTER_VALUE_BYTES_MAX]


def test_labels_that_come_between_payments_count_from_the_next_hour_on(bench: Bench) -> None:
    """Payments of hours already begun keep what was known then; those of a new hour wait for the labels before them.

    The worker stands still while labels and later payments arrive, so that it meets both at once.
    """
    records, labels = payments(9_000)
    hour = records[6_000]["event_time"] // HOUR_MS
    early = [record for record in records if record["event_time"] // HOUR_MS < hour]
    late = records[len(early) :]
    elsewhere = [labels[0] | {"transaction_id": f"x{i}", "terminal_id": f"elsewhere-{i % 500}"} for i in range(40_000)]
    worker = bench.start(0).wait_until_ready()
    bench.produce_json("transactions", "card_id", early)
    bench.wait_for("fraud-decisions", len(early))
    worker.process.send_signal(signal.SIGSTOP)
    bench.produce_json("transaction-labels", "card_id", elsewhere + labels)
    bench.produce_json("transactions", "card_id", late)
    worker.process.send_signal(signal.SIGCONT)
    bench.wait_for("fraud-decisions", len(records))

    inputs = bench.read("transactions")
    oracle, unlabelled = FraudOracle(inputs, bench.read("transaction-labels")), FraudOracle(inputs)
    names = {record["transaction_id"] for record in late}
    assert sum(abs(oracle.scores[name] - unlabelled.scores[name]) > 1e-3 for name in names) > 100, "labels tell nothing"
    oracle.scores = unlabelled.scores | {name: oracle.scores[name] for name in names}
    assert repeats_of_right_decisions(bench.read("fraud-decisions"), oracle) == 0


@pytest.mark.settings(checkpoint_interval_s=1, session_timeout_s=6)
def test_a_worker_without_a_slot_is_replaced_by_another(bench: Bench) -> None:
    """A worker without a slot has no stable name: after a kill -9 another takes over, and nothing is lost or repeated."""
    records, labels = payments(8_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    first = bench.start(None, interpreter=True).wait_until_ready()
    bench.produce_json("transactions", "card_id", records[:4_000])
    bench.wait_for("fraud-decisions", 1)
    first.kill()
    bench.produce_json("transactions", "card_id", records[4_000:])
    second = bench.start(None).wait_until_ready()
    bench.wait_for("fraud-decisions", 8_000)
    oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))
    assert repeats_of_right_decisions(bench.read("fraud-decisions"), oracle) == 0
    assert second.stop() < 10.0
    assert checkpointed_digests(bench.read(f"{bench.application_id}-card-state")) == oracle.digests


# Each of the four changes of ownership may repeat what was in flight or not yet committed.
REPEATS_MAX = 20_000


@pytest.mark.settings(guarantee="at_least_once", checkpoint_interval_s=1, session_timeout_s=6)
def test_nothing_is_lost_through_kills_and_rebalances(bench: Bench) -> None:
    """kill -9 twice under load, a second worker joining and leaving: all decided, state as if nothing had happened.

    Exactly once goes through far more of it, in tests/faults.
    """
    records, labels = payments(60_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    sent, enough = 0, threading.Event()

    def traffic() -> None:
        nonlocal sent
        while sent < len(records) and not enough.wait(0.2):
            bench.produce_json("transactions", "card_id", records[sent : sent + 500])
            sent += 500

    load = threading.Thread(target=traffic)
    first = bench.start(0).wait_until_ready()
    load.start()
    try:
        bench.wait_for("fraud-decisions", 2_000)
        first.kill()
        first = bench.start(0).wait_until_ready()
        bench.wait_for("fraud-decisions", bench.count("fraud-decisions") + 2_000)
        second = bench.start(1).wait_until_ready()
        bench.wait_for("fraud-decisions", bench.count("fraud-decisions") + 2_000)
        second.stop()
        first.kill()
        last = bench.start(0).wait_until_ready()
    finally:
        enough.set()
        load.join()
    assert sent < len(records), "the load ended before the last start: raise the number of payments"

    def all_decided() -> bool:
        return len({d["transaction_id"] for d in bench.read_json("fraud-decisions")}) >= sent

    bench.wait_for("fraud-decisions", sent)
    poll_until(all_decided, 60, f"decisions of {sent} payments")
    oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))
    assert repeats_of_right_decisions(bench.read("fraud-decisions"), oracle) <= REPEATS_MAX
    assert last.stop() < 10.0
    assert checkpointed_digests(bench.read(f"{bench.application_id}-card-state")) == oracle.digests
