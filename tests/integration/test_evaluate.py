"""Figures through Kafka: those of the same scores computed in place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from models.simulator.payments import simulate_payments
from streams.commands import main
from streams.contract.topics import DECISIONS, TRANSACTIONS
from streams.judging.answers import AnswersIncomplete, answers
from streams.replaying.event_files import Slice

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("few_epochs")]


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_fraud_figures_through_kafka_are_the_offline_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every payment up to the week's end is decided once; settings of the caller do not reach the worker."""
    monkeypatch.setenv("STREAMS_TOP_K", "0")
    simulated = dict(simulate_payments(25_000, seed=5, cards=170, terminals=85))
    path = tmp_path / "payments.parquet"
    columns = {
        "tx_id": np.arange(25_000),
        "ts": pa.array(simulated["event_time"], pa.timestamp("ms")),
        "customer": simulated["card_id"],
        "terminal": simulated["terminal_id"],
        "amount": simulated["amount"],
        "fraud": simulated["is_fraud"].astype(np.int8),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    result = evaluate(
        "fraud", "--data", path, "--test-from", "2024-03-25", "--baselines", "none",
        "--through-kafka", "--json", tmp_path / "f.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["mean"]["streams, through Kafka"] == report["mean"]["streams"]
    assert report["kafka_score_difference_max"] == 0
    end = np.datetime64("2024-04-01").astype("datetime64[ms]").astype(np.int64)
    assert report["kafka_decisions"] == int((np.asarray(simulated["event_time"]) < end).sum())


def test_slates_through_kafka_are_the_offline_ones(tmp_path: Path) -> None:
    """Each example is a session of its own, unknown items among its clicks; what comes back is what was ranked here."""
    rng = np.random.default_rng(3)
    lists = [(rng.integers(0, 60) + np.arange(rng.integers(2, 30))) % 60 for _ in range(600)]
    train, test = tmp_path / "train.npz", tmp_path / "test.npz"
    np.savez(train, items=np.concatenate(lists), offsets=np.cumsum([0, *map(len, lists)]))
    prefixes = [np.where(rng.random(len(one)) < 0.2, 999, one) for one in lists[:120]]
    targets = rng.integers(0, 70, 120)
    np.savez(test, items=np.concatenate(prefixes), offsets=np.cumsum([0, *map(len, prefixes)]), targets=targets)
    result = evaluate(
        "recommender",
        "--train",
        train,
        "--test",
        test,
        "--examples",
        100,
        "--through-kafka",
        "--json",
        tmp_path / "r.json",
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["kafka_slates_different"] == 0 and report["examples"] == 100
    assert report["unknown_targets"] == int((targets[:100] >= 60).sum())
    assert report["parts"]["blend, through Kafka"] == report["parts"]["blend"]


def test_a_payment_without_decision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payment that the worker refuses has no decision: the error says how many are missing and why."""
    monkeypatch.setattr("streams.judging.answers.SILENCE_S_MAX", 3.0)
    times = np.array([1_704_067_200_000, 1_704_067_200_001])
    fields = {
        "transaction_id": ["a", "b"], "event_time": times.tolist(), "card_id": ["c", "c"], "terminal_id": ["t", "t"],
        "amount": [1.0, -1.0],
    }  # fmt: skip
    received: list[bytes] = []
    with pytest.raises(AnswersIncomplete, match=r"expected 2 answers, got 1 .* 1 dead letters.*out-of-range"):
        answers(
            [Slice(fields, times)],
            2,
            TRANSACTIONS,
            DECISIONS,
            settings={},
            receive=received.extend,
            tell=lambda stage, done: None,
        )
    assert len(received) == 1
