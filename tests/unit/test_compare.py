"""The comparison's table: ratios within a round, and failures that stay visible."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCH))
    import compare

    yield compare
    sys.modules.pop("compare")


def row(system: str, number: int, rate: float, **other: Any) -> dict[str, Any]:
    return {
        "system": system,
        "round": number,
        "events_per_second": rate,
        "lost": 0,
        "repeated": 0,
        "events": 1000,
        **other,
    }


def text(compare: ModuleType, rows: list[dict[str, Any]], failures: dict[str, str]) -> str:
    stream = io.StringIO()
    Console(width=200, file=stream).print(compare.table(rows, failures, "throughput"))
    return stream.getvalue()


def test_ratios_are_taken_within_each_round(compare: ModuleType) -> None:
    """A machine that was half as fast in one round halves both rates and leaves the ratio."""
    rows = [row("streams", 1, 100.0), row("plain", 1, 200.0), row("streams", 2, 50.0), row("plain", 2, 100.0)]
    assert "0.50 (0.50-0.50)" in text(compare, rows, {})


def test_a_round_without_ours_gives_no_ratio(compare: ModuleType) -> None:
    """A peer's run is never compared with another round's run of ours."""
    rows = [row("streams", 1, 100.0), row("plain", 1, 400.0), row("plain", 2, 100.0)]
    assert "0.25 (0.25-0.25)" in text(compare, rows, {})


def test_losses_and_repeats_of_all_rounds_are_summed(compare: ModuleType) -> None:
    """One bad round among good ones shows."""
    rows = [row("plain", 1, 1.0, lost=3), row("plain", 2, 1.0, repeated=41)]
    line = next(line for line in text(compare, rows, {}).splitlines() if "plain" in line)
    assert [cell.strip() for cell in line.split("│")][4:6] == ["3", "41"]


def test_a_peer_that_failed_stands_in_the_table(compare: ModuleType) -> None:
    """Nothing is skipped silently."""
    assert "failed" in text(compare, [row("streams", 1, 100.0)], {"flink": "not installed: no Java"})


def test_spread_is_median_then_extremes(compare: ModuleType) -> None:
    """The mean would hide an outlier; the median and the extremes show it."""
    assert compare.spread([1.0, 9.0, 2.0], 1) == "2.0 (1.0-9.0)"
    assert compare.spread([], 1) == "-"
