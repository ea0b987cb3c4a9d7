"""The picture of a benchmark: where its points stand, and which rows it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.benchmark.plot import plot_rows, read_rows
from streams.benchmark.statistics import BenchmarkError


def row(guarantee: str, rate: float | None, **measured: float) -> dict[str, Any]:
    empty = dict.fromkeys(("p50_ms", "p99_ms", "p999_ms", "events_per_second"))
    mode = "latency" if rate else "throughput"
    return {"mode": mode, "guarantee": guarantee, "workers": 1, "cores": 2, "rate": rate, **empty, **measured}


def latency(guarantee: str, rate: float, p50_ms: float) -> dict[str, Any]:
    return row(guarantee, rate, p50_ms=p50_ms, p99_ms=3 * p50_ms, p999_ms=5 * p50_ms)


def paths(svg: str) -> list[list[tuple[float, float]]]:
    """Return the points of each line."""
    found = re.findall(r'<path d="(M [^"z]*)" clip-path', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in found]


def test_points_stand_by_rate_and_median(tmp_path: Path) -> None:
    """On logarithmic axes equal ratios are equal distances; of several runs the median is drawn, with their range."""
    rows = [latency("exactly_once", rate, p50) for rate, p50 in ((1e3, 10), (1e3, 20), (1e3, 90), (1e4, 40))]
    rows.append(row("exactly_once", None, events_per_second=1e5))
    plot_rows(rows, tmp_path / "plot.svg")
    svg = (tmp_path / "plot.svg").read_text()
    lines = [points for points in paths(svg) if len(points) == 2]
    curves = [points for points in lines if points[0][0] < points[1][0] and points[0][1] != points[1][1]]
    p50, p99, _ = sorted(curves, key=lambda points: -points[0][1])
    decade = p50[1][0] - p50[0][0]
    # 100,000/s is a decade beyond 10,000/s.
    assert any(points[0][0] == points[1][0] == pytest.approx(p50[1][0] + decade, rel=1e-3) for points in lines)
    twice = p50[0][1] - p50[1][1]  # the median 20, then 40
    assert twice > 0
    assert (p50[0][1] - p99[0][1]) / twice == pytest.approx(np.log2(3), rel=1e-3)
    assert "throughput 100,000/s, exactly once" in svg and "1 worker, 2 cores" in svg


def test_guarantees_are_told_apart_and_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    """Two drawings of the same rows are equal byte for byte."""
    rows = [latency(guarantee, 1e3, 10) for guarantee in ("exactly_once", "at_least_once")]
    for name in ("a.svg", "b.svg"):
        plot_rows(rows, tmp_path / name)
    svg = (tmp_path / "a.svg").read_bytes()
    assert svg == (tmp_path / "b.svg").read_bytes()
    assert b"p99, at least once" in svg and b"p99, exactly once" in svg
    assert len(svg) < 200_000


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"mode": "latency"}'])
def test_a_line_of_something_else_is_refused_with_its_place(line: str) -> None:
    """File and line, what was expected, what stands there."""
    lines = [json.dumps(latency("exactly_once", 1e3, 10)), line]
    with pytest.raises(BenchmarkError, match=r"rows\.jsonl:2: expected a line of `streams bench"):
        read_rows("rows.jsonl", lines)


def test_rows_without_a_latency_are_refused(tmp_path: Path) -> None:
    """Throughput alone has no place on the latency's axis."""
    with pytest.raises(BenchmarkError, match="expected rows of `bench latency`"):
        plot_rows([row("exactly_once", None, events_per_second=1e5)], tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()
