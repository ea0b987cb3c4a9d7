"""Training of the fraud model: payments in event-time order in, an artifact with its card out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from models.artifacts import Artifact, save_artifact
from models.errors import TrainingDataError
from models.features.cards import CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import LABEL_DELAY_MS, TerminalHistory
from models.fraud.network import REASON_GROUPS, FraudModel
from models.fraud.runner import FraudRunner
from models.metrics import (
    auc,
    average_precision,
    calibration_error,
    threshold_of_precision,
    threshold_of_share,
)
from models.progress import Progress, silent
from models.simulator.blocks import DAY_MS
from models.simulator.payments import simulate_payments
from models.training.model_card import fraud_card
from models.training.reproducible import date, reproducible, versions

COLUMNS: Final = ("card_id", "terminal_id", "event_time", "amount", "is_fraud")
HIDDEN: Final = (64, 32)
EPOCHS: Final = 30
# An epoch reads every fraud and this many genuine payments, each weighted by the number that it stands for.
GENUINE_PER_EPOCH: Final = 160_000
BATCH_RECORDS: Final = 1024
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 3e-2

# Shares of the event time; the rest, less two label delays, is for the weights.
VALIDATION_SHARE: Final = 0.13
TEST_SHARE: Final = 0.15

# A wrong decline costs a customer: nine in ten declined payments must be fraud.
DECLINE_PRECISION: Final = 0.9
# Reviewers can look at one payment in a hundred, the declined ones included.
REVIEW_SHARE: Final = 0.01

# The default population pays about 1.5 times a card and day: the span stays near 110 days at any size.
PAYMENTS_PER_CARD: Final = 165


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A model and the figures of its artifact.

    Attributes:
        model: Calibrated.
        usual: float32[F] features of a usual payment.
        thresholds: review and decline.
        judged: Name of the part that metrics are of.
        scores: float32[N] of that part.
    """

    model: FraudModel
    usual: NDArray[np.float32]
    thresholds: dict[str, float]
    judged: str
    scores: NDArray[np.float32]


