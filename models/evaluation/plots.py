"""Pictures of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.prequential import METRICS

RELIABILITY_BINS: Final = 10
FRAUD_PLOTS: Final = ("precision_recall.png", "reliability.png", "scores.png", "weeks.png")
RECOMMENDER_PLOTS: Final = ("quality.png", "popularity.png")

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.bool_]


def plot_fraud(
    folder: Path,
    scores: Mapping[str, Sequence[Scores]],
    is_fraud: Sequence[Labels],
    weeks: Sequence[str],
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
) -> None:
    """Write FRAUD_PLOTS: precision against recall, reliability, scores by class, metrics by week.

    Args:
        folder: Created if absent.
        scores: For each model the scores of each week, floating[R]; the first model is the one that serves.
        is_fraud: Labels of each week, bool[R].
        weeks: Names of the weeks.
        metrics: For each model the result of `Payments.judge` for each week.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    from sklearn.metrics import precision_recall_curve

    new_figure = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.concatenate(is_fraud)
    served = next(iter(scores))
    pooled = {name: np.concatenate(of_weeks) for name, of_weeks in scores.items()}

    figure, axes = new_figure()
    for name, of_model in pooled.items():
        precision, recall, _ = precision_recall_curve(labels, of_model)
        axes.step(recall, precision, where="post", label=name)
    axes.set(xlabel="recall", ylabel="precision", title="All weeks together", xlim=(0, 1), ylim=(0, 1.02))
    _save(figure, axes, folder / FRAUD_PLOTS[0])

    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, of_model in pooled.items():
        number = np.minimum((of_model * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
        points = [(of_model[number == each].mean(), labels[number == each].mean()) for each in np.unique(number)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel="mean score", ylabel="share of fraud", title=f"{RELIABILITY_BINS} bins of equal width")
    _save(figure, axes, folder / FRAUD_PLOTS[1])

    figure, axes = new_figure()
    edges = np.linspace(0, 1, 51).tolist()
    for name, chosen in (("genuine", ~labels), ("fraud", labels)):
        axes.hist(pooled[served][chosen], bins=edges, histtype="step", label=name)
    axes.set(xlabel=f"score of {served}", ylabel="payments", yscale="log", title="Scores by class")
    _save(figure, axes, folder / FRAUD_PLOTS[2])

    _bars(new_figure, metrics, METRICS[:3], weeks, folder / FRAUD_PLOTS[3])


def plot_recommender(folder: Path, metrics: Mapping[str, Mapping[str, float]], target_popularity: float) -> None:
    """Write RECOMMENDER_PLOTS: quality of each part, and the popularity of the items shown.

    Args:
        folder: Created if absent.
        metrics: For each part the result of `Task.judge`.
        target_popularity: Mean popularity of the targets.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    new_figure = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = new_figure()
    places = np.arange(len(metrics))
    for shift, name in ((-0.2, "p_at_20"), (0.2, "mrr_at_20")):
        axes.bar(places + shift, [100 * of_part[name] for of_part in metrics.values()], 0.4, label=name)
    axes.set_xticks(places, list(metrics))
    axes.set(ylabel="per cent", title="Next click among the first 20")
    _save(figure, axes, folder / RECOMMENDER_PLOTS[0])

    figure, axes = new_figure()
    axes.bar(list(metrics), [of_part["popularity_at_20"] for of_part in metrics.values()], label="shown")
    axes.axhline(target_popularity, color="black", linewidth=0.8, label="targets")
    axes.set(ylabel="mean percentile by clicks", ylim=(0, 1), title="Popularity of what is shown")
    _save(figure, axes, folder / RECOMMENDER_PLOTS[1])


def _matplotlib() -> Any:
    """Return a maker of (figure, axes) that needs no screen and leaves pyplot's state alone."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise EvaluationError(
            "matplotlib: expected the package, found none; pip install 'streams[evaluate]' or leave out --plots"
        ) from missing

    def new_figure(panels: int = 1) -> tuple[Any, Any]:
        figure = Figure(figsize=(6.4 * panels, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(1, panels)

    return new_figure


def _bars(
    new_figure: Any,
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
    names: Sequence[str],
    weeks: Sequence[str],
    path: Path,
) -> None:
    figure, panels = new_figure(len(names))
    places = np.arange(len(weeks))
    width = 0.8 / len(metrics)
    for axes, metric in zip(panels, names, strict=True):
        for number, (model, of_weeks) in enumerate(metrics.items()):
            axes.bar(places + number * width, [week[metric] for week in of_weeks], width, label=model)
        axes.set_xticks(places + 0.4 - width / 2, weeks)
        axes.set(title=metric)
    panels[-1].legend(loc="lower right")
    figure.savefig(path)


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.legend()
    figure.savefig(path)
