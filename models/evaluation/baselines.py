"""The Handbook's models on the Handbook's features, trained as it does: on the seven days whose labels are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.prequential import Payments, Week
from models.features.cards import CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import TerminalHistory

BASELINES: Final = ("logistic-regression", "random-forest", "xgboost")

# The names of the Handbook and ours. The amount stands first; the other fourteen are in the order of its files.
BOOK_FEATURES: Final[dict[str, str]] = {
    "TX_AMOUNT": "amount",
    "TX_DURING_WEEKEND": "is_weekend",
    "TX_DURING_NIGHT": "is_night",
    **{
        f"CUSTOMER_ID_{theirs}_{days}DAY_WINDOW": f"card_{ours}_{days}d"
        for days in (1, 7, 30)
        for theirs, ours in (("NB_TX", "count"), ("AVG_AMOUNT", "mean"))
    },
    **{
        f"TERMINAL_ID_{theirs}_{days}DAY_WINDOW": f"terminal_{ours}_{days}d"
        for days in (1, 7, 30)
        for theirs, ours in (("NB_TX", "labelled"), ("RISK", "risk"))
    },
}


def book_features(table: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return float32[N, 15], columns as BOOK_FEATURES, of payments as `models.training.fraud.ordered` returns them.

    They come from the kernels that serve, with terminal windows exact to the millisecond as in the source.
    """
    features = replay(PaymentFeatures(CardHistory(), TerminalHistory(granularity_ms=1)), dict(table))
    return features[:, [FRAUD_FEATURES.index(name) for name in BOOK_FEATURES.values()]]


def baseline_scores(
    name: str, features: NDArray[np.float32], payments: Payments, week: Week, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Train a baseline on the week's training days and return its scores of some rows.

    Args:
        name: One of BASELINES.
        features: float32[N, 15], as from `book_features`.
        payments: The payments.
        week: The test week.
        rows: int64[R] rows to score.

    Returns:
        float64[R] in [0, 1].

    Raises:
        EvaluationError: the training days hold one class only, or xgboost is not installed.
    """
    known = payments.between(week.training_begin, week.known_until)
    labels = payments.is_fraud[known]
    if not 0 < labels.sum() < len(labels):
        raise EvaluationError(
            f"{name}, week {week.name}: expected frauds and genuine payments in its seven training days, got "
            f"{int(labels.sum())} frauds in {len(labels):,} payments; choose other weeks or --baselines none"
        )
    model = _model(name)
    model.fit(features[known], labels)
    scores: NDArray[np.float64] = np.asarray(model.predict_proba(features[rows])[:, 1], np.float64)
    return scores


def _model(name: str) -> Any:
    """Return an untrained pipeline; sizes as the source's, chosen on its validation weeks (2018-07-04 to 07-25)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "logistic-regression":
        return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1_000, random_state=0))
    if name == "random-forest":
        from sklearn.ensemble import RandomForestClassifier

        return make_pipeline(
            StandardScaler(), RandomForestClassifier(n_estimators=100, max_depth=20, random_state=0, n_jobs=1)
        )
    assert name == "xgboost", f"{name}: the command line allows BASELINES only"
    try:
        from xgboost import XGBClassifier
    except ImportError as missing:
        raise EvaluationError(
            "xgboost: expected the package, found none; pip install 'streams[evaluate]' or leave it out of --baselines"
        ) from missing
    return make_pipeline(
        StandardScaler(),
        XGBClassifier(
            n_estimators=100,
            learning_rate=0.1,
            max_depth=3,
            tree_method="exact",
            base_score=0.5,
            random_state=0,
            n_jobs=1,
        ),
    )
