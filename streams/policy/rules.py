"""Rules: decisions without the model. A rule is data; `Rules` checks a list of them and decides payments by it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.features.payments import FRAUD_FEATURES
from streams.contract.events import Reason
from streams.errors import SettingsError
from streams.policy.verdicts import APPROVE, REVIEW, Verdicts

# Rules decline nothing: they catch the crude part of fraud, and stop as many genuine payments.
OUTCOMES = {"review": REVIEW}


class Rule(Struct, frozen=True, kw_only=True):
    """One rule: a payment whose figure reaches the limit gets the outcome.

    Attributes:
        name: unique in its list; the decision's reason carries it.
        features: of FRAUD_FEATURES; the figure is their product, in float32.
        limit: the lowest figure that fires the rule, in the figure's unit; rounded to float32 when compared.
        outcome: a key of OUTCOMES.
    """

    name: str
    features: tuple[str, ...]
    limit: float
    outcome: str = "review"


def default_rules(
    *, card_count_10min: float, amount_over_typical: float, terminal_frauds: float, night_amount: float
) -> list[Rule]:
    """Return the rules of the degraded mode, with the limits of the settings `rule_<name>`.

    Args:
        card_count_10min: payments of the card within 10 minutes, this one included.
        amount_over_typical: the amount as a multiple of what the card usually pays; 1 for a card without a history.
        terminal_frauds: frauds among the terminal's last 5 labelled payments.
        night_amount: the amount, in whole units of the currency, of a payment between 00:00 and 07:00 UTC.
    """
    return [
        Rule(name="card_count_10min", features=("card_count_10min",), limit=card_count_10min),
        Rule(name="amount_over_typical", features=("card_amount_over_typical",), limit=amount_over_typical),
        Rule(name="terminal_frauds", features=("terminal_recent_frauds",), limit=terminal_frauds),
        Rule(name="night_amount", features=("amount", "is_night"), limit=night_amount),
    ]


class Rules:
    """A list of rules, checked once, then decided over the columns of a micro-batch.

    A payment that no rule fires for is approved. All rules are evaluated; reasons keep the order of the list.

    Args:
        rules: any number of them.

    Raises:
        SettingsError: a rule without a name, with a name used before, an unknown feature or outcome, no feature, or a
            limit that is no finite number.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        names: set[str] = set()
        for rule in rules:
            _check(rule, names)
            names.add(rule.name)
        self._rules = tuple(
            (
                rule.name,
                [FRAUD_FEATURES.index(each) for each in rule.features],
                float(rule.limit),
                OUTCOMES[rule.outcome],
            )
            for rule in rules
        )

    def decide(self, features: NDArray[np.float32], reasons_max: int) -> Verdicts:
        """Return a verdict without a score for each payment; its reasons are the first rules that fire for it.

        Args:
            features: float32[B, F], columns in FRAUD_FEATURES order.
            reasons_max: reasons named with a payment.
        """
        decisions = np.full(len(features), APPROVE, np.int64)
        reasons: list[list[Reason]] = [[] for _ in features]
        for name, (first, *others), limit, outcome in self._rules:
            figure = features[:, first]
            for column in others:
                figure = figure * features[:, column]
            for row in np.flatnonzero(figure >= limit).tolist():
                decisions[row] = outcome
                reasons[row].append(Reason(name, None, round(float(figure[row]), 6), limit))
        nothing = [None] * len(features)
        return Verdicts(decisions, nothing, nothing, [each[:reasons_max] for each in reasons])


def _check(rule: Rule, names: set[str]) -> None:
    """Raise SettingsError unless the rule can be evaluated and its name is not among `names`."""
    if not rule.name:
        raise SettingsError("rule '': expected a name, got an empty one; name the rule, since reasons carry its name")
    if rule.name in names:
        raise SettingsError(f"rule {rule.name!r}: expected a name of its own, got one used before; rename one of them")
    if not rule.features:
        raise SettingsError(f"rule {rule.name!r}: expected one feature or more, got none; name features")
    for feature in rule.features:
        if feature not in FRAUD_FEATURES:
            close = difflib.get_close_matches(feature, FRAUD_FEATURES, 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(FRAUD_FEATURES)}"
            raise SettingsError(f"rule {rule.name!r}: expected a feature of payments, got {feature!r}; {remedy}")
    if not math.isfinite(rule.limit):
        raise SettingsError(f"rule {rule.name!r}: expected a finite limit, got {rule.limit}; set a number")
    if rule.outcome not in OUTCOMES:
        raise SettingsError(
            f"rule {rule.name!r}: expected outcome {' or '.join(OUTCOMES)}, got {rule.outcome!r}; "
            "a decision without the model approves or reviews"
        )
