"""Thresholds: from a score to a decision and its confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
