"""Quality of scores, as the field measures it. Training and evaluation import it; a worker does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.bool_]


def auc(scores: Scores, labels: Labels) -> float:
    """Return the area under the ROC curve; ties count half. Both classes must occur."""
    return float(roc_auc_score(labels, scores))


def average_precision(scores: Scores, labels: Labels) -> float:
    """Return the sum of precisions weighted by the steps of recall, over distinct thresholds."""
    return float(average_precision_score(labels, scores))


def calibration_error(scores: Scores, labels: Labels, bins: int = 20) -> float:
    """Return the mean distance of predicted from observed share, over bins of equal numbers of records.

    Source:
        Expected calibration error with equal-mass bins, Nixon et al. (2019).
    """
    order = np.argsort(scores, kind="stable")
    distance = 0.0
    for part in np.array_split(order, bins):
        distance += abs(float(scores[part].sum(dtype=np.float64)) - float(labels[part].sum()))
    return distance / len(scores)


def threshold_of_precision(scores: Scores, labels: Labels, precision: float) -> float:
    """Return the lowest score from which on at least that share is positive; 1.0 where no score has it."""
    precisions, _, thresholds = precision_recall_curve(labels, scores)
    reached = np.flatnonzero(precisions[:-1] >= precision)  # thresholds ascend; the last precision has none
    return float(thresholds[reached[0]]) if len(reached) else 1.0


def threshold_of_share(scores: Scores, share: float) -> float:
    """Return the score that about that share of the records reaches."""
    return float(np.quantile(scores, 1.0 - share))
