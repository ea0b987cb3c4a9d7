"""Loading: an artifact that lacks a part, or has it in another type or shape, is refused before the first record.

Each is written as another training program would write it: hashes and version are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifacts import default_artifact, load_artifact, save_artifact
from models.errors import ModelError
from models.fraud.runner import FraudRunner
from models.recommender.runner import RecommenderRunner

GONE = object()
FRAUD, RECOMMENDER = (load_artifact(default_artifact(kind)) for kind in ("fraud", "recommender"))


def refusal(
    shipped: Any, folder: Path, section: str = "", part: Any = None, tensor: str = "", value: Any = None
) -> str:
    """Return what is said of a shipped artifact with one section, or one tensor, changed or GONE."""
    manifest, tensors = dict(shipped.manifest), dict(shipped.tensors)
    for changed, name, new in ((manifest, section, part), (tensors, tensor, value)):
        if name:
            changed.pop(name)
            if new is not GONE:
                changed[name] = new
    save_artifact(folder, tensors, manifest)
    runner = FraudRunner if shipped is FRAUD else RecommenderRunner
    with pytest.raises(ModelError) as raised:
        runner.load(folder, "cpu")
    message = str(raised.value)
    assert str(folder) in message and "expected" in message and "got" in message
    assert message.endswith(("train it again", "train the model with this version"))
    return message


def fraud_part(name: str, part: Any) -> dict[str, Any]:
    return {**FRAUD.manifest[name], **part}


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("thresholds", GONE),
        ("thresholds", None),
        ("thresholds", []),
        ("thresholds", "high"),
        ("thresholds", {}),
        ("thresholds", {"review": 0.5}),
        ("thresholds", {"review": 0.5, "decline": None}),
        ("thresholds", {"review": 0.5, "decline": "0.9"}),
        ("thresholds", {"review": False, "decline": True}),
        ("thresholds", {"review": 0.9, "decline": 0.5}),
        ("thresholds", {"review": -0.1, "decline": 0.5}),
        ("thresholds", {"review": 0.1, "decline": 1.5}),
        ("reasons", GONE),
        ("reasons", None),
        ("reasons", []),
        ("reasons", {}),
        ("reasons", 3),
        ("reasons", fraud_part("reasons", {"amount": ["amount"]})),
        ("reasons", fraud_part("reasons", {"amount": ["amount", "amount_log", "moonlight"]})),
        ("reasons", fraud_part("reasons", {"twice": ["amount"]})),
        ("reasons", fraud_part("reasons", {"amount": None})),
        ("reasons", fraud_part("reasons", {"amount": "amount"})),
        ("reasons", fraud_part("reasons", {"none": "amount"})),
        ("reasons", fraud_part("reasons", {"amount": [["amount"], "amount_log"]})),
        ("features", GONE),
        ("features", None),
        ("features", 44),
        ("features", "amount"),
        ("features", [1, 2]),
        ("architecture", {"pieces": 234}),
        ("architecture", {"pieces": None, "hidden": [64, 32]}),
        ("architecture", {"pieces": 234, "hidden": None}),
        ("architecture", {"pieces": 234, "hidden": "wide"}),
        ("architecture", {"pieces": 234, "hidden": [64.5, 32]}),
        ("architecture", {"pieces": 233, "hidden": [64, 32]}),
        ("architecture", {"pieces": 234, "hidden": [64]}),
        ("architecture", {"pieces": 234, "hidden": [64, 32, 32]}),
    ],
)
def test_fraud_artifact_with_a_damaged_section_is_refused(tmp_path: Path, section: str, part: Any) -> None:
    """Place, what was expected, what came and what to do: no KeyError, and no worker that fails on the first payment."""
    refusal(FRAUD, tmp_path / "artifact", section, part)


def damaged(tensor: Any) -> dict[str, Any]:
    """Return a tensor as it must not be: absent, too short, of another rank or type, with a NaN."""
    spoilt = tensor.astype(np.float32)
    spoilt.flat[-1] = np.nan
    return {
        "gone": GONE,
        "short": tensor[:-1],
        "deep": tensor[None],
        "doubled": tensor.astype(np.float64),
        "text": np.frombuffer(b"abc", np.uint8),
        **({"NaN": spoilt, "whole": tensor.astype(np.int64)} if tensor.dtype == np.float32 else {}),
    }


ALL_DAMAGE = ("gone", "short", "deep", "doubled", "text", "NaN", "whole")


@pytest.mark.parametrize("damage", ALL_DAMAGE)
@pytest.mark.parametrize("name", sorted(FRAUD.tensors))
def test_fraud_artifact_with_a_damaged_tensor_is_refused_by_its_name(tmp_path: Path, name: str, damage: str) -> None:
    """For every tensor: torch would cast another type in silence, and a NaN would refuse every payment."""
    values = damaged(FRAUD.tensors[name])
    if damage in values:
        assert name in refusal(FRAUD, tmp_path / "artifact", tensor=name, value=values[damage])


@pytest.mark.parametrize("piece", [-1, 44])
def test_pieces_of_no_feature_are_refused(tmp_path: Path, piece: int) -> None:
    """An index outside the features would be an IndexError at the first payment."""
    pieces = FRAUD.tensors["piece_feature"].copy()
    pieces[7] = piece
    assert "piece_feature" in refusal(FRAUD, tmp_path / "artifact", tensor="piece_feature", value=pieces)


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("architecture", {"items": 2001, "width": 100, "heads": 4}),
        ("architecture", {"items": 2001, "width": "100", "heads": 4, "length": 20}),
        ("architecture", {"items": 2001, "width": None, "heads": 4, "length": 20}),
        ("architecture", {"items": 2000, "width": 100, "heads": 4, "length": 20}),
        ("architecture", {"items": 2001, "width": 100, "heads": 2, "length": 20}),
        ("architecture", {"items": 2001, "width": 100, "heads": 4, "length": 21}),
        ("neighbours", GONE),
        ("neighbours", None),
        ("neighbours", [1]),
        ("neighbours", {"moonlight": 1}),
        ("neighbours", {"matches": "200"}),
        ("neighbours", {"matches": 0}),
        ("neighbours", {"matches": 2.5}),
        ("neighbours", {"window": -1}),
        ("neighbours", {"compared": 10**12}),
        ("neighbours", {"rarity": None}),
        ("neighbours", {"rarity": True}),
        ("neighbours", {"age": [0.0]}),
    ],
)
def test_recommender_artifact_with_a_damaged_section_is_refused(tmp_path: Path, section: str, part: Any) -> None:
    """As for the fraud model."""
    refusal(RECOMMENDER, tmp_path / "artifact", section, part)


@pytest.mark.parametrize("damage", ALL_DAMAGE)
@pytest.mark.parametrize("name", sorted(RECOMMENDER.tensors))
def test_recommender_artifact_with_a_damaged_tensor_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    """Indices that are none would read other memory in the compiled loops."""
    values = damaged(RECOMMENDER.tensors[name])
    if damage in values:
        refusal(RECOMMENDER, tmp_path / "artifact", tensor=name, value=values[damage])


def changed(name: str, place: int, value: int) -> dict[str, Any]:
    """Return the arguments of `refusal` for a recommender's tensor with one number changed."""
    tensor = RECOMMENDER.tensors[name].copy()
    tensor[place] = value
    return {"tensor": name, "value": tensor}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("past.clicks", 0, 2_001), "past clicks"),
        (changed("past.lengths", 0, 60_000), "past clicks"),
        ({"tensor": "past.clicks", "value": RECOMMENDER.tensors["past.clicks"].astype(np.int32) - 1}, "past clicks"),
        ({"tensor": "past.clicks", "value": np.empty(0, np.uint16)}, "past clicks"),
        (changed("item_clicks", 5, -1), "clicks >= 0"),
        (changed("item_ids.end", 5, 0), "different item ids"),
        (changed("item_ids.utf8", 5, 0xFF), "UTF-8"),
        ({"tensor": "encoder.log_scale", "value": np.array([900.0], np.float32)}, "log_scale"),
    ],
)
def test_recommender_artifact_whose_numbers_make_no_sense_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """Items beyond the vocabulary, ids that repeat or are no text, a scale without a finite exponential."""
    assert said in refusal(RECOMMENDER, tmp_path / "artifact", **change)
