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

# A standardised feature further out says no more than this: scores stay sane on traffic unlike the training's.
STANDARDISED_MAX: Final = 8.0

# What a reason is called, and the features that it speaks for. Features that say the same thing share a reason, since
# one of them alone would get an arbitrary part of the credit.
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
    ),
    "terminal_activity": ("terminal_labelled_1d", "terminal_labelled_7d", "terminal_labelled_30d"),
    "terminal_risk": (
        "terminal_risk_1d",
        "terminal_risk_7d",
        "terminal_risk_30d",
        "terminal_hours_since_fraud",
        "terminal_recent_frauds",
    ),
}


class FraudModel(nn.Module):
    """Standardisation, an MLP and Platt calibration in one module, so that serving cannot skip a part.

    Args:
        features: Columns of the input (F).
        hidden: Widths of the hidden layers.

    Source:
        Platt scaling, Platt (1999).
    """

    log_scaled: Tensor  # bool[F]: heavy-tailed columns, taken as sign(x) log(1 + |x|)
    mean: Tensor  # float32[F], after the logarithm
    inverse_scale: Tensor  # float32[F], after the logarithm
    calibration: Tensor  # float32[2]: slope and offset of the log-odds

    def __init__(self, features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [features, *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        self.register_buffer("log_scaled", torch.zeros(features, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("inverse_scale", torch.ones(features))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> FraudModel:
        """Return the model of an artifact.

        Raises:
            ArtifactError: the artifact is of another kind, or its tensors do not fit its architecture.
        """
        if artifact.kind != "fraud":
            raise ArtifactError(f"{artifact.folder}: expected kind fraud, got {artifact.kind}; correct the path")
        architecture = artifact.section("architecture")
        try:
            model = cls(len(artifact.section("features")), architecture["hidden"])
            model.load_state_dict(
                {name: torch.from_numpy(value) for name, value in artifact.tensors.items() if name != "baseline"}
            )
        except (KeyError, TypeError, RuntimeError) as error:
            raise ArtifactError(
                f"{artifact.folder}: expected tensors that fit {architecture}, got {error}; train it again"
            ) from error
        return model

    def fit_standardisation(self, features: NDArray[np.float32], skewness_min: float = 3.0) -> None:
        """Set the standardisation from training rows, float32[N, F]; columns more skewed than the bound are logged."""
        columns = features.astype(np.float64)
        spread = columns.std(axis=0)
        centred = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        logged = np.abs((centred**3).mean(axis=0)) > skewness_min
        columns[:, logged] = np.sign(columns[:, logged]) * np.log1p(np.abs(columns[:, logged]))
        spread = columns.std(axis=0)
        self.log_scaled.copy_(torch.from_numpy(logged))
        self.mean.copy_(torch.from_numpy(columns.mean(axis=0)))
        self.inverse_scale.copy_(torch.from_numpy(np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 0.0)))

    def standardise(self, features: Tensor) -> Tensor:
        """Return float32[B, F] in [-STANDARDISED_MAX, STANDARDISED_MAX]."""
        logged = torch.log1p(features.abs()).copysign(features)
        scaled = (torch.where(self.log_scaled, logged, features) - self.mean) * self.inverse_scale
        return scaled.clamp(-STANDARDISED_MAX, STANDARDISED_MAX)

    def raw_log_odds(self, standardised: Tensor) -> Tensor:
        """Return float32[B] log-odds before calibration, from standardised rows; what training minimises."""
        weights: Any = self.layers[0].weight
        odds: Tensor = self.layers(standardised.to(weights.dtype))
        return odds.squeeze(1).float()

    def log_odds(self, features: Tensor) -> Tensor:
        """Return float32[B] calibrated log-odds of fraud, from float32[B, F]."""
        return self.raw_log_odds(self.standardise(features)) * self.calibration[0] + self.calibration[1]

    def forward(self, features: Tensor) -> Tensor:
        """Return the calibrated fraud probability of each row.

        Args:
            features: float32[B, F], columns in the artifact's order.

        Returns:
            float32[B] in [0, 1], input order kept.
        """
        return torch.sigmoid(self.log_odds(features))

    def cast(self, dtype: torch.dtype) -> FraudModel:
        """Run the matrix products in dtype; standardisation and calibration stay float32."""
        self.layers.to(dtype)
        return self
