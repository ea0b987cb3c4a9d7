"""Decisions without the model: rules on figures that are computed anyway."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.cards import CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import TerminalHistory
from models.fraud.runner import FraudRunner
from models.simulator.payments import simulate_payments
from streams.contract.events import Reason
from streams.policy.rules import Rules
from streams.policy.verdicts import APPROVE, REVIEW, Verdicts
from streams.settings import Settings

RULES = Rules(card_count_10min=4, amount_over_typical=5.0, terminal_frauds=2.0, night_amount=500.0)
USUAL = {"amount": 20.0, "card_count_10min": 1.0, "card_amount_over_typical": 1.0, "terminal_recent_frauds": 0.0}


def rows(*changes: dict[str, float]) -> NDArray[np.float32]:
    features = np.zeros((len(changes), len(FRAUD_FEATURES)), np.float32)
    for row, change in enumerate(changes):
        for name, value in (USUAL | change).items():
            features[row, FRAUD_FEATURES.index(name)] = value
    return features


@pytest.mark.parametrize(
    ("rule", "below", "reached"),
    [
        ("card_count_10min", {"card_count_10min": 3.0}, {"card_count_10min": 4.0}),
        ("amount_over_typical", {"card_amount_over_typical": 4.99}, {"card_amount_over_typical": 5.0}),
        ("terminal_frauds", {"terminal_recent_frauds": 1.8}, {"terminal_recent_frauds": 2.0}),
        ("night_amount", {"amount": 499.0, "is_night": 1.0}, {"amount": 500.0, "is_night": 1.0}),
    ],
)
def test_each_rule_reviews_from_its_limit_on(rule: str, below: dict[str, float], reached: dict[str, float]) -> None:
    """Below it a payment is approved without a reason; at it the reason names rule, value and limit."""
    verdicts = RULES.decide(rows(below, reached), 3)
    assert verdicts.decisions.tolist() == [APPROVE, REVIEW]
    assert verdicts.reasons[0] == []
    limit = getattr(RULES, rule)
    assert verdicts.reasons[1] == [Reason(rule, None, limit, limit)]


def test_a_large_amount_by_day_is_no_reason() -> None:
    """The rule on amounts is one of the night."""
    assert RULES.decide(rows({"amount": 9_000.0}), 3).decisions.tolist() == [APPROVE]


def test_rules_make_no_score_and_decline_nothing() -> None:
    """However many rules hold a payment up it is reviewed, and nobody is told a probability."""
    all_of_them = {"card_count_10min": 50.0, "card_amount_over_typical": 900.0, "terminal_recent_frauds": 5.0}
    verdicts = RULES.decide(rows(all_of_them | {"amount": 5e4, "is_night": 1.0}, {}), 2)
    assert verdicts.decisions.tolist() == [REVIEW, APPROVE]
    assert (verdicts.scores, verdicts.confidences) == ([None, None], [None, None])
    assert [each.feature for each in verdicts.reasons[0]] == ["card_count_10min", "amount_over_typical"]


def test_default_rules_catch_about_half_of_the_simulators_fraud() -> None:
    """They are worth having without a model, and do not send every payment to review; `-s` prints the documents' figures."""
    settings = Settings()
    rules = Rules(
        settings.rule_card_count_10min,
        settings.rule_amount_over_typical,
        settings.rule_terminal_frauds,
        settings.rule_night_amount,
    )
    columns = dict(simulate_payments(300_000, 501, cards=3_000, terminals=1_500))
    half = len(columns["is_fraud"]) // 2
    features = replay(PaymentFeatures(CardHistory(), TerminalHistory()), columns)[half:]
    is_fraud = columns["is_fraud"][half:]
    model = FraudRunner.load(device="cpu")
    by_model = model.score(features) >= model.thresholds["review"]
    by_rules = rules.decide(features, 0).decisions == REVIEW
    for name, held in (("rules", by_rules), ("model", by_model)):
        print(
            f"{name}: {held.mean():.4f} held up, {is_fraud[held].mean():.2f} of them and {held[is_fraud].mean():.2f} of fraud"
        )
    assert by_rules.mean() < 0.02
    assert by_rules[is_fraud].mean() > 0.45 and is_fraud[by_rules].mean() > 0.35


def test_parts_are_joined_in_order() -> None:
    """A micro-batch in parts, or without any payment, gives what it gives as a whole."""
    features = rows({}, {"card_count_10min": 9.0}, {}, {"amount": 600.0, "is_night": 1.0})
    whole = RULES.decide(features, 3)
    joined = Verdicts.joined([RULES.decide(features[:1], 3), RULES.decide(features[1:], 3)])
    assert joined.decisions.tolist() == whole.decisions.tolist()
    assert (joined.scores, joined.confidences, joined.reasons) == (whole.scores, whole.confidences, whole.reasons)
    nothing = Verdicts.joined([])
    assert (len(nothing.decisions), nothing.scores, nothing.reasons) == (0, [], [])
