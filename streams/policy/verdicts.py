"""Policy: from a score to a decision and its confidence; without the model, from a few rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features.payments import FRAUD_FEATURES
from streams.contract.events import Reason

APPROVE, REVIEW, DECLINE = range(3)
DECISIONS = ("approve", "review", "decline")


class Verdicts(NamedTuple):
    """What is decided of payments.

    Attributes:
        decisions: int64[B], APPROVE, REVIEW or DECLINE.
        scores: B calibrated probabilities of fraud; None where rules decided.
        confidences: B probabilities of the likelier class; None where rules decided.
        reasons: of the payments that are held up; none of the others.
    """

    decisions: NDArray[np.int64]
    scores: Sequence[float | None]
    confidences: Sequence[float | None]
    reasons: Sequence[list[Reason]]

    @classmethod
    def joined(cls, parts: Sequence[Verdicts]) -> Verdicts:
        """Return the payments of all parts in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([np.empty(0, np.int64), *(each.decisions for each in parts)]),
            [score for each in parts for score in each.scores],
            [confidence for each in parts for confidence in each.confidences],
            [reasons for each in parts for reasons in each.reasons],
        )


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which a payment is reviewed and declined."""

    review: float
    decline: float

    def decide(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return APPROVE, REVIEW or DECLINE for each score.

        Args:
            scores: float32[B] in [0, 1], the calibrated probability of fraud.
        """
        edges = np.array([self.review, self.decline])
        return np.searchsorted(edges, scores.astype(np.float64), side="right").astype(np.int64)


def confidence(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of the likelier class, float32[B] in [0.5, 1]."""
    sure: NDArray[np.float32] = np.maximum(scores, 1.0 - scores)
    return sure


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