def train(
    output: Path,
    *,
    payments: int = 660_000,
    seed: int = 7,
    progress: Progress | None = None,
    columns: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train the fraud model and write its artifact and model card.

    Features come from the functions that serve: each payment sees its card's payments so far and its terminal's labels
    up to 7 days before. The weights are fitted on the oldest payments, the calibration and the thresholds on later
    ones, the metrics come from the newest; one label delay lies between the parts.

    Args:
        output: Folder of the artifact; created if absent.
        payments: Payments to simulate where no columns are given.
        seed: Fixes the simulation, the initial weights and the order of batches.
        progress: Called with (stage, fraction done).
        columns: Labelled payments of your own: card_id and terminal_id (str[N]), event_time (int64[N], ms), amount
            (float64[N]), is_fraud (bool[N]), in any order; `pattern` (str[N]) adds a recall for each pattern.

    Returns:
        Metrics of the test part by name: auc, average_precision, calibration_error, decline_precision, ...

    Raises:
        TrainingDataError: a column is missing, the span is too short, or a part has no fraud or nothing else.
    """
    tell = progress or silent
    source = "columns given" if columns is not None else f"simulator, seed {seed}"
    if columns is None:
        tell("simulate payments", 0.0)
        cards = max(100, payments // PAYMENTS_PER_CARD)
        columns = dict(simulate_payments(payments, seed, cards=cards, terminals=max(50, cards // 2)))
    table = ordered(columns)
    tell("build features", 0.1)
    features = replay(PaymentFeatures(CardHistory(), TerminalHistory()), table)
    parts = _split(table["event_time"], table["is_fraud"])
    artifact = _fit_and_publish(output, features, table, parts, {"source": source, "seed": seed}, tell)
    return dict(artifact.section("metrics"))


def train_until(
    output: Path,
    table: Mapping[str, Any],
    features: NDArray[np.float32],
    known_until_ms: int,
    *,
    seed: int = 7,
    progress: Progress | None = None,
) -> Artifact:
    """Train on the payments whose labels are known at one moment, and write the artifact and its model card.

    Weights are fitted on the oldest payments; the epoch, the calibration and the thresholds are chosen on the newest,
    with a label delay between. Later payments are not read.

    Args:
        output: Folder of the artifact; created if absent.
        table: Payments, as `ordered` returns them.
        features: float32[N, F] of the same payments, as `replay` returns them.
        known_until_ms: Payments from this event_time on are left out; what is scored with the artifact should be a
            label delay later.
        seed: Fixes the initial weights and the order of batches.
        progress: Called with (stage, fraction done).

    Returns:
        The artifact; its metrics are those of the validation part.

    Raises:
        TrainingDataError: the span is too short, or a part has no fraud or nothing else.
    """
    known = int(np.searchsorted(table["event_time"], known_until_ms))
    table = {name: column[:known] for name, column in table.items()}
    parts = _split(table["event_time"], table["is_fraud"], test_share=0.0)
    origin = {"source": "columns given", "seed": seed}
    return _fit_and_publish(output, features[:known], table, parts, origin, progress or silent)


def _fit_and_publish(
    output: Path,
    features: NDArray[np.float32],
    table: Mapping[str, Any],
    parts: dict[str, slice],
    origin: dict[str, Any],
    tell: Progress,
) -> Artifact:
    """Choose calibration and thresholds with a model of the train part, then fit one on all that is known."""
    is_fraud, validation = table["is_fraud"], parts["validation"]
    with reproducible(origin["seed"]):
        early = _fit(
            features[parts["train"]], is_fraud[parts["train"]], lambda stage, done: tell(stage, 0.15 + 0.35 * done)
        )
        _calibrate(early, features[validation], is_fraud[validation])
        thresholds = _thresholds(_scores(early, features[validation]), is_fraud[validation])
        known = slice(0, validation.stop)
        model = _fit(
            features[known],
            is_fraud[known],
            lambda stage, done: tell(f"{stage}, with all that is known", 0.5 + 0.45 * done),
        )
        model.calibration.copy_(early.calibration)
        judged = list(parts)[-1]  # the later model has seen the validation part
        scores = _scores(model if judged == "test" else early, features[parts[judged]])
        usual = _usual(features[parts["train"]], is_fraud[parts["train"]])
        fitted = _Fitted(model, usual, thresholds, judged, scores)
        return _publish(output, fitted, table, parts, origin)


def ordered(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that training reads, checked, in event_time order.

    Args:
        columns: As for `train`.

    Raises:
        TrainingDataError: a column is missing or of another length, or an amount is no finite number.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise TrainingDataError(f"columns: expected {', '.join(COLUMNS)}, got no {', '.join(missing)}; add them")
    event_time = np.asarray(columns["event_time"], np.int64)
    lengths = {name: len(columns[name]) for name in COLUMNS}
    if len(set(lengths.values())) != 1:
        raise TrainingDataError(f"columns: expected one length, got {lengths}; cut them to one")
    amount = np.asarray(columns["amount"], np.float64)
    if not np.isfinite(amount).all():
        raise TrainingDataError(
            f"amount: expected finite numbers, got {int((~np.isfinite(amount)).sum())} others; drop them"
        )
    order = np.argsort(event_time, kind="stable")
    table: dict[str, Any] = {
        "event_time": event_time[order],
        "amount": amount[order],
        "is_fraud": np.asarray(columns["is_fraud"], np.bool_)[order],
    }
    for name in ("card_id", "terminal_id", "pattern"):
        if name in columns:
            table[name] = np.asarray(columns[name], dtype=object)[order].tolist()
    return table


def _split(
    event_time: NDArray[np.int64], is_fraud: NDArray[np.bool_], test_share: float = TEST_SHARE
) -> dict[str, slice]:
    """Return the parts by time, without a test part where its share is 0; each begins a label delay after the last."""
    if not len(event_time):
        raise TrainingDataError("columns: expected payments, got none; give some")
    first, last = int(event_time[0]), int(event_time[-1])
    span = last - first
    test = last - int(test_share * span)
    known_until = test - LABEL_DELAY_MS if test_share else last + 1
    validation = known_until - int(VALIDATION_SHARE * span)
    edges = {"train": (first, validation - LABEL_DELAY_MS), "validation": (validation, known_until)}
    if test_share:
        edges["test"] = (test, last + 1)
    parts = {}
    for name, (begin, end) in edges.items():
        part = slice(int(np.searchsorted(event_time, begin)), int(np.searchsorted(event_time, end)))
        frauds = int(is_fraud[part].sum())
        if not 0 < frauds < max(0, part.stop - part.start):
            raise TrainingDataError(
                f"{name} part: expected frauds and genuine payments, got {frauds} frauds in "
                f"{max(0, part.stop - part.start)} payments over {span / DAY_MS:.0f} days; give more payments "
                "over a longer time (a label delay of 7 days lies between the parts)"
            )
        parts[name] = part
    return parts


def _fit(features: NDArray[np.float32], is_fraud: NDArray[np.bool_], tell: Progress) -> FraudModel:
    """Return an uncalibrated model of the rows given."""
    model = FraudModel.untrained(features, HIDDEN)
    rows = torch.from_numpy(features)
    frauds, genuine = (torch.from_numpy(np.flatnonzero(each)) for each in (is_fraud, ~is_fraud))
    share = min(1.0, GENUINE_PER_EPOCH / len(genuine))
    drawn = len(frauds) + int(share * len(genuine))
    batches = max(1, drawn // BATCH_RECORDS)
    labels = torch.from_numpy(is_fraud.astype(np.float32))
    weights = torch.where(labels > 0, 1.0, 1.0 / share)
    optimiser = torch.optim.AdamW(model.layers.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=EPOCHS * batches)
    unseen = torch.empty(0, dtype=torch.int64)
    for epoch in range(EPOCHS):
        tell(f"fit, epoch {epoch + 1} of {EPOCHS}", epoch / EPOCHS)
        if len(unseen) < drawn - len(frauds):
            unseen = genuine[torch.randperm(len(genuine))]
        epoch_rows = torch.cat([frauds, unseen[: drawn - len(frauds)]])
        unseen = unseen[drawn - len(frauds) :]
        for batch in epoch_rows[torch.randperm(drawn)].tensor_split(batches):
            optimiser.zero_grad(set_to_none=True)
            odds = model.raw_log_odds(model.encode(rows[batch]))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, labels[batch], weights[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return model


def _calibrate(model: FraudModel, features: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> None:
    """Set slope and offset of the log-odds so that the validation part is most likely.

    Source:
        Platt scaling, Platt (1999): a logistic regression on one column, without a penalty.
    """
    with torch.no_grad():
        odds = model.raw_log_odds(model.encode(torch.from_numpy(features))).double().numpy()
    line = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1_000).fit(odds[:, None], is_fraud)
    model.calibration.copy_(torch.tensor([line.coef_[0, 0], line.intercept_[0]]))


def _scores(model: FraudModel, features: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        scores: NDArray[np.float32] = model(torch.from_numpy(features)).numpy()
    return scores


def _thresholds(scores: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> dict[str, float]:
    decline = threshold_of_precision(scores, is_fraud, DECLINE_PRECISION)
    return {"review": min(decline, threshold_of_share(scores, REVIEW_SHARE)), "decline": decline}


def _usual(features: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return float32[F], the median of the genuine payments: the baseline of reasons."""
    usual: NDArray[np.float32] = np.median(features[~is_fraud], axis=0).astype(np.float32)
    return usual


def _publish(
    output: Path,
    fitted: _Fitted,
    table: Mapping[str, Any],
    parts: Mapping[str, slice],
    origin: Mapping[str, Any],
) -> Artifact:
    """Write the model, with the metrics of its scores of the judged part."""
    is_fraud, event_time = table["is_fraud"], table["event_time"]
    model, thresholds, scores, judged = fitted.model, fitted.thresholds, fitted.scores, parts[fitted.judged]
    metrics = measure(scores, is_fraud[judged], thresholds)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    manifest = {
        "kind": "fraud",
        "name": "fraud-mlp",
        "features": list(FRAUD_FEATURES),
        "architecture": {
            "type": "mlp",
            "pieces": len(model.piece_feature),
            "hidden": list(HIDDEN),
            "calibration": "platt",
        },
        "thresholds": thresholds,
        "reasons": {name: list(group) for name, group in REASON_GROUPS.items()},
        "seed": origin["seed"],
        "metrics": metrics,
        "data": {
            "source": origin["source"],
            "payments": len(event_time),
            "fraud_share": float(is_fraud.mean()),
            "label_delay_days": LABEL_DELAY_MS // DAY_MS,
        },
        "split": {
            name: {
                "payments": part.stop - part.start,
                "frauds": int(is_fraud[part].sum()),
                "from": date(int(event_time[part.start])),
                "to": date(int(event_time[part.stop - 1])),
            }
            for name, part in parts.items()
        },
        "training": versions(),
    }
    recall = {}
    if "pattern" in table:
        pattern = np.array(table["pattern"][judged], dtype=object)
        for name in sorted(set(pattern[is_fraud[judged]].tolist())):
            found = scores[pattern == name] >= thresholds["review"]
            recall[name] = float(found.mean())
    artifact = save_artifact(output, {**tensors, "baseline": fitted.usual}, manifest)
    FraudRunner(artifact, device="cpu").warm_up()
    (output / "README.md").write_text(fraud_card(artifact, REVIEW_SHARE, DECLINE_PRECISION, recall), encoding="utf-8")
    return artifact


def measure(
    scores: NDArray[np.float32], is_fraud: NDArray[np.bool_], thresholds: Mapping[str, float]
) -> dict[str, float]:
    """Return the metrics of scores by name.

    Args:
        scores: float32[N] probabilities.
        is_fraud: bool[N].
        thresholds: review and decline.

    Returns:
        auc, average_precision, calibration_error; precision and recall from either threshold on; review_share.
    """
    metrics = {
        "auc": auc(scores, is_fraud),
        "average_precision": average_precision(scores, is_fraud),
        "calibration_error": calibration_error(scores, is_fraud),
        "fraud_share": float(is_fraud.mean()),
        "review_share": float((scores >= thresholds["review"]).mean()),
    }
    for name in ("review", "decline"):
        taken = scores >= thresholds[name]
        metrics[f"{name}_precision"] = float(is_fraud[taken].mean()) if taken.any() else 1.0
        metrics[f"{name}_recall"] = float(taken[is_fraud].mean())
    return metrics
