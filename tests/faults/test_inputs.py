"""Input that hurts: gaps, culprits, poison, repeats, skew, disorder. Items 4-7, 15, 16 of the catalogue of faults."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from streams.contract.topics import DEAD_LETTERS, TRANSACTIONS
from tests.faults.checker import percentile
from tests.faults.conftest import Form, Report
from tests.faults.trial import Trial
from tests.support.oracle import FraudOracle
from tests.support.traffic import BAD_PAYMENTS
from tests.support.workers import WorkerProcess, poll_until

pytestmark = pytest.mark.kafka

# Two cores shared with the broker and the load: below this, a percentile of latency tells of the machine.
LATENCY_FLOOR_S = 0.5


@pytest.mark.settings(batch_records_max=64, inline_records_max=64, fetch_records_max=64)
@pytest.mark.ci
def test_offset_gaps(trial: Trial, form: Form, report: Report) -> None:
    """4. A compacted input, then transactions of which 20 % abort, and a death on the way: CLEAN, nothing aborted scored."""
    records = trial.produce_labels(form(1_600, 20_000))
    compacted, rest = records[: len(records) // 2], records[len(records) // 2 :]
    trial.configure_topic(TRANSACTIONS.name, cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01)
    for begin in range(0, len(compacted), 200):
        trial.load(compacted[begin : begin + 200]).finish()
        time.sleep(0.2)
    left = wait_until_compacted(trial, len(compacted))
    trial.configure_topic(TRANSACTIONS.name, cleanup_policy="delete", segment_ms=None)
    excused = {each["transaction_id"] for each in compacted} - left
    for number, begin in enumerate(range(0, len(rest), 40)):
        chunk = rest[begin : begin + 40]
        if number % 5 == 2:
            trial.load(chunk, transaction="abort").finish()
            excused |= {each["transaction_id"] for each in chunk}
        else:
            trial.load(chunk, transaction="commit").finish()
    worker = trial.supervise(0, "exit:sent:3", "exit:before-commit:1")
    verdict = trial.verdict(faults=2, excused=frozenset(excused))
    report("4 offset gaps", verdict, compacted_away=len(compacted) - len(left))
    assert len(worker.codes) == 2 and not excused & trial.tail.ids


def wait_until_compacted(trial: Trial, produced: int) -> set[str]:
    """Return the ids that compaction has left, once it removes no more."""
    before: set[str] = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = {orjson.loads(m.value())["transaction_id"] for m in trial.read(TRANSACTIONS.name)}
        if left == before and len(left) < produced:
            return left
        before = left
        time.sleep(2.0)
    raise AssertionError(f"expected the cleaner to remove some of {produced} records, got {len(before)} left")


CULPRIT_AMOUNT = 666.25


@pytest.mark.ci
def test_model_that_fails_on_one_record(trial: Trial, form: Form, report: Report) -> None:
    """5. The model raises on one record of a batch: the rest is decided, the culprit is dead-lettered once, no restart."""
    records = trial.produce_labels(form(1_000, 20_000))
    culprit = records[len(records) // 2]
    culprit["amount"] = CULPRIT_AMOUNT
    worker = trial.supervise(0, lasting=[f"culprit:{CULPRIT_AMOUNT}"])
    trial.load(records).finish()
    verdict = trial.verdict(30, faults=1, excused=frozenset({culprit["transaction_id"]}))
    report("5 model fails on a record", verdict, restarts=len(worker.codes))
    place = trial.confirmed[culprit["transaction_id"]]
    letters = trial.read_json(DEAD_LETTERS.name)
    assert [(each["partition"], each["offset"], each["stage"]) for each in letters] == [
        (place.partition, place.offset, "inference")
    ]
    assert not worker.codes


@pytest.mark.settings(model_failure="degrade")
def test_model_that_fails_on_everything_for_a_while(trial: Trial, form: Form, report: Report) -> None:
    """5. Decided by rules, then by the model again without a restart, a death on the way: each payment decided once.

    The state is that of a run whose model never failed; at most seven payments in a row are set aside before it is known.
    """
    records = trial.produce_labels(form(2_000, 20_000))
    worker = trial.supervise(0, "exit:before-commit:4", lasting=["broken:1.5"])
    load = trial.load(records, rate=form(150, 800))
    load.finish()
    poll_until(lambda: worker.codes, 60, "the death of the first worker")
    trial.wait_for_decisions(len(records) - 14)
    letters = trial.read_json(DEAD_LETTERS.name)
    assert {each["stage"] for each in letters} <= {"inference"} and len(letters) <= 14
    places = {(each["partition"], each["offset"]) for each in letters}
    aside = {name for name, each in trial.confirmed.items() if (each.partition, each.offset) in places}
    report("5 model fails on everything", trial.verdict(faults=2, excused=frozenset(aside), degraded=True))
    kinds = [bool(each.value.get("degraded")) for each in trial.tail.seen]
    assert any(kinds) and not any(kinds[-100:]), "by rules first, by the model in the end"
    assert b"streams_degraded_total" in worker.worker.get("/metrics")[1]
    assert orjson.loads(worker.worker.get("/ready")[1])["degraded"] == []
    assert len(worker.codes) == 1


@pytest.mark.alone
def test_poison(trial: Trial, form: Form, report: Report) -> None:
    """6. 10 % bad input of 16 kinds: no restart, as many dead letters, and the good are decided nearly as fast."""
    count, rate = form(1_500, 20_000), form(200, 500)
    records = trial.produce_labels(2 * count)
    worker = trial.supervise(0)
    worker.worker.wait_until_ready()
    trial.load(records[:50]).finish()
    trial.wait_for_decisions(50)
    trial.load(records[50:count], rate).finish()
    load = trial.load(records[count:], rate)
    kinds = list(BAD_PAYMENTS.values())
    bad = count // 9
    for begin in range(0, bad, 10):
        values = [kinds[number % len(kinds)] for number in range(begin, min(bad, begin + 10))]
        trial.produce(TRANSACTIONS.name, values, [b"c1"] * len(values))
        time.sleep(10 * (count / rate) / bad)
    load.finish()
    verdict = trial.verdict(faults=bad)
    good_s = percentile(trial.latencies(each["transaction_id"] for each in records[50:count]), 0.99)
    beside_bad_s = percentile(trial.latencies(each["transaction_id"] for each in records[count:]), 0.99)
    report("6 poison", verdict, p99_ms=1e3 * good_s, p99_beside_bad_ms=1e3 * beside_bad_s)
    letters = trial.read_json(DEAD_LETTERS.name)
    assert len(letters) == bad and len({(each["partition"], each["offset"]) for each in letters}) == bad
    assert not worker.codes
    assert beside_bad_s <= max(2 * good_s, LATENCY_FLOOR_S)


STRICT_BYTES_MAX = 1_024


def test_dead_letters_replayed_twice(trial: Trial, form: Form, report: Report) -> None:
    """7. Records refused for their size, the bound widened, the dead letters replayed twice: put back and decided once."""
    records = trial.produce_labels(form(300, 3_000))
    large = records[::10]
    for each in large:
        each["note"] = "x" * 2_000
    strict = trial.fork(0, record_bytes_max=STRICT_BYTES_MAX)
    trial.load(records).finish()
    poll_until(lambda: trial.count(DEAD_LETTERS.name) >= len(large), 60, "the dead letters")
    trial.wait_for_decisions(len(records) - len(large))
    strict.stop()
    wide = trial.fork(0).wait_until_ready()
    for _ in range(2):
        streams(trial, "dead-letters", "replay", "--topic", TRANSACTIONS.name)
    trial.wait_for_decisions(len(records))

    def what_was_accepted(inputs: Sequence[Any], labels: Sequence[Any]) -> FraudOracle:
        return FraudOracle([m for m in inputs if m.headers() or len(m.value()) <= STRICT_BYTES_MAX], labels)

    report("7 dead letters replayed twice", trial.verdict(30, faults=2, oracle=what_was_accepted))
    assert duplicates(wide) == 0  # the second replay found every letter marked


def duplicates(worker: WorkerProcess) -> float:
    """Return how many repeated payments a worker has counted."""
    found = re.search(rb'streams_duplicates_total{topic="transactions"} (\S+)', worker.get("/metrics")[1])
    return float(found[1]) if found else 0.0


def streams(trial: Trial, *arguments: str) -> None:
    """Run the `streams` command on the trial's brokers."""
    command = [sys.executable, "-c", "from streams.commands import main; main(prog_name='streams')", *arguments]
    environment = {**os.environ, "STREAMS_BOOTSTRAP_SERVERS": trial.servers}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


