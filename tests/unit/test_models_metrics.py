"""Metrics, against their definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import (
    auc,
    average_precision,
    calibration_error,
    threshold_of_precision,
    threshold_of_share,
)

rows = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: 0 < sum(label for _, label in pairs) < len(pairs)
)


def arrays(pairs):
    scores, labels = zip(*pairs, strict=True)
    return np.array(scores) / 8, np.array(labels)


@given(rows)
def test_auc_is_the_chance_that_a_fraud_outranks_a_genuine_payment(pairs):
    """Over all pairs, ties counting half."""
    scores, labels = arrays(pairs)
    difference = scores[labels][:, None] - scores[~labels][None, :]
    assert auc(scores, labels) == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))


@given(rows)
def test_average_precision_is_the_stepwise_sum_over_distinct_scores(pairs):
    """Precision at each distinct score, weighted by the recall it adds."""
    scores, labels = arrays(pairs)
    expected = 0.0
    for score in set(scores.tolist()):
        taken = scores >= score
        expected += labels[taken].mean() * labels[scores == score].sum() / labels.sum()
    assert average_precision(scores, labels) == pytest.approx(expected)


@given(rows, st.floats(0.05, 1.0))
def test_threshold_of_precision_is_the_lowest_that_keeps_it(pairs, precision):
    """From the threshold on the precision holds, and from no lower score."""
    scores, labels = arrays(pairs)
    threshold = threshold_of_precision(scores, labels, precision)
    holds = {score for score in scores.tolist() if labels[scores >= score].mean() >= precision}
    assert threshold == (min(holds) if holds else 1.0)


def test_calibration_error_of_true_probabilities_is_small_and_of_others_is_not():
    """Outcomes drawn from the scores are calibrated; twice the scores are off by their mean."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.0, 0.4, 50_000)
    labels = rng.random(50_000) < scores
    assert calibration_error(scores, labels) < 0.01
    assert calibration_error(2 * scores, labels) == pytest.approx(0.2, abs=0.01)


def test_threshold_of_share_is_reached_by_that_share():
    """One in a hundred scores reaches it."""
    scores = np.random.default_rng(0).random(10_000)
    assert np.mean(scores >= threshold_of_share(scores, 0.01)) == pytest.approx(0.01, abs=2e-4)
