"""A trained model on disk: weights.safetensors and manifest.json, checked against each other at load. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from models.errors import ArtifactError

FORMAT: Final = 1
KINDS: Final = ("fraud", "recommender")
MANIFEST_FILE: Final = "manifest.json"
WEIGHTS_FILE: Final = "weights.safetensors"
WEIGHTS_FOLDER: Final = Path(__file__).parent / "weights"

REQUIRED: Final = ("format", "kind", "name", "architecture", "weights_sha256", "version")
# Twenty times what ships. Parsed JSON takes many times its size in memory, and it is read before its hash is known.
MANIFEST_BYTES_MAX: Final = 65_536
# Two million items with vectors of 128 floats: a larger file is a mistake, and loading would hold it in memory twice.
WEIGHTS_BYTES_MAX: Final = 1 << 30
# Sections that describe a training and change no score: left out of the version.
NARRATIVE: Final = ("metrics", "data", "split", "training")


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    Attributes:
        manifest: Content of manifest.json; `manifest["kind"]` is one of KINDS.
        tensors: Weights by name, as numpy arrays.
        version: SHA-256 in hex over the weights and all of the manifest that decides scores.
        folder: Its folder, for error messages.
    """

    manifest: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    version: str
    folder: Path

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    def section(self, name: str) -> Any:
        """Return a part of the manifest that this kind of model needs.

        Raises:
            ArtifactError: the manifest lacks it.
        """
        if name not in self.manifest:
            raise ArtifactError(f"{self.folder / MANIFEST_FILE}: expected a section {name!r}, got none; train it again")
        return self.manifest[name]

    def tensor(self, name: str, dtypes: Sequence[str], shape: Sequence[int | None]) -> NDArray[Any]:
        """Return a tensor that this kind of model needs.

        Args:
            dtypes: Any of these, by their numpy names.
            shape: Size of each dimension, None for any size.

        Raises:
            ArtifactError: it is absent, of another type or shape, or holds a number that is not finite.
        """
        sizes = " x ".join("any" if size is None else str(size) for size in shape)
        expected = f"{self.folder / WEIGHTS_FILE}: {name}: expected {sizes} finite numbers of {' or '.join(dtypes)}"
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ArtifactError(f"{expected}, got no such tensor; train it again")
        fits = tensor.ndim == len(shape) and all(
            size in (None, found) for size, found in zip(shape, tensor.shape, strict=True)
        )
        if str(tensor.dtype) not in dtypes or not fits:
            found = " x ".join(map(str, tensor.shape))
            raise ArtifactError(f"{expected}, got {found} of {tensor.dtype}; train it again")
        if not np.isfinite(tensor).all():
            raise ArtifactError(f"{expected}, got some that are not finite; train it again")
        return tensor

    def like(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the tensors of these names, each of the type and shape of the array given; errors as for `tensor`."""
        # A number alone is kept as a tensor of one dimension.
        return {name: self.tensor(name, [str(own.dtype)], own.shape or (1,)) for name, own in arrays.items()}


def default_artifact(kind: str) -> Path:
    """Return the folder of the weights that ship for "fraud" or "recommender"."""
    if kind not in KINDS:
        raise ArtifactError(f"default_artifact: expected one of {', '.join(KINDS)}, got {kind!r}; correct the kind")
    return WEIGHTS_FOLDER / kind


def save_artifact(folder: Path, tensors: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> Artifact:
    """Write an artifact and return it as `load_artifact` reads it.

    Args:
        folder: Created if absent; an artifact already in it is replaced.
        tensors: Weights by name; torch tensors are taken by `tensor.numpy()` first.
        manifest: Has kind, name and architecture; format, weights_sha256 and version are filled in.

    Returns:
        The artifact, read back.

    Raises:
        ArtifactError: the kind is unknown or a part is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.numpy.save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    complete = {"format": FORMAT, **manifest, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    complete["version"] = _version(complete)
    _check(complete, folder / MANIFEST_FILE)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    text = json.dumps(complete, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    return load_artifact(folder)


def load_artifact(folder: Path | str) -> Artifact:
    """Read an artifact and check that weights and manifest are the ones written together.

    Args:
        folder: Holds manifest.json and weights.safetensors.

    Returns:
        The artifact; its version identifies the scores that it gives.

    Raises:
        ArtifactError: a file is absent, unreadable, too large, or was changed after training.
    """
    folder = Path(folder)
    manifest_path, weights_path = folder / MANIFEST_FILE, folder / WEIGHTS_FILE
    try:
        manifest = json.loads(_read(manifest_path, MANIFEST_BYTES_MAX).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ArtifactError(f"{manifest_path}: expected JSON, got {error}; train it again") from error
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{manifest_path}: expected an object, got {type(manifest).__name__}; train it again")
    _check(manifest, manifest_path)
    weights = _read(weights_path, WEIGHTS_BYTES_MAX)
    found = hashlib.sha256(weights).hexdigest()
    if found != manifest["weights_sha256"]:
        raise ArtifactError(
            f"{weights_path}: expected SHA-256 {manifest['weights_sha256']}, got {found}; "
            "the weights are not the manifest's: restore both from one training"
        )
    try:
        version = _version(manifest)
    except (ValueError, RecursionError) as error:  # NaN, half a surrogate pair: JSON to Python alone
        raise ArtifactError(f"{manifest_path}: expected standard JSON, got {error}; train it again") from error
    if version != manifest["version"]:
        raise ArtifactError(
            f"{manifest_path}: expected version {manifest['version']}, got {version}; "
            "the manifest was edited after training: restore it, or train again"
        )
    try:
        tensors = safetensors.numpy.load(weights)
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{weights_path}: expected safetensors, got {error}; train it again") from error
    _check_sizes(manifest["architecture"], tensors, manifest_path)
    return Artifact(manifest=manifest, tensors=tensors, version=version, folder=folder)


def pack_texts(texts: list[str]) -> dict[str, NDArray[Any]]:
    """Return texts as two arrays, `utf8` uint8 and `end` int64[N], so that they lie with the weights under one hash."""
    encoded = [text.encode("utf-8") for text in texts]
    end = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    return {"utf8": np.frombuffer(b"".join(encoded), np.uint8), "end": end}


def unpack_texts(utf8: NDArray[np.uint8], end: NDArray[np.int64]) -> list[str]:
    """Return what `pack_texts` was given."""
    data = utf8.tobytes()
    starts = [0, *end[:-1].tolist()] if len(end) else []
    return [data[start:stop].decode("utf-8") for start, stop in zip(starts, end.tolist(), strict=True)]


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ArtifactError(
            f"{path}: expected an artifact's file, got {error.strerror}; train one or correct the path"
        ) from error
    if len(data) > bytes_max:
        raise ArtifactError(f"{path}: expected at most {bytes_max} bytes, got more; train one or correct the path")
    return data


def _check(manifest: Mapping[str, Any], path: Path) -> None:
    for name in REQUIRED:
        if name not in manifest:
            raise ArtifactError(f"{path}: expected a section {name!r}, got none; train it again")
    if manifest["format"] != FORMAT:
        raise ArtifactError(f"{path}: expected format {FORMAT}, got {manifest['format']!r}; train it again")
    if manifest["kind"] not in KINDS:
        raise ArtifactError(f"{path}: expected kind {' or '.join(KINDS)}, got {manifest['kind']!r}; train it again")


def _check_sizes(architecture: Any, tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Refuse sizes that the tensors cannot have, before a network of these sizes claims its memory."""
    if not isinstance(architecture, dict):
        raise ArtifactError(f"{path}: expected architecture to be an object, got {architecture!r}; train it again")
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    for name, value in architecture.items():
        sizes = value if isinstance(value, list) else [value]
        if len(sizes) > len(tensors):
            raise ArtifactError(
                f"{path}: architecture.{name}: expected at most {len(tensors)} layers, one a tensor, got {len(sizes)}; "
                "train it again"
            )
        for size in sizes:
            if isinstance(size, int) and not 1 <= size <= largest:
                raise ArtifactError(
                    f"{path}: architecture.{name}: expected 1 to {largest}, the largest dimension of its tensors, "
                    f"got {size!r:.24}; train it again"
                )


def _version(manifest: Mapping[str, Any]) -> str:
    decisive = {name: part for name, part in manifest.items() if name not in NARRATIVE and name != "version"}
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()
