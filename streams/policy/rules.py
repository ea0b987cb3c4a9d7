"""Rules: decisions without the model, from limits of a few figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features.payments import FRAUD_FEATURES
from streams.contract.events import Reason
from streams.policy.verdicts import APPROVE, REVIEW, Verdicts


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of figures of a payment, each a feature of the model's: from one of them on it is reviewed, else approved.

    Rules decline nothing: they catch the crude part of fraud, and stop as many genuine payments.

    Attributes:
        card_count_10min: payments of the card within 10 minutes, this one included.
        amount_over_typical: the amount as a multiple of what the card usually pays; 1 for a card without a history.
        terminal_frauds: frauds among the terminal's last 5 labelled payments.
        night_amount: the amount of a payment between 00:00 and 07:00 UTC.
    """

    card_count_10min: float
    amount_over_typical: float
    terminal_frauds: float
    night_amount: float

    def decide(self, features: NDArray[np.float32], reasons_max: int) -> Verdicts:
        """Return a verdict without a score for each payment; its reasons are the rules that hold it up.

        Args:
            features: float32[B, F], columns in FRAUD_FEATURES order.
        """
        amount, is_night, count, ratio, frauds = (
            features[:, FRAUD_FEATURES.index(name)]
            for name in (
                "amount",
                "is_night",
                "card_count_10min",
                "card_amount_over_typical",
                "terminal_recent_frauds",
            )
        )
        figures = {
            "card_count_10min": count,
            "amount_over_typical": ratio,
            "terminal_frauds": frauds,
            "night_amount": amount * is_night,
        }
        decisions = np.full(len(features), APPROVE, np.int64)
        reasons: list[list[Reason]] = [[] for _ in features]
        for name, figure in figures.items():
            limit = float(getattr(self, name))
            for row in np.flatnonzero(figure >= limit).tolist():
                decisions[row] = REVIEW
                reasons[row].append(Reason(name, None, round(float(figure[row]), 6), limit))
        nothing = [None] * len(features)
        return Verdicts(decisions, nothing, nothing, [each[:reasons_max] for each in reasons])
