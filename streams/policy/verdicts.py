"""Verdicts: decisions on payments, by the model's scores or by rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract.events import Reason

APPROVE, REVIEW, DECLINE = range(3)
DECISIONS = ("approve", "review", "decline")


class Verdicts(NamedTuple):
    """Decisions on B payments.

    Attributes:
        decisions: int64[B], APPROVE, REVIEW or DECLINE.
        scores: B calibrated probabilities of fraud; None where rules decided.
        confidences: B probabilities of the likelier class; None where rules decided.
        reasons: why a payment is reviewed or declined; empty where it is approved.
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
