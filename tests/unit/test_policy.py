"""Decisions without the model: rules on figures that are computed anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.cards import CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import TerminalHistory
from models.fraud.runner import FraudRunner
from models.simulator.payments import simulate_payments
from streams.contract.events import Reason
from streams.errors import SettingsError
from streams.policy.rules import Rule, Rules, default_rules
from streams.policy.verdicts import APPROVE, REVIEW, Verdicts
from streams.settings import SETTINGS, Settings

LIMITS: dict[str, float] = {
    "card_count_10min": 4,
    "amount_over_typical": 5.0,
    "terminal_frauds": 2.0,
    "night_amount": 500.0,
}
RULES = Rules(default_rules(**LIMITS))
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
    limit = LIMITS[rule]
    assert verdicts.reasons[1] == [Reason(rule, None, limit, limit)]


def test_a_large_amount_by_day_is_no_reason() -> None:
    """The rule on amounts is one of the night."""
    assert RULES.decide(rows({"amount": 9_000.0}), 3).decisions.tolist() == [APPROVE]


def test_rules_make_no_score_and_decline_nothing() -> None:
    """A payment that every rule fires for is reviewed, never declined, and its decision carries no probability."""
    all_of_them = {"card_count_10min": 50.0, "card_amount_over_typical": 900.0, "terminal_recent_frauds": 5.0}
    verdicts = RULES.decide(rows(all_of_them | {"amount": 5e4, "is_night": 1.0}, {}), 2)
    assert verdicts.decisions.tolist() == [REVIEW, APPROVE]
    assert (verdicts.scores, verdicts.confidences) == ([None, None], [None, None])
    assert [each.feature for each in verdicts.reasons[0]] == ["card_count_10min", "amount_over_typical"]


def one_by_one(features: NDArray[np.float32], limits: dict[str, float], reasons_max: int) -> list[list[Reason]]:
    """Return the reasons of each payment by the default rules as they are written, a payment at a time."""
    reasons = []
    for row in features:
        payment = dict(zip(FRAUD_FEATURES, row, strict=True))
        figures = {
            "card_count_10min": payment["card_count_10min"],
            "amount_over_typical": payment["card_amount_over_typical"],
            "terminal_frauds": payment["terminal_recent_frauds"],
            "night_amount": payment["amount"] if payment["is_night"] else np.float32(0.0),
        }
        reached = [(name, figure) for name, figure in figures.items() if figure >= np.float32(limits[name])]
        reasons.append(
            [Reason(name, None, round(float(f), 6), float(limits[name])) for name, f in reached][:reasons_max]
        )
    return reasons


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reasons_max", [0, 1, 3, 50])
def test_default_rules_decide_as_they_are_written(seed: int, reasons_max: int) -> None:
    """Decisions and reasons of whole matrices are those of a payment at a time, to the bit, with the odd values too."""
    rng = np.random.default_rng(seed)
    limits = {"card_count_10min": 3, "amount_over_typical": 5.1, "terminal_frauds": 0.1, "night_amount": 90.07}
    features = rng.lognormal(1.0, 2.0, (seed * 250, len(FRAUD_FEATURES))).astype(np.float32)
    features[:, FRAUD_FEATURES.index("is_night")] = rng.integers(0, 2, len(features))
    for name, column in (
        ("card_count_10min", "card_count_10min"),
        ("amount_over_typical", "card_amount_over_typical"),
        ("terminal_frauds", "terminal_recent_frauds"),
        ("night_amount", "amount"),
    ):
        limit = np.float32(limits[name])
        edges = [limit, np.nextafter(limit, np.float32(0)), np.nextafter(limit, np.float32(1e9)), np.float32("nan")]
        chosen = rng.random(len(features)) < 0.4
        features[chosen, FRAUD_FEATURES.index(column)] = rng.choice(edges, chosen.sum())
    verdicts = Rules(default_rules(**limits)).decide(features, reasons_max)
    assert verdicts.reasons == one_by_one(features, limits, reasons_max)
    held = [bool(each) for each in one_by_one(features, limits, 50)]
    assert verdicts.decisions.dtype == np.int64
    assert verdicts.decisions.tolist() == [REVIEW if each else APPROVE for each in held]
    assert verdicts.scores == verdicts.confidences == [None] * len(features)


def test_any_list_of_rules_decides() -> None:
    """A rule is data: products of features, in the order of the list; no rule approves all."""
    large = Rule(name="large_fast", features=("amount", "card_count_10min", "is_night"), limit=100)
    weekend = Rule(name="weekend", features=("is_weekend",), limit=1.0)
    features = rows({"is_weekend": 1.0, "card_count_10min": 6.0, "is_night": 1.0}, {"is_weekend": 1.0}, {})
    verdicts = Rules([weekend, large]).decide(features, 3)
    assert verdicts.decisions.tolist() == [REVIEW, REVIEW, APPROVE]
    by_weekend = Reason("weekend", None, 1.0, 1.0)
    assert verdicts.reasons == [[by_weekend, Reason("large_fast", None, 120.0, 100.0)], [by_weekend], []]
    assert Rules([]).decide(features, 3).decisions.tolist() == [APPROVE] * 3


def test_each_default_rule_has_a_setting_of_its_name() -> None:
    """The worker's rules are those of the settings `rule_...`, none beside them."""
    settings = {each.name for each in SETTINGS if each.name.startswith("rule_")}
    assert settings == {f"rule_{rule.name}" for rule in default_rules(**LIMITS)}


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ({"features": ("amuont",)}, ("rule 'mine'", "expected a feature", "got 'amuont'", "did you mean 'amount'?")),
        ({"features": ("amount", "Ω")}, ("rule 'mine'", "expected a feature", "got 'Ω'", "use one of amount, ")),
        ({"features": ()}, ("rule 'mine'", "expected one feature", "got none")),
        ({"outcome": "decline"}, ("rule 'mine'", "expected outcome review", "got 'decline'", "approves or reviews")),
        ({"limit": float("nan")}, ("rule 'mine'", "expected a finite limit", "got nan")),
        ({"limit": float("inf")}, ("rule 'mine'", "expected a finite limit", "got inf")),
        ({"name": ""}, ("expected a name", "got an empty one")),
        ({"name": "theirs"}, ("rule 'theirs'", "expected a name of its own", "rename")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_rule_that_cannot_work_is_refused(bad: dict[str, Any], parts: tuple[str, ...]) -> None:
    """When the list is made, before any payment, with place, expected, got and remedy."""
    good: dict[str, Any] = {"name": "mine", "features": ("amount",), "limit": 1.0}
    theirs = Rule(name="theirs", features=("amount",), limit=1.0)
    Rules([theirs, Rule(**good)])
    with pytest.raises(SettingsError) as caught:
        Rules([theirs, Rule(**good | bad)])
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_default_rules_catch_about_half_of_the_simulators_fraud() -> None:
    """They are worth having without a model, and do not send every payment to review; `-s` prints the documents' figures."""
    settings = Settings()
    rules = Rules(default_rules(**{name: getattr(settings, f"rule_{name}") for name in LIMITS}))
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
