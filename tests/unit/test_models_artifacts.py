"""Artifacts: what was trained is what is loaded, or nothing is."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from models.artifacts import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    _version,
    default_artifact,
    load_artifact,
    pack_texts,
    save_artifact,
    unpack_texts,
)
from models.errors import ArtifactError

MANIFEST = {"kind": "fraud", "name": "tiny", "architecture": {"hidden": [2]}, "metrics": {"auc": 0.5}}


@pytest.fixture
def folder(tmp_path):
    save_artifact(tmp_path / "tiny", {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, MANIFEST)
    return tmp_path / "tiny"


def edit(folder, **changes):
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest.update(changes)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def vouch_for(folder, **changes):
    """Change the manifest, and its version with it."""
    edit(folder, **changes)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    edit(folder, version=_version(manifest))


def test_loaded_artifact_is_the_saved_one(folder):
    """Tensors keep values, shape and dtype; the manifest keeps its sections."""
    artifact = load_artifact(folder)
    assert np.array_equal(artifact.tensors["weight"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert artifact.tensors["weight"].dtype == np.float32
    assert (artifact.kind, artifact.name) == ("fraud", "tiny")
    assert len(artifact.version) == 64


def test_same_weights_and_manifest_have_the_same_version_wherever_they_lie(folder, tmp_path):
    """A version identifies scores, not files."""
    other = save_artifact(tmp_path / "copy", {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, MANIFEST)
    assert other.version == load_artifact(folder).version


@pytest.mark.parametrize(
    ("tensors", "manifest"),
    [
        ({"weight": np.zeros((2, 3), np.float32)}, MANIFEST),
        ({"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, {**MANIFEST, "thresholds": {"review": 0.1}}),
        ({"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, {**MANIFEST, "architecture": {"hidden": [3]}}),
    ],
)
def test_version_changes_with_whatever_changes_decisions(folder, tmp_path, tensors, manifest):
    """Weights, thresholds and architecture are in the version."""
    assert save_artifact(tmp_path / "other", tensors, manifest).version != load_artifact(folder).version


def test_metrics_are_not_part_of_the_version(folder, tmp_path):
    """Measuring a model again does not make it another model."""
    tensors = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    again = save_artifact(tmp_path / "again", tensors, {**MANIFEST, "metrics": {"auc": 0.9}})
    assert again.version == load_artifact(folder).version


def test_one_flipped_bit_in_the_weights_is_refused(folder):
    """Weights that differ from the manifest's hash are never loaded."""
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(ArtifactError, match="expected SHA-256"):
        load_artifact(folder)


def test_truncated_weights_are_refused_even_with_a_matching_hash(folder):
    """A hash over damaged weights does not make them weights."""
    data = (folder / WEIGHTS_FILE).read_bytes()[:-4]
    (folder / WEIGHTS_FILE).write_bytes(data)
    edit(folder, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ArtifactError, match=r"edited after training|expected safetensors"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": {"review": 0.0, "decline": 0.0}}, "edited after training"),
        ({"format": 99}, "expected format"),
        ({"kind": "weather"}, "expected kind"),
    ],
)
def test_edited_manifest_is_refused(folder, changes, message):
    """A manifest changed after training is an error that says so."""
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(folder)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("with_its_hash", [False, True])
@pytest.mark.parametrize("header", [b"", (8).to_bytes(8, "little")])
def test_pickle_in_place_of_weights_is_refused_and_not_run(folder, tmp_path, with_its_hash, header):
    """Loading never executes what it loads, with any content of the manifest."""
    trace = tmp_path / "executed"
    data = header + pickle.dumps(Bomb(trace))
    pickle.loads(data[len(header) :])
    assert trace.exists(), "the bomb is a bomb"
    trace.unlink()
    (folder / WEIGHTS_FILE).write_bytes(data)
    if with_its_hash:
        vouch_for(folder, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ArtifactError, match="expected safetensors" if with_its_hash else "expected SHA-256"):
        load_artifact(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", [MANIFEST_FILE, WEIGHTS_FILE])
def test_file_beyond_its_limit_is_refused(folder, name, monkeypatch):
    """A file that would fill the memory is refused by its size, with any content."""
    size = (folder / name).stat().st_size
    limit = {MANIFEST_FILE: "MANIFEST_BYTES_MAX", WEIGHTS_FILE: "WEIGHTS_BYTES_MAX"}[name]
    monkeypatch.setattr(f"models.artifacts.{limit}", size)
    load_artifact(folder)
    monkeypatch.setattr(f"models.artifacts.{limit}", size - 1)
    with pytest.raises(ArtifactError, match=f"{name}: expected at most {size - 1} bytes"):
        load_artifact(folder)


@pytest.mark.parametrize("text", ["[" * 60_000, '{"a":' * 10_000, "1" * 60_000])
def test_manifest_that_exhausts_a_parser_is_refused(folder, text):
    """Depth and digits without end are errors of the one tree."""
    (folder / MANIFEST_FILE).write_text(text)
    with pytest.raises(ArtifactError, match="expected JSON"):
        load_artifact(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_manifest_with_what_only_python_calls_json_is_refused(folder, value):
    """NaN and half a character have no canonical form, and so no version."""
    edit(folder, seed=value)
    with pytest.raises(ArtifactError, match="expected standard JSON"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "architecture",
    [
        {"hidden": [10**9, 10**9]},
        {"hidden": [10**4_000]},
        {"hidden": [-1]},
        {"hidden": [0]},
        {"hidden": [1] * 1_000},
        {"hidden": 10**9},
        {"items": 10**9, "width": 10**9},
        {"items": True, "width": False},
        [],
        "mlp",
        None,
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_claimed(folder, architecture):
    """No network is made of sizes that the tensors beside it cannot have."""
    vouch_for(folder, architecture=architecture)
    with pytest.raises(ArtifactError, match=r"architecture.*train it again"):
        load_artifact(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "fraud"}', "\xff"])
def test_manifest_that_is_none_is_refused(folder, text):
    """Anything else than a whole manifest is an ArtifactError, not a traceback of the JSON parser."""
    (folder / MANIFEST_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=str(folder)):
        load_artifact(folder)


def test_absent_artifact_names_the_path(tmp_path):
    """A wrong path is an error that shows the path."""
    with pytest.raises(ArtifactError, match="nowhere"):
        load_artifact(tmp_path / "nowhere")


def test_unknown_kind_has_no_default():
    """Only what ships has a default."""
    with pytest.raises(ArtifactError, match="expected one of fraud, recommender"):
        default_artifact("weather")


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "ß", "item-000001"]])
def test_texts_survive_packing(texts):
    """Item ids of any script and length come back as they were."""
    packed = pack_texts(texts)
    assert unpack_texts(packed["utf8"], packed["end"]) == texts


@pytest.mark.parametrize("kind", ["fraud", "recommender"])
def test_shipped_artifact_is_whole_small_and_tells_its_story(kind):
    """The weights that ship load, are under 3 MB, and have metrics, split and a card that names their version."""
    folder = default_artifact(kind)
    artifact = load_artifact(folder)
    assert artifact.kind == kind
    assert {"metrics", "data", "split", "training", "seed"} <= set(artifact.manifest)
    assert artifact.version in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
