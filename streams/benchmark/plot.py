"""Picture of measured rows: latency against the rate of payments, and where throughput ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from streams.benchmark.statistics import BenchmarkError

QUANTILES: Final = (("p50_ms", "p50", "-"), ("p99_ms", "p99", "--"), ("p999_ms", "p99.9", ":"))
NEEDED: Final = (
    "mode",
    "guarantee",
    "workers",
    "cores",
    "rate",
    "events_per_second",
    *(key for key, _, _ in QUANTILES),
)
# Read on light and on dark ground.
INK: Final = "#7d8590"
COLOURS: Final = ("#1f83d6", "#d9730d", "#2da44e", "#b35fd6")

Row = Mapping[str, Any]


def read_rows(name: str, lines: Iterable[str]) -> list[Row]:
    """Return the rows of a file that `--json` has written.

    Raises:
        BenchmarkError: a line is no row.
    """
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line)
            rows.append({key: row[key] for key in NEEDED})
        except (msgspec.DecodeError, KeyError, TypeError) as wrong:
            raise BenchmarkError(
                f"{name}:{number}: expected a line of `streams bench ... --json` ({', '.join(NEEDED)}), "
                f"got {line.strip()[:60]!r}; give such files only"
            ) from wrong
    return rows


def plot_rows(rows: Sequence[Row], file: Path) -> None:
    """Draw an SVG with a line for each guarantee and quantile, on a transparent ground.

    Args:
        rows: as `run_latency` and `run_throughput` return them, with their `guarantee`; several of one rate are drawn
            as their median, with their range.
        file: overwritten.

    Raises:
        BenchmarkError: no row has a latency, or matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise BenchmarkError(
            "matplotlib: expected the package, found none; run pip install 'streams[evaluate]'"
        ) from missing
    latencies = [row for row in rows if row["mode"] == "latency"]
    if not latencies:
        raise BenchmarkError(f"expected rows of `bench latency` or `bench sweep`, got {len(rows)} others; add some")
    guarantees = sorted({row["guarantee"] for row in rows})
    style = {"svg.fonttype": "none", "svg.hashsalt": "streams", "font.family": "sans-serif", "text.color": INK}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axes = figure.subplots()
        for guarantee, colour in zip(guarantees, COLOURS, strict=False):
            words = guarantee.replace("_", " ")
            of_guarantee = [row for row in latencies if row["guarantee"] == guarantee]
            rates = sorted({row["rate"] for row in of_guarantee})
            for key, quantile, line in QUANTILES:
                measured = [sorted(row[key] for row in of_guarantee if row["rate"] == rate) for rate in rates]
                medians = [each[len(each) // 2] for each in measured]
                spread = [
                    [middle - each[0] for middle, each in zip(medians, measured, strict=True)],
                    [each[-1] - middle for middle, each in zip(medians, measured, strict=True)],
                ]
                axes.errorbar(
                    rates, medians, spread, color=colour, linestyle=line, marker="o", markersize=3, capsize=2,
                    label=f"{quantile}, {words}",
                )  # fmt: skip
            ends = sorted(
                row["events_per_second"]
                for row in rows
                if row["mode"] == "throughput" and row["guarantee"] == guarantee
            )
            if ends:
                end = ends[len(ends) // 2]
                axes.axvline(end, color=colour, linewidth=1.0, label=f"throughput {end:,.0f}/s, {words}")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="payments a second",
            ylabel="ms from the producer's call to the decision",
        )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(color=INK, alpha=0.25, linewidth=0.6)
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
        workers, cores = (sorted({row[key] for row in rows}) for key in ("workers", "cores"))
        axes.set_title(
            f"{_counted(workers, 'worker')}, {_counted(cores, 'core')} for load, broker and workers", fontsize="medium"
        )
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})


def _counted(numbers: Sequence[int], noun: str) -> str:
    return f"{', '.join(map(str, numbers))} {noun}" + ("" if numbers == [1] else "s")
