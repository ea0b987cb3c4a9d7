"""Leakage: whether an artifact, by its manifest, learned from payments whose labels were not yet known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifacts import Artifact
from models.errors import EvaluationError
from models.features.terminals import DAY_MS
from models.training.reproducible import date

# Its last part only measured the model; what was learned or chosen comes from these.
LEARNED_FROM: Final = ("train", "validation")


def refuse_knowledge_of(artifact: Artifact, known_until: int, event_time: NDArray[np.int64]) -> None:
    """Raise unless every payment that the artifact learned from had a known label.

    An artifact that learned from simulated payments is refused only where the file covers the same time: the file may
    then hold the same simulated payments.

    Args:
        artifact: Of kind fraud.
        known_until: Labels of payments before it are known when the first test week begins, ms.
        event_time: int64[N], ascending, ms, of the payments to be judged.

    Raises:
        EvaluationError: it learned from later payments, or does not say from which.
    """
    split, source = artifact.section("split"), str(artifact.section("data").get("source", ""))
    try:
        parts = [split[name] for name in LEARNED_FROM]
        first = min(_midnight(part["from"]) for part in parts)
        end = max(_midnight(part["to"]) for part in parts) + DAY_MS
    except (KeyError, TypeError, ValueError) as missing:
        raise EvaluationError(
            f"{artifact.folder}: expected dates (from, to) of the parts {' and '.join(LEARNED_FROM)} in its manifest, got "
            "others; what it learned from cannot be told: train it with this version"
        ) from missing
    elsewhere = source.startswith("simulator") and (end <= event_time[0] or first > event_time[-1])
    if end > known_until and not elsewhere:
        raise EvaluationError(
            f"{artifact.folder}: expected training data that ends before {date(known_until)}, got some up to "
            f"{date(end - DAY_MS)}: labels are known 7 days late, so on the first test day it could not have known them; "
            "choose a later --test-from, or train on less"
        )


def _midnight(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
