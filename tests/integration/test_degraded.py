"""A worker whose model fails for everything, on a real Kafka: by the rules meanwhile, and what was set aside afterwards.

The model fails because two of its weights overflow to infinities of opposite signs, so that no score is a number.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from models.artifacts import default_artifact, load_artifact, save_artifact
from tests.support.oracle import FraudOracle, checkpointed_digests, repeats_of_right_decisions
from tests.support.traffic import payments
from tests.support.workers import Bench, poll_until

pytestmark = pytest.mark.kafka


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The shipped fraud model with weights that are finite and overflow."""
    artifact = load_artifact(default_artifact("fraud"))
    tensors = dict(artifact.tensors)
    *_, hidden, last = sorted(name for name in tensors if name.endswith(".weight"))
    tensors[hidden] = np.zeros_like(tensors[hidden])
    tensors[hidden.replace("weight", "bias")] = np.full(len(tensors[hidden]), 10.0, np.float32)
    tensors[last] = np.where(np.arange(tensors[last].size) % 2, 3e38, -3e38).astype(np.float32)[None]
    folder = tmp_path / "broken"
    save_artifact(folder, tensors, artifact.manifest)
    return folder


def streams(bench: Bench, *arguments: str) -> str:
    """Run the `streams` command on the bench's broker."""
    command = [sys.executable, "-c", "from streams.commands import main; main(prog_name='streams')", *arguments]
    environment = {**os.environ, "STREAMS_BOOTSTRAP_SERVERS": bench.servers}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_worker_that_may_degrade_decides_by_rules_and_leaves_the_state_of_a_healthy_one(
    bench: Bench, broken: Path
) -> None:
    """Each payment once, marked, without a score; pages and metrics tell; the next worker goes on as if nothing had been."""
    records, labels = payments(3_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    bench.produce_json("transactions", "card_id", records[:2_000])
    limits = {"card_count_10min": 2, "amount_over_typical": 3.5, "terminal_frauds": 0.5, "night_amount": 90.0}
    rules = {f"rule_{name}": limit for name, limit in limits.items()}
    worker = bench.start(0, fraud_artifact=broken, model_failure="degrade", **rules).wait_until_ready()
    bench.wait_for("fraud-decisions", 2_000)
    decisions = bench.read_json("fraud-decisions")
    assert len({each["transaction_id"] for each in decisions}) == len(decisions) == 2_000
    assert {(each["degraded"], each["strategy"], each["score"]) for each in decisions} == {(True, "rules", None)}
    assert {each["decision"] for each in decisions} == {"approve", "review"}
    assert {each["model_version"] for each in decisions} == {load_artifact(broken).version}
    named = [reason for each in decisions for reason in each["reasons"]]
    assert all(reason["value"] >= reason["limit"] == limits[reason["feature"]] for reason in named)
    assert {reason["feature"] for reason in named} >= limits.keys() - {"terminal_frauds"}
    assert orjson.loads(worker.get("/ready")[1]) == {"ready": True, "reason": None, "degraded": ["fraud"]}
    assert b'streams_degraded_total{job="fraud"} 2000.0' in worker.get("/metrics")[1]
    assert worker.stop() < 10.0

    assert bench.count("dead-letters") == 0
    bench.produce_json("transactions", "card_id", records[2_000:])
    healthy = bench.start(0).wait_until_ready()
    bench.wait_for("fraud-decisions", 3_000)
    oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))
    later = [m for m in bench.read("fraud-decisions") if "degraded" not in orjson.loads(m.value())]
    names = {record["transaction_id"] for record in records[2_000:]}
    oracle.scores = {name: score for name, score in oracle.scores.items() if name in names}
    oracle.order = {place: [n for n in order if n in names] for place, order in oracle.order.items()}  # type: ignore[assignment]
    assert repeats_of_right_decisions(later, oracle) == 0
    assert healthy.stop() < 10.0
    assert checkpointed_digests(bench.read(f"{bench.application_id}-card-state")) == oracle.digests


def test_a_worker_that_may_not_degrade_stops(bench: Bench, broken: Path) -> None:
    """The default: its last line says why, and nothing is committed or decided."""
    bench.produce_json("transactions", "card_id", payments(500)[0])
    last = bench.start(0, fraud_artifact=broken).wait_until_refused()
    assert "ModelFailed: the model failed for 8 records in a row" in last
    assert (bench.count("fraud-decisions"), bench.count("dead-letters")) == (0, 0)


@pytest.mark.settings(checkpoint_interval_s=600)
def test_payments_set_aside_by_a_model_are_replayed_and_decided_once(bench: Bench, broken: Path) -> None:
    """With the right scores, however often they go back, also after a kill -9 that leaves the log alone to restore from."""
    records, labels = payments(600)
    bench.produce_json("transaction-labels", "card_id", labels)
    aside = records[:5]
    bench.produce_json("transactions", "card_id", aside)
    worker = bench.start(0, fraud_artifact=broken).wait_until_ready()
    bench.wait_for("dead-letters", len(aside))
    letters = bench.read("dead-letters")
    assert {each["stage"] for each in map(orjson.loads, values(letters))} == {"inference"}
    worker.kill()

    worker = bench.start(0).wait_until_ready()
    bench.produce_json("transactions", "card_id", [*aside, *records[5:300]])
    bench.wait_for("fraud-decisions", 295)
    assert "5 went back to transactions" in streams(bench, "dead-letters", "replay")
    bench.wait_for("fraud-decisions", 300)
    places = {f"transactions[{each['partition']}]@{each['offset']}" for each in map(orjson.loads, values(letters))}
    sent = [dict(message.headers()) for message in bench.read("transactions") if message.headers()]
    assert {each["failed-at"].decode() for each in sent} == places
    assert {each["replayed-from"] for each in sent} == {b"dead-letters[0]@%d" % m.offset() for m in letters}
    worker.kill()

    worker = bench.start(0).wait_until_ready()
    send_again(bench)
    bench.produce_json("transactions", "card_id", records[300:])
    bench.wait_for("fraud-decisions", 600)
    poll_until(
        lambda: b'streams_duplicates_total{topic="transactions"} 10.0' in worker.get("/metrics")[1], 30, "repeats"
    )
    oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))
    decisions = bench.read_json("fraud-decisions")
    assert len(decisions) == 600
    scores = {each["transaction_id"]: each["score"] for each in decisions}
    assert scores.keys() == oracle.scores.keys()
    expected = np.float32(list(oracle.scores.values()))
    assert np.array_equal(np.float32([scores[name] for name in oracle.scores]), expected)
    assert worker.stop() < 10.0
    assert checkpointed_digests(bench.read(f"{bench.application_id}-card-state")) == oracle.digests


def values(messages: list[Any]) -> list[bytes]:
    return [message.value() for message in messages]


def send_again(bench: Bench) -> None:
    """Send the replayed records twice more, as interrupted replays would: same bytes, same headers."""
    producer = Producer({**bench.client, "partitioner": "murmur2_random"})
    for message in [m for m in bench.read("transactions") if m.headers()] * 2:
        producer.produce("transactions", message.value(), message.key(), headers=message.headers())
    assert producer.flush(30) == 0
