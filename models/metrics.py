"""Quality of scores, as the field measures it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.bool_]


def _curve(scores: Scores, labels: Labels) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Return thresholds (descending, distinct), and the positives and records scored at least as much."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    positives = np.cumsum(labels[order])
    last_of_value = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return ranked[last_of_value], positives[last_of_value], last_of_value + 1


def auc(scores: Scores, labels: Labels) -> float:
    """Return the area under the ROC curve; ties count half."""
    _, positives, records = _curve(scores, labels)
    negatives = records - positives
    rise = np.diff(positives, prepend=0)
    below = negatives[-1] - (negatives + np.concatenate([[0], negatives[:-1]])) / 2
    return float((rise * below).sum() / (positives[-1] * negatives[-1]))


def average_precision(scores: Scores, labels: Labels) -> float:
    """Return the sum of precisions weighted by the steps of recall, over distinct thresholds."""
    _, positives, records = _curve(scores, labels)
    return float((np.diff(positives, prepend=0) * positives / records).sum() / positives[-1])


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
    thresholds, positives, records = _curve(scores, labels)
    reached = np.flatnonzero(positives / records >= precision)
    return float(thresholds[reached[-1]]) if len(reached) else 1.0


def threshold_of_share(scores: Scores, share: float) -> float:
    """Return the score that about that share of the records reaches."""
    return float(np.quantile(scores, 1.0 - share))
