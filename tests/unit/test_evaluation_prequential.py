"""The prequential protocol against the Handbook's own words, in sets and loops; and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifacts import Artifact
from models.errors import EvaluationError
from models.evaluation.baselines import BASELINES, BOOK_FEATURES, baseline_scores, book_features
from models.evaluation.leakage import refuse_knowledge_of
from models.evaluation.prequential import Payments, Week, card_precisions, mean
from models.simulator.blocks import DAY_MS
from models.simulator.payments import simulate_payments
from models.training.fraud import ordered

FIRST = int(datetime(2024, 3, 4, tzinfo=UTC).timestamp() * 1000)


def table(seed: int, days: int = 35, per_day: int = 40, cards: int = 150, fraud_share: float = 0.05):
    rng = np.random.default_rng(seed)
    count = days * per_day
    return ordered(
        {
            "card_id": [f"c{n}" for n in rng.integers(0, cards, count)],
            "terminal_id": [f"t{n}" for n in rng.integers(0, 9, count)],
            "event_time": np.sort(FIRST + rng.integers(0, days * DAY_MS, count)),
            "amount": rng.random(count) * 100,
            "is_fraud": rng.random(count) < fraud_share,
        }
    )


def handbook_test_set(payments, week: Week) -> list[int]:
    """Return the rows that the Handbook's get_train_test_set leaves in the test week, by day numbers as it has them."""
    columns = payments.table
    rows = range(len(columns["event_time"]))
    day = [int(time) // DAY_MS for time in columns["event_time"]]
    start = week.begin // DAY_MS - 14
    known = {columns["card_id"][r] for r in rows if start <= day[r] < start + 7 and columns["is_fraud"][r]}
    kept = []
    for number in range(7):
        delayed = start + 7 + number - 1
        known |= {columns["card_id"][r] for r in rows if day[r] == delayed and columns["is_fraud"][r]}
        kept += [r for r in rows if day[r] == start + 14 + number and columns["card_id"][r] not in known]
    return kept


def handbook_card_precisions(scores, cards, frauds, days, top):
    """Return the Handbook's card_precision_top_k for each day; ties by the smaller card."""
    found: set[int] = set()
    shares = []
    for today in sorted(set(days)):
        highest: dict[int, float] = {}
        compromised: dict[int, bool] = {}
        for score, card, fraud, day in zip(scores, cards, frauds, days, strict=True):
            if day == today and card not in found:
                highest[card] = max(score, highest.get(card, -1.0))
                compromised[card] = fraud or compromised.get(card, False)
        first = sorted(highest, key=lambda card: (-highest[card], card))[:top]
        detected = [card for card in first if compromised[card]]
        found |= set(detected)
        shares.append(len(detected) / top)
    return shares


@pytest.mark.parametrize("seed", range(8))
def test_cards_known_as_compromised_leave_as_in_the_handbook(seed: int) -> None:
    """Frauds of the training week, and of each day once it is more than seven days old, take their cards out."""
    payments = Payments(table(seed))
    for number in range(2):
        week = Week(FIRST + (15 + 5 * number) * DAY_MS)
        judged = payments.judged(week).tolist()
        assert judged == handbook_test_set(payments, week)
        assert 0 < len(judged) < payments.between(week.begin, week.end).stop - payments.between(week.begin, 0).start


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_card_precision_is_the_handbooks(seed: int, top: int) -> None:
    """Highest score of a card and day, any fraud of the day, cards found on earlier days gone; also with ties."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 60))
    scores = rng.integers(0, 5, count) / 4
    cards, days = rng.integers(0, 12, count), np.sort(rng.integers(0, 4, count))
    frauds = rng.random(count) < 0.4
    expected = handbook_card_precisions(scores.tolist(), cards.tolist(), frauds.tolist(), days.tolist(), top)
    assert card_precisions(scores, cards, frauds, days, top).tolist() == pytest.approx(expected)


def test_a_perfect_and_a_useless_model_have_the_known_figures() -> None:
    """Scores that are the labels reach 1; scores that are all equal reach one half and the share of frauds."""
    payments = Payments(table(1))
    rows = payments.judged(payments.weeks(FIRST + 14 * DAY_MS, 1)[0])
    perfect = payments.judge(payments.is_fraud[rows].astype(float), rows)
    assert perfect["auc"] == perfect["average_precision"] == 1 and perfect["calibration_error"] == 0
    useless = payments.judge(np.full(len(rows), 0.5), rows)
    share = payments.is_fraud[rows].mean()
    assert useless["auc"] == 0.5 and useless["average_precision"] == pytest.approx(share)
    assert mean([perfect, useless])["auc"] == 0.75


def test_weeks_outside_of_the_payments_are_refused() -> None:
    """A week needs its seven days, and fourteen before: training and label delay."""
    payments = Payments(table(1, days=35))
    assert [week.name for week in payments.weeks(FIRST + 14 * DAY_MS, 3)] == ["2024-03-18", "2024-03-25", "2024-04-01"]
    for first, count in ((13, 1), (14, 4), (29, 1), (-300, 1), (300, 1)):
        with pytest.raises(EvaluationError, match=r"expected payments from .* got 2024-03-04 to 2024-04-07"):
            payments.weeks(FIRST + first * DAY_MS, count)


def test_payments_that_cannot_be_judged_are_refused() -> None:
    """None at all, no fraud at all, one class in the week, negative amounts, scores that are no numbers."""
    good = table(1)
    empty = {name: column[:0] for name, column in good.items()}
    for columns, message in (
        (empty, "got none"),
        ({**good, "is_fraud": np.zeros_like(good["is_fraud"])}, "got none in 1,400 payments"),
        ({**good, "amount": good["amount"] - 50}, "negative"),
    ):
        with pytest.raises(EvaluationError, match=message):
            Payments(columns)
    week = Week(FIRST + 14 * DAY_MS)
    late = {**good, "is_fraud": good["is_fraud"] & (good["event_time"] >= week.end)}
    with pytest.raises(EvaluationError, match=r"week 2024-03-18: .* got 0 frauds"):
        Payments(late).judged(week)
    payments = Payments(good)
    rows = payments.judged(week)
    with pytest.raises(EvaluationError, match="finite"):
        payments.judge(np.where(np.arange(len(rows)) == 3, np.nan, 0.5), rows)


def test_baselines_learn_from_the_known_week_alone() -> None:
    """What happens before the training week, after it or in the test week changes no score of a baseline."""
    payments = Payments(ordered(dict(simulate_payments(12_000, seed=5, cards=150, terminals=60))))
    start = int(payments.event_time[0]) // DAY_MS * DAY_MS
    week = payments.weeks(start + 28 * DAY_MS, 1)[0]
    rows = payments.judged(week)
    features = book_features(payments.table)
    assert features.shape == (12_000, len(BOOK_FEATURES))
    known = payments.between(week.training_begin, week.known_until)
    outside = np.ones(len(features), np.bool_)
    outside[known] = False
    other = Payments({**payments.table, "is_fraud": np.where(outside, ~payments.is_fraud, payments.is_fraud)})
    for name in BASELINES:
        scores = baseline_scores(name, features, payments, week, rows)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert np.array_equal(scores, baseline_scores(name, features, other, week, rows))
        assert payments.judge(scores, rows)["auc"] > 0.6
    genuine = Payments({**payments.table, "is_fraud": payments.is_fraud & outside})
    with pytest.raises(EvaluationError, match="training days, got 0 frauds"):
        baseline_scores("xgboost", features, genuine, week, rows)


def artifact(tmp_path, source: str = "columns given", **ends: str) -> Artifact:
    split = {name: {"from": "2018-05-01", "to": end} for name, end in ends.items()}
    return Artifact({"kind": "fraud", "data": {"source": source}, "split": split}, {}, "0" * 64, tmp_path)


def test_artifact_that_knew_too_much_is_refused(tmp_path) -> None:
    """Training and validation must end a label delay before the first test day; the part that only measures may not."""
    times = np.array([datetime(2018, 4, 1).timestamp(), datetime(2018, 9, 30).timestamp()]).astype(np.int64) * 1000
    known_until = int(datetime(2018, 8, 1, tzinfo=UTC).timestamp() * 1000)
    refuse_knowledge_of(artifact(tmp_path, train="2018-07-01", validation="2018-07-31"), known_until, times)
    refuse_knowledge_of(
        artifact(tmp_path, train="2018-07-01", validation="2018-07-20", test="2018-09-01"), known_until, times
    )
    for parts in ({"validation": "2018-08-01"}, {"validation": "2018-07-01", "train": "2018-08-09"}):
        with pytest.raises(EvaluationError, match="labels are known 7 days late"):
            refuse_knowledge_of(artifact(tmp_path, **{"train": "2018-07-01", **parts}), known_until, times)
    with pytest.raises(EvaluationError, match="cannot be told"):
        refuse_knowledge_of(artifact(tmp_path, train="2018-07-01"), known_until, times)


def test_simulated_training_data_is_another_world_unless_of_the_same_time(tmp_path) -> None:
    """The shipped artifact may be judged on payments of other years, and not on the simulator's own."""
    times = np.array([datetime(2018, 4, 1).timestamp(), datetime(2018, 9, 30).timestamp()]).astype(np.int64) * 1000
    simulated = artifact(tmp_path, "simulator, seed 7", train="2019-06-01", validation="2019-07-01")
    for part in simulated.manifest["split"].values():
        part["from"] = "2019-05-01"
    refuse_knowledge_of(simulated, int(times[0]), times)
    with pytest.raises(EvaluationError, match="labels are known"):
        refuse_knowledge_of(
            artifact(tmp_path, "simulator, seed 7", train="2018-06-01", validation="2018-07-01"), int(times[0]), times
        )
