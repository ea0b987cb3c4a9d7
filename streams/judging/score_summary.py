"""Scores by class of a replay of labelled payments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from models.metrics import auc
from streams.contract.events import Id, Probability
from streams.replaying.column_files import ColumnFile, as_list, to_flags, to_text

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
CLASSES = ("genuine", "fraud", "unlabelled")


class Scored(msgspec.Struct, gc=False):
    """The fields of a fraud-decisions record that the summary reads."""

    decision_id: str
    transaction_id: str
    score: Probability | None  # none in a degraded decision
    decision: Literal["approve", "review", "decline"]
    model_version: str


class Labelled(msgspec.Struct, gc=False):
    """The fields of a transaction-labels record that the summary reads."""

    transaction_id: Id
    is_fraud: bool


class ScoreSummary:
    """Collects decisions and labels, in any order; each decision counts once, by decision_id.

    Two models that decided one payment made two decisions; the report counts the decisions of each.
    """

    def __init__(self) -> None:
        self.repeated = 0
        self._decisions: dict[str, Scored] = {}
        self._labels: dict[str, bool] = {}

    def add_decisions(self, decisions: Iterable[Scored]) -> None:
        """Add decisions; one whose decision_id is known is a repeat."""
        for scored in decisions:
            if scored.decision_id in self._decisions:
                self.repeated += 1
            else:
                self._decisions[scored.decision_id] = scored

    def add_labels(self, ids: Iterable[str], flags: Iterable[bool]) -> None:
        """Add labels by transaction_id."""
        self._labels.update(zip(ids, flags, strict=True))

    def report(self) -> dict[str, Any]:
        """Return counts, repeats, models, and for each class: decisions, mean and quantiles of the scores; the AUC.

        Degraded decisions count among the decisions; the scores are those of the others.
        """
        scores = np.array([d.score for d in self._decisions.values()], dtype=np.float64)  # None becomes NaN
        scored = ~np.isnan(scores)
        kinds = np.array(
            [
                2 if (fraud := self._labels.get(d.transaction_id)) is None else int(fraud)
                for d in self._decisions.values()
            ],
            dtype=np.int8,
        )
        decided = np.array([d.decision for d in self._decisions.values()], dtype=object)
        classes = {}
        for kind, name in enumerate(CLASSES):
            mine = scores[(kinds == kind) & scored]
            classes[name] = {
                "decisions": int((kinds == kind).sum()),
                "mean": float(mine.mean()) if len(mine) else None,
                "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, np.quantile(mine, QUANTILES), strict=True)}
                if len(mine)
                else {},
                "by_decision": dict(sorted(Counter(decided[kinds == kind]).items())),
            }
        labelled = (kinds < 2) & scored
        is_fraud = kinds[labelled] == 1
        return {
            "decisions": len(scores),
            "degraded": int((~scored).sum()),
            "repeated": self.repeated,
            "models": dict(Counter(d.model_version for d in self._decisions.values())),
            "labels": len(self._labels),
            "auc": auc(scores[labelled], is_fraud) if 0 < is_fraud.sum() < len(is_fraud) else None,
            "classes": classes,
        }

    @staticmethod
    def table(report: dict[str, Any]) -> str:
        """Return the report as text."""
        area = "no AUC: one class only" if report["auc"] is None else f"AUC {report['auc']:.4f}"
        models = [f"{count:,} by model {version:.12}" for version, count in report["models"].items()]
        degraded = f" ({report['degraded']:,} degraded, without a score)" if report["degraded"] else ""
        lines = [
            f"{report['decisions']:,} decisions{degraded}, {report['repeated']:,} repeated, "
            f"{report['labels']:,} labels, {area}",
            ", ".join(models),
            "",
            f"{'class':<12}{'decisions':>12}{'approve':>12}{'review':>10}{'decline':>10}{'mean':>9}"
            + "".join(f"{f'p{q * 100:g}':>9}" for q in QUANTILES),
        ]
        for name, row in report["classes"].items():
            decided = row["by_decision"]
            line = f"{name:<12}{row['decisions']:>12,}" + "".join(
                f"{decided.get(word, 0):>{width},}"
                for word, width in (("approve", 12), ("review", 10), ("decline", 10))
            )
            if row["mean"] is not None:
                line += f"{row['mean']:>9.4f}" + "".join(f"{row['quantiles'][str(q)]:>9.4f}" for q in QUANTILES)
            lines.append(line)
        return "\n".join(lines)


def read_labels(path: Path, id_column: str, label_column: str) -> tuple[list[str], list[bool]]:
    """Return the ids and labels of a file; rows without a label are left out.

    Raises:
        SourceError: unreadable, no such column, or a label that is neither 0 nor 1.
    """
    file = ColumnFile(path)
    file.require(id_column)
    file.require(label_column)
    ids: list[str] = []
    flags: list[bool] = []
    for batch in file.batches([id_column, label_column]):
        names = as_list(file.convert(batch, id_column, to_text))
        for name, label in zip(names, as_list(file.convert(batch, label_column, to_flags)), strict=True):
            if name is not None and label is not None:
                ids.append(name)
                flags.append(label)
    return ids, flags
