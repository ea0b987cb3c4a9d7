"""Floors on public data that the repository does not hold, by `pytest -m quality`; hours for the full tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streams.commands import main

DATA = Path(__file__).parents[3] / "shared" / "data"
PAYMENTS = DATA / "fraud" / "transactions.parquet"
BOOK = DATA / "fraud" / "book_features.parquet"

pytestmark = [
    pytest.mark.quality,
    pytest.mark.skipif(
        not PAYMENTS.is_file(),
        reason=f"public data not at hand: {DATA} has no payments and sessions; models/README.md, Evaluate",
    ),
]

# AUC, AP and CP@100 over the weeks from 2018-08-08, as Le Borgne et al. (2022), chapter 5, print them.
PUBLISHED = {
    "logistic-regression": (0.868, 0.623, 0.297),
    "random-forest": (0.870, 0.678, 0.299),
    "xgboost": (0.869, 0.687, 0.303),
}
# P@20 and MRR@20 in per cent on the newest tenth of each file: what was reached, less what another processor may cost.
SESSIONS = {
    "tmall": (50.0, 26.5),
    "diginetica": (52.0, 18.5),
    "retailrocket": (58.0, 32.5),
    "yoochoose1_64": (71.5, 32.0),
}


def evaluate(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return report


def figures(metrics: dict[str, float]) -> tuple[float, float, float]:
    return metrics["auc"], metrics["average_precision"], metrics["card_precision_100"]


@pytest.mark.timeout(1_200)
def test_a_week_of_payments_is_ranked_better_than_by_xgboost(tmp_path: Path) -> None:
    """The first public week: trained on what was known, ahead of the published baselines, and calibrated."""
    report = evaluate(
        tmp_path, "fraud", "--data", PAYMENTS, "--test-from", "2018-08-08", "--baselines", "logistic-regression,xgboost"
    )
    ours, boosted = report["mean"]["streams"], report["mean"]["xgboost"]
    assert ours["average_precision"] > boosted["average_precision"] and ours["auc"] > boosted["auc"]
    assert ours["calibration_error"] <= 0.01


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("book", [True, False], ids=["published-features", "own-features"])
def test_the_handbooks_figures_come_out(tmp_path: Path, book: bool) -> None:
    """Its models reach what it prints, from its own features and from ours; its XGBoost a little more (0.007 in AP)."""
    given = ("--book-features", BOOK) if book else ()
    report = evaluate(
        tmp_path, "fraud", "--data", PAYMENTS, "--test-from", "2018-08-08", "--weeks", 4, "--baselines",
        ",".join(PUBLISHED), *given,
    )  # fmt: skip
    for name, published in PUBLISHED.items():
        margin = 0.008 if name == "xgboost" else 0.005
        assert figures(report["mean"][name]) == pytest.approx(published, abs=margin), name
    for week in report["weeks"]:
        models = week["models"]
        assert models["streams"]["average_precision"] > models["xgboost"]["average_precision"], week["week"]
    auc, precision, cards = figures(report["mean"]["streams"])
    assert auc >= 0.875 and precision >= 0.74 and cards >= 0.305


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", SESSIONS)
def test_next_clicks_of_public_sessions_are_found(tmp_path: Path, name: str) -> None:
    """The newest tenth of the sessions, trained on the others: P@20 and MRR@20 at least the floors."""
    report = evaluate(tmp_path, "recommender", "--train", DATA / "sessions" / f"{name}.npz")
    blend = report["parts"]["blend"]
    hits, rank = SESSIONS[name]
    assert 100 * blend["p_at_20"] >= hits and 100 * blend["mrr_at_20"] >= rank
    assert blend["p_at_20"] > report["parts"]["popularity"]["p_at_20"]
