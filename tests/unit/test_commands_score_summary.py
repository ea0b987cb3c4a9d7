"""Scores by class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.judging.score_summary import Scored, ScoreSummary, read_labels
from streams.replaying.column_files import SourceError


def _decision(name: str, score: float | None, decision: Literal["approve", "review", "decline"] = "approve") -> Scored:
    return Scored(f"d-{name}", name, score, decision, "f" * 64)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_auc_is_the_chance_that_a_fraud_outranks_a_genuine_payment(rows: list[tuple[int, bool]]) -> None:
    """Over all pairs, ties counting half; one class alone has no area."""
    summary = ScoreSummary()
    summary.add_decisions([_decision(str(number), score / 5) for number, (score, _) in enumerate(rows)])
    summary.add_labels([str(number) for number in range(len(rows))], [fraud for _, fraud in rows])
    frauds, genuine = ([score for score, label in rows if label is kind] for kind in (True, False))
    pairs = [(fraud > other) + 0.5 * (fraud == other) for fraud in frauds for other in genuine]
    assert summary.report()["auc"] == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_classes_are_told_apart_by_the_labels() -> None:
    """Each decision is in one class; a repeat counts once and is reported; labels may come in any order."""
    summary = ScoreSummary()
    summary.add_labels(["a", "7"], [True, False])
    summary.add_decisions([_decision("a", 0.9, "decline"), _decision("7", 0.1), _decision("a", 0.9, "decline")])
    summary.add_decisions([_decision("x", 0.5, "review")])
    report = summary.report()
    assert (report["decisions"], report["repeated"], report["labels"], report["auc"]) == (3, 1, 2, 1.0)
    classes = report["classes"]
    assert {name: row["decisions"] for name, row in classes.items()} == {"genuine": 1, "fraud": 1, "unlabelled": 1}
    assert classes["fraud"]["mean"] == 0.9
    assert classes["fraud"]["by_decision"] == {"decline": 1}
    assert classes["genuine"]["quantiles"]["0.5"] == pytest.approx(0.1)
    table = summary.table(report)
    assert "3 decisions, 1 repeated, 2 labels, AUC 1.0000" in table
    assert "3 by model ffffffffffff" in table
    assert len(table.splitlines()) == 7


def test_degraded_decisions_are_told_and_have_no_part_in_the_scores() -> None:
    """They count among the decisions of their class; mean, quantiles and AUC are those of the scores that there are."""
    summary = ScoreSummary()
    summary.add_labels(["a", "b", "c", "d"], [True, False, True, False])
    summary.add_decisions([_decision("a", 0.9, "decline"), _decision("b", 0.1)])
    summary.add_decisions([_decision("c", None, "review"), _decision("d", None), _decision("x", None)])
    report = summary.report()
    assert (report["decisions"], report["degraded"], report["auc"]) == (5, 3, 1.0)
    classes = report["classes"]
    assert {name: row["decisions"] for name, row in classes.items()} == {"genuine": 2, "fraud": 2, "unlabelled": 1}
    assert (classes["fraud"]["mean"], classes["unlabelled"]["mean"]) == (0.9, None)
    assert classes["fraud"]["by_decision"] == {"decline": 1, "review": 1}
    assert "5 decisions (3 degraded, without a score), 0 repeated" in summary.table(report)


def test_nothing_to_summarise_is_said() -> None:
    """An empty topic gives zeros, not an error."""
    summary = ScoreSummary()
    assert "0 decisions, 0 repeated, 0 labels, no AUC" in summary.table(summary.report())


def test_labels_of_a_file(tmp_path: Path) -> None:
    """Rows without a label are left out; a column that is not there is named."""
    path = tmp_path / "labels.csv"
    path.write_text("tx_id,fraud\n001,1\n2,0\n3,\n")
    assert read_labels(path, "tx_id", "fraud") == (["001", "2"], [True, False])
    with pytest.raises(SourceError, match="no column 'is_fraud'"):
        read_labels(path, "tx_id", "is_fraud")