@pytest.mark.alone
def test_skewed_keys(trial: Trial, form: Form, report: Report) -> None:
    """15. 80 % of the records on one card: CLEAN, and the other partitions' p99 is at most twice that of uniform load."""
    count, rate = form(1_500, 20_000), form(200, 1_000)
    records = trial.produce_labels(2 * count)
    uniform, skewed = records[:count], records[count:]
    generator = random.Random(15)
    for each in skewed:
        if generator.random() < 0.8:
            each["card_id"] = "hot"
    trial.fork(0).wait_until_ready()
    trial.load(uniform[:50]).finish()
    trial.wait_for_decisions(50)
    trial.load(uniform[50:], rate).finish()
    trial.load(skewed, rate).finish()
    verdict = trial.verdict(faults=1)
    hot = next(trial.confirmed[each["transaction_id"]].partition for each in skewed if each["card_id"] == "hot")
    others = [number for number in range(4) if number != hot]
    uniform_s = percentile(trial.latencies([each["transaction_id"] for each in uniform[50:]]), 0.99)
    others_s = percentile(trial.latencies([each["transaction_id"] for each in skewed], others), 0.99)
    report("15 80 % on one key", verdict, p99_uniform_ms=1e3 * uniform_s, p99_others_ms=1e3 * others_s)
    assert others_s <= max(2 * uniform_s, LATENCY_FLOOR_S)


