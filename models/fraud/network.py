"""The fraud model: payment features in, calibrated probability of fraud out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifacts import Artifact
from models.errors import ArtifactError

# Bound of a standardised feature, so that scores stay plausible on traffic unlike the training's.
STANDARDISED_MAX: Final = 8.0

# Bound of the log-odds before calibration, 22,000 to 1: float32 probabilities closer to 1 are too coarse to rank by.
LOG_ODDS_MAX: Final = 10.0

THRESHOLDS: Final = ("review", "decline")
SHOWN_CHARS_MAX: Final = 200  # of a section that is refused: the manifest has all of it

# Edges of a feature's pieces. Fraud lives in the tails: the last hundredth and thousandth have pieces of their own.
QUANTILES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 0.99, 0.999, 1.0)

# Names of reasons and their features. Features with the same meaning share a reason, since each alone would get an
# arbitrary part of the credit.
REASON_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "amount": ("amount", "amount_log"),
    "time_of_day": ("is_night", "is_weekend", "hour_sin", "hour_cos"),
    "card_velocity": (
        "card_count_10min",
        "card_sum_10min",
        "card_count_1h",
        "card_sum_1h",
        "card_count_6h",
        "card_sum_6h",
        "card_seconds_since_last",
    ),
    "card_activity": ("card_count_1d", "card_count_7d", "card_count_30d"),
    "amount_against_card_history": (
        "card_mean_1d",
        "card_mean_7d",
        "card_mean_30d",
        "card_amount_over_mean",
        "card_amount_zscore",
        "card_amount_share_of_max",
        "card_typical_amount",
        "card_amount_over_typical",
        "card_amount_deviation",
    ),
    "card_recent_outliers": (
        "card_previous_over_typical",
        "card_largest_14d_over_typical",
        "card_second_14d_over_typical",
        "card_outliers_7d",
        "card_outliers_14d",
        "card_hours_since_outlier",
    ),
    "terminal_activity": ("terminal_labelled_1d", "terminal_labelled_7d", "terminal_labelled_30d"),
    "terminal_risk": (
        "terminal_risk_1d",
        "terminal_risk_7d",
        "terminal_risk_30d",
        "terminal_hours_since_fraud",
        "terminal_recent_frauds",
        "terminal_fraud_streak",
        "terminal_streak_hours",
        "terminal_hours_since_genuine",
        "terminal_labels_since_fraud",
        "terminal_frauds_before_streak",
    ),
}


def reason_groups(artifact: Artifact) -> dict[str, list[int]]:
    """Return the columns of each group of features that an artifact names in reasons.

    Raises:
        ArtifactError: not every feature is in one group, or something else is.
    """
    features, groups = artifact.section("features"), artifact.section("reasons")
    lists = groups.values() if isinstance(groups, dict) else []
    grouped = [feature for group in lists if isinstance(group, list) for feature in group]
    if sorted(map(str, grouped)) != sorted(features) or not all(isinstance(group, list) for group in lists):
        raise ArtifactError(
            f"{artifact.folder}: reasons: expected an object of lists with each feature in one of them, "
            f"got {str(groups)[:SHOWN_CHARS_MAX]}; train it again"
        )
    return {name: [features.index(feature) for feature in group] for name, group in groups.items()}


def thresholds(artifact: Artifact) -> dict[str, float]:
    """Return the scores from which an artifact reviews and declines a payment.

    Raises:
        ArtifactError: one is absent, no probability, or above the other.
    """
    given = artifact.section("thresholds")
    found = [given.get(name) for name in THRESHOLDS] if isinstance(given, dict) else []
    numbers = [value for value in found if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(THRESHOLDS) or not 0.0 <= numbers[0] <= numbers[1] <= 1.0:
        raise ArtifactError(
            f"{artifact.folder}: thresholds: expected 0 <= review <= decline <= 1, "
            f"got {str(given)[:SHOWN_CHARS_MAX]}; train it again"
        )
    return dict(zip(THRESHOLDS, map(float, numbers), strict=True))


class FraudModel(nn.Module):
    """Encoding, an MLP and Platt calibration in one module, so that serving cannot skip a part.

    Every feature is taken as sign(x) log(1 + |x|) and encoded twice: standardised, and as how far it has come through
    each of its pieces, which are quantiles of the training rows. A plain MLP on the standardised features alone finds
    the thresholds that separate fraud an epoch at a time, or never.

    Args:
        features: Columns of the input (F).
        pieces: Pieces of all features together (P).
        hidden: Widths of the hidden layers.

    Source:
        Piecewise linear encoding, Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning
        (2022). Platt scaling, Platt (1999).
    """

    mean: Tensor  # float32[F], after the logarithm
    inverse_scale: Tensor  # float32[F], after the logarithm
    piece_feature: Tensor  # int64[P]: the feature that a piece belongs to
    piece_start: Tensor  # float32[P], after the logarithm
    piece_inverse_width: Tensor  # float32[P]
    calibration: Tensor  # float32[2]: slope and offset of the log-odds

    def __init__(self, features: int, pieces: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [features + pieces, *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("inverse_scale", torch.ones(features))
        self.register_buffer("piece_feature", torch.zeros(pieces, dtype=torch.int64))
        self.register_buffer("piece_start", torch.zeros(pieces))
        self.register_buffer("piece_inverse_width", torch.zeros(pieces))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.product_rows: int | None = None  # rows of one matrix product; None: all that there are

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> FraudModel:
        """Return the model of an artifact.

        Raises:
            ArtifactError: the artifact is of another kind, or its tensors do not fit its architecture.
        """
        if artifact.kind != "fraud":
            raise ArtifactError(f"{artifact.folder}: expected kind fraud, got {artifact.kind}; correct the path")
        architecture, features = artifact.section("architecture"), artifact.section("features")
        try:
            model = cls(len(features), architecture["pieces"], architecture["hidden"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{artifact.folder}: expected features and an architecture of pieces and hidden layers, "
                f"got {architecture} ({error!r}); train it again"
            ) from error
        own = {name: value.numpy() for name, value in model.state_dict().items()}
        model.load_state_dict({name: torch.from_numpy(value) for name, value in artifact.like(own).items()})
        if not bool(((model.piece_feature >= 0) & (model.piece_feature < len(features))).all()):
            raise ArtifactError(
                f"{artifact.folder}: piece_feature: expected 0 to {len(features) - 1}, got "
                f"{int(model.piece_feature.min())} to {int(model.piece_feature.max())}; train it again"
            )
        return model

    @classmethod
    def untrained(cls, features: NDArray[np.float32], hidden: Sequence[int]) -> FraudModel:
        """Return a model with the encoding of training rows, float32[N, F], and random layers."""
        logged = np.copysign(np.log1p(np.abs(features)), features)
        edges = [np.unique(np.quantile(column, QUANTILES).astype(np.float32)) for column in logged.T]
        model = cls(features.shape[1], sum(len(each) - 1 for each in edges), hidden)
        spread = logged.std(axis=0, dtype=np.float64)
        model.mean.copy_(torch.from_numpy(logged.mean(axis=0, dtype=np.float64)))
        model.inverse_scale.copy_(torch.from_numpy(np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 0.0)))
        model.piece_feature.copy_(torch.from_numpy(np.repeat(np.arange(len(edges)), [len(each) - 1 for each in edges])))
        model.piece_start.copy_(torch.from_numpy(np.concatenate([each[:-1] for each in edges])))
        model.piece_inverse_width.copy_(
            torch.from_numpy(1.0 / np.concatenate([np.maximum(np.diff(each), 1e-6) for each in edges]))
        )
        return model

    def encode(self, features: Tensor) -> Tensor:
        """Return float32[B, F + P]: standardised to +-STANDARDISED_MAX, then pieces in [-0.5, 0.5]."""
        logged = torch.log1p(features.abs()).copysign(features)
        standardised = ((logged - self.mean) * self.inverse_scale).clamp_(-STANDARDISED_MAX, STANDARDISED_MAX)
        pieces = logged.index_select(1, self.piece_feature).sub_(self.piece_start).mul_(self.piece_inverse_width)
        return torch.cat([standardised, pieces.clamp_(0.0, 1.0).sub_(0.5)], dim=1)

    def raw_log_odds(self, encoded: Tensor) -> Tensor:
        """Return float32[B] log-odds before calibration, from encoded rows; what training minimises."""
        weights: Any = self.layers[0].weight
        parts = torch.split(encoded.to(weights.dtype), self.product_rows or len(encoded))
        odds: Tensor = torch.cat([self.layers(part) for part in parts])
        return (odds.squeeze(1).float() / LOG_ODDS_MAX).tanh() * LOG_ODDS_MAX

    def log_odds(self, features: Tensor) -> Tensor:
        """Return float32[B] calibrated log-odds of fraud, from float32[B, F]."""
        return self.raw_log_odds(self.encode(features)) * self.calibration[0] + self.calibration[1]

    def forward(self, features: Tensor) -> Tensor:
        """Return the calibrated fraud probability of each row.

        Args:
            features: float32[B, F], columns in the artifact's order.

        Returns:
            float32[B] in [0, 1], input order kept.
        """
        return torch.sigmoid(self.log_odds(features))

    def cast(self, dtype: torch.dtype) -> FraudModel:
        """Run the matrix products in dtype; encoding and calibration stay float32."""
        self.layers.to(dtype)
        return self
