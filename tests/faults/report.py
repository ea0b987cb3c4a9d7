"""The table of a run: what each fault test did to the workers, and what came of it.

Rows travel with the reports of the tests, so that the process that prints the table has those of all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.faults.checker import Verdict, percentile

TABLE = Path("faults.json")
ROW = "fault row"  # name of the property of a test's report
COLUMNS = (
    "item",
    "form",
    "faults",
    "inputs",
    "lost",
    "doubled",
    "wrong",
    "inversions",
    "longest stall",
    "first decision",
    "besides",
)


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        item: number and name of the catalogue's item.
        form: short or long.
        faults: how many were done: kills, stops, restarts of brokers.
        stall_s: longest silence of a partition that had work.
        first_decision_s: 95th percentile of the time from a worker's start to its first decision; None where none was timed.
        figures: what else the item's criterion is about.
    """

    item: str
    form: str
    faults: int
    inputs: int
    lost: int
    doubled: int
    wrong: int
    inversions: int
    stall_s: float
    first_decision_s: float | None
    figures: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, item: str, form: str, verdict: Verdict, figures: dict[str, float]) -> Row:
        return cls(
            item, form, verdict.faults, verdict.inputs,
            len(verdict.lost), len(verdict.doubled), len(verdict.wrong), len(verdict.inversions),
            round(verdict.stall_s, 2),
            round(percentile(verdict.first_decision_s, 0.95), 2) if verdict.first_decision_s else None,
            {name: round(value, 3) for name, value in figures.items()},
        )  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        first = "" if row.first_decision_s is None else f"{row.first_decision_s:.1f} s"
        besides = ", ".join(f"{name} {value:g}" for name, value in row.figures.items())
        cells = (
            row.item, row.form, row.faults, f"{row.inputs:,}", row.lost, row.doubled, row.wrong, row.inversions,
            f"{row.stall_s:.1f} s", first, besides,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as JSON."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


_rows: list[Row] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep a row of a trial that has run here or in another process."""
    if report.when == "call":
        _rows.extend(Row(**value) for name, value in report.user_properties if name == ROW)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and write it to TABLE."""
    if _rows:
        write(_rows, TABLE)
        terminalreporter.section(f"faults ({TABLE})")
        terminalreporter.write_line(markdown(_rows))