def test_late_and_shuffled_input(trial: Trial, form: Form, report: Report) -> None:
    """16. Payments late and out of order, a death on the way: features and scores are the oracle's for the log's order."""
    records = trial.produce_labels(form(2_000, 50_000))
    trial.load(disordered(records), rate=form(400, 2_000))
    worker = trial.supervise(0, "exit:before-commit:5")
    report("16 late and shuffled input", trial.verdict(faults=1))
    trial.assert_state_is_exact(worker.release())


def disordered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records shuffled within windows of 50, one in ten of them held back by up to a third of all."""
    generator = random.Random(16)
    span = len(records) // 3
    order = [
        (number + generator.uniform(0, 50) + (generator.uniform(0, span) if generator.random() < 0.1 else 0), number)
        for number in range(len(records))
    ]
    return [records[number] for _, number in sorted(order)]


def test_repeated_ids(trial: Trial, form: Form, report: Report) -> None:
    """16. One payment in five comes twice, some across a worker's death: each id is decided once, repeats are counted."""
    records = trial.produce_labels(form(1_000, 20_000))
    generator = random.Random(17)
    again = [
        (number + generator.uniform(0, 200), each) for number, each in enumerate(records) if generator.random() < 0.2
    ]
    both = sorted([*((float(number), each) for number, each in enumerate(records)), *again], key=lambda pair: pair[0])
    worker = trial.supervise(0, "exit:before-commit:2")
    trial.load([each for _, each in both], rate=form(100, 1_000)).finish()
    verdict = trial.verdict(30, faults=len(again))
    report("16 repeated ids", verdict)
    poll_until(lambda: 0 < duplicates(worker.worker) <= len(again), 30, "repeats to be counted")
