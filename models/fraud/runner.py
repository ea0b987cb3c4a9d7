"""The fraud model, frozen: feature rows in, scores and reasons out.

A runner owns no thread and no queue: its caller serialises the calls. Two runners of one artifact give equal answers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.artifacts import Artifact, default_artifact, load_artifact
from models.devices import Batches, freeze, resolve_device, resolve_dtype
from models.errors import FeatureMismatch
from models.features.payments import FRAUD_FEATURES
from models.fraud.network import FraudModel, reason_groups, thresholds

Float32 = NDArray[np.float32]

# Payments are scored in chunks of one shape, the last one padded: the sums of a matrix product may be taken in another
# order in a product of another shape, and a payment's score must not depend on the batch that it comes in. A larger
# chunk costs less a row, a smaller one less for a lone payment.
FRAUD_CHUNK_ROWS: Final = {"cpu": 128, "cuda": 1024}
# Chunks that share the element-wise work. More elements at a time would be split among torch's threads, and the place
# of the split changes the last digit of a logarithm.
FRAUD_CHUNKS_MAX: Final = {"cpu": 4, "cuda": 1}

BASELINE: Final = "baseline"
OTHER: Final = "other"


class FraudRunner:
    """The fraud model, frozen.

    Args:
        artifact: Of kind fraud.
        device: As for `resolve_device`.
        dtype: "float32" or, on CUDA, "bfloat16".
        chunk_rows: Rows of one forward pass; FRAUD_CHUNK_ROWS of the device where it is 0.

    Raises:
        ArtifactError: the artifact is of another kind or incomplete.
        FeatureMismatch: it was trained on other features than this version computes.
        ModelError: device or dtype is not available.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: str = "auto",
        dtype: str = "float32",
        chunk_rows: int = 0,
    ) -> None:
        self.device = resolve_device(device)
        trained_on = artifact.section("features")
        if artifact.kind == "fraud" and trained_on != list(FRAUD_FEATURES):
            raise FeatureMismatch(
                f"{artifact.folder}: expected the features {list(FRAUD_FEATURES)}, got {trained_on}; "
                "train the model with this version"
            )
        self._model = FraudModel.from_artifact(artifact).cast(resolve_dtype(dtype, self.device)).to(self.device)
        freeze(self._model)
        self._model.product_rows = chunk_rows or FRAUD_CHUNK_ROWS[self.device.type]
        chunks = range(1, FRAUD_CHUNKS_MAX[self.device.type] + 1)
        self._batches = Batches(self.device, [count * self._model.product_rows for count in chunks])
        self.features = FRAUD_FEATURES
        self.name = artifact.name
        self.version = artifact.version
        self.thresholds = thresholds(artifact)
        groups = reason_groups(artifact)
        self._groups = tuple(groups)
        self._baseline = torch.from_numpy(artifact.tensor("baseline", ["float32"], [len(FRAUD_FEATURES)]))
        self._substitutions = self._telescope(list(groups.values()))

    @classmethod
    def load(cls, folder: Path | str = "", device: str = "auto", dtype: str = "float32") -> FraudRunner:
        """Return a runner of the artifact in a folder, or of the one that ships."""
        return cls(load_artifact(folder or default_artifact("fraud")), device, dtype)

    def warm_up(self) -> None:
        """Run every batch size once, so that the first record does not wait for kernels and memory."""
        for size in self._batches.warm_up_sizes():
            self.score(np.tile(self._baseline.numpy(), (size, 1)))
        self.reasons(self._baseline.numpy()[None, :], 1)

    def score(self, features: Float32) -> Float32:
        """Return the calibrated fraud probability of each row.

        Args:
            features: float32[B, F], columns in FRAUD_FEATURES order.

        Returns:
            float32[B] in [0, 1], input order kept, in an array of the caller's own. A row's score is the same to the
            last bit beside any other rows.

        Raises:
            FeatureMismatch: F differs from the artifact's.
        """
        with torch.inference_mode():
            return self._each(features, self._model).numpy()

    def reasons(self, features: Float32, top: int) -> list[list[tuple[str, float]]]:
        """Say which groups of features moved each row's score away from a usual payment's.

        The row's groups are put into the baseline row one after the other, in order and in reverse; a group's
        contribution is the mean change of the log-odds at its turn.

        Args:
            features: float32[R, F], the few rows that need a reason: each costs about fifteen rows of scoring.
            top: Groups named, those that raise the score most first.

        Returns:
            For each row ("baseline", ...), the named groups and ("other", rest), in log-odds; they sum to the
            log-odds of the row's score.

        Raises:
            FeatureMismatch: F differs from the artifact's.

        Source:
            Sampled Shapley values with antithetic orders, Mitchell et al. (2022).
        """
        rows = self._checked(features)
        steps = self._substitutions  # bool[2, G + 1, F]
        with torch.inference_mode():
            mixed = torch.where(steps, rows[:, None, None, :], self._baseline)
            odds = self._each(mixed.flatten(0, 2).numpy(), self._model.log_odds).view(len(rows), 2, -1).double().numpy()
        forward = np.diff(odds[:, 0], axis=1)
        reverse = np.diff(odds[:, 1], axis=1)[:, ::-1]
        contributions = (forward + reverse) / 2
        result = []
        for baseline, of_group in zip(odds[:, 0, 0].tolist(), contributions, strict=True):
            order = np.argsort(-of_group, kind="stable")
            named = [(self._groups[group], float(of_group[group])) for group in order[:top]]
            result.append([(BASELINE, baseline), *named, (OTHER, float(of_group[order[top:]].sum()))])
        return result

    def _checked(self, features: Float32) -> Tensor:
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise FeatureMismatch(
                f"{self.name}: expected rows of {len(self.features)} features, got shape {features.shape}; "
                "build them with PaymentFeatures of this version"
            )
        return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))

    def _each(self, features: Float32, function: Callable[[Tensor], Tensor]) -> Tensor:
        rows = self._checked(features)
        values = torch.empty(len(rows))
        for covered, batch in self._batches.split(rows):
            values[covered] = function(batch)[: covered.stop - covered.start].cpu()
        return values

    def _telescope(self, groups: list[list[int]]) -> Tensor:
        """Return bool[2, G + 1, F]: which features are the row's own after each step, in order and in reverse."""
        steps = torch.zeros((2, len(groups) + 1, len(self.features)), dtype=torch.bool)
        for step, (group, from_end) in enumerate(zip(groups, reversed(groups), strict=True), start=1):
            steps[0, step:, group] = True
            steps[1, step:, from_end] = True
        return steps
