"""Floors under the shipped models, on simulated traffic that they have not seen: seconds, always on."""

from __future__ import annotations

import numpy as np
import pytest

from models.artifacts import default_artifact, load_artifact
from models.evaluation.baselines import baseline_scores, book_features
from models.evaluation.prequential import Payments, mean
from models.evaluation.sessions import Task
from models.features.cards import CardHistory
from models.features.payments import PaymentFeatures, replay
from models.features.terminals import DAY_MS, TerminalHistory
from models.fraud.runner import FraudRunner
from models.recommender.examples import Sessions, prefixes
from models.recommender.network import Vocabulary
from models.recommender.runner import RecommenderRunner
from models.simulator.clicks import simulate_clicks
from models.simulator.payments import simulate_payments
from models.training.fraud import ordered


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_shipped_fraud_model_ranks_payments_of_other_seeds(seed: int) -> None:
    """It beats a logistic regression trained on the very traffic, and its scores are probabilities."""
    payments = Payments(ordered(dict(simulate_payments(60_000, seed=seed, cards=400, terminals=200))))
    runner = FraudRunner.load(device="cpu")
    features = replay(PaymentFeatures(CardHistory(), TerminalHistory()), dict(payments.table))
    book = book_features(payments.table)
    ours, baseline = [], []
    first = int(payments.event_time[0]) // DAY_MS * DAY_MS
    for week in payments.weeks(first + 63 * DAY_MS, 4):
        rows = payments.judged(week)
        ours.append(payments.judge(runner.score(features[rows]), rows))
        baseline.append(payments.judge(baseline_scores("logistic-regression", book, payments, week, rows), rows))
    found, beaten = mean(ours), mean(baseline)
    assert found["auc"] > max(0.85, beaten["auc"] + 0.05)
    assert found["average_precision"] > max(0.45, beaten["average_precision"] + 0.15)
    assert found["calibration_error"] < 0.01


def test_shipped_recommender_finds_next_clicks_of_another_seed() -> None:
    """Its slates hold the next click many times as often as the most popular items do."""
    artifact = load_artifact(default_artifact("recommender"))
    runner, vocabulary = RecommenderRunner(artifact, device="cpu"), Vocabulary.from_artifact(artifact)
    clicks = dict(simulate_clicks(20_000, seed=11))
    sessions: dict[str, list[int]] = {}
    index = runner.item_index(clicks["item_id"])
    for session, item in zip(clicks["session_id"], index.tolist(), strict=True):
        sessions.setdefault(session, []).append(item)
    lists = list(sessions.values())
    examples = prefixes(
        Sessions(np.concatenate(lists).astype(np.int32), np.cumsum([0, *map(len, lists)]).astype(np.int64))
    )

    class Indices:
        """Takes the text of an index for the item's id."""

        length = runner.length

        @staticmethod
        def item_index(ids: list[str]) -> np.ndarray:
            return np.array(list(map(int, ids)), np.int32)

    task = Task.of(examples, Indices(), vocabulary)  # type: ignore[arg-type]
    figures = {part: task.judge(task.rank(runner, part, lambda stage, done: None)) for part in ("blend", "popularity")}
    assert figures["blend"]["p_at_20"] > max(0.2, 3 * figures["popularity"]["p_at_20"]), figures
    assert figures["blend"]["coverage_at_20"] > 0.2
