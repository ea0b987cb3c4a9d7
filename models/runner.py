"""Frozen models at work: numpy arrays in, numpy arrays out, on the device that was asked for.

A runner owns no thread and no queue; the caller decides who may call it. Two runners of one artifact give one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifacts import Artifact, default_artifact, load_artifact
from models.errors import FeatureMismatch, ModelError
from models.features.clicks import NewItems
from models.features.payments import FRAUD_FEATURES
from models.fraud.network import FraudModel, reason_groups, thresholds
from models.recommender.blend import Blend, largest
from models.recommender.network import RecommenderModel, Vocabulary

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# A new shape costs a CUDA device milliseconds of choosing kernels: batches are padded to one of these sizes there.
BATCH_BUCKETS: Final = (64, 256, 1024, 4096)

# Payments are scored in chunks of one shape, the last one padded: the sums of a matrix product may be taken in another
# order in a product of another shape, and a payment's score must not depend on the batch that it comes in. The larger
# the chunk the less it costs a row, the smaller the less a lone payment waits.
FRAUD_CHUNK_ROWS: Final = {"cpu": 128, "cuda": 1024}
# Chunks that share what is done element by element. More elements at a time would be split among torch's threads, and
# a split anywhere gives logarithms of the last digit's choice.
FRAUD_CHUNKS_MAX: Final = {"cpu": 4, "cuda": 1}

# Scores of one chunk on the CPU: 4 MB, so that they are still in the cache when the largest are picked.
SCORES_PER_CHUNK_MAX: Final = 1 << 20
# Sessions that the CPU encodes at once: beyond, they are no cheaper each.
SESSIONS_PER_CHUNK_MAX: Final = 256

SEQUENCE: Final = "sequence"
NEIGHBOURS: Final = "neighbours"
POPULAR: Final = "popular"

# Items of the network that the blend sees. A hundredth of a session's probability lies outside; hits do not.
CANDIDATES: Final = 128
MULTIPLIES_BFLOAT16: Final = bool(get_host_cpu_features().get("avx512bf16"))

Part = Literal["blend", "sequence", "neighbours", "item-item", "popularity"]
PARTS: Final = get_args(Part)

BASELINE: Final = "baseline"
OTHER: Final = "other"


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ModelError: CUDA was asked for and is not there, or the name is none of these.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ModelError(f"STREAMS_DEVICE: expected auto, cpu or cuda, got {name!r}; correct it")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= devices:
        raise ModelError(f"STREAMS_DEVICE={name}: expected a CUDA device, found {devices}; set it to auto or cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the matrix products.

    Raises:
        ModelError: the name is unknown, or the device is slower with it than without.
    """
    if name not in DTYPES:
        raise ModelError(f"STREAMS_DTYPE: expected {' or '.join(DTYPES)}, got {name!r}; correct it")
    if name != "float32" and device.type == "cpu":
        raise ModelError(f"STREAMS_DTYPE={name}: expected float32 on the CPU; set STREAMS_DTYPE=float32")
    return DTYPES[name]


def freeze(model: nn.Module) -> None:
    """Make a model's weights constant: evaluation mode and no gradient."""
    model.eval()
    model.requires_grad_(False)


class Batches:
    """How rows reach the device: padded to one of the buckets, or, with `rows_max`, on the CPU as they are."""

    def __init__(self, device: torch.device, buckets: Sequence[int], rows_max: int | None = None) -> None:
        if not buckets or min(buckets) < 1:
            raise ModelError(f"batch_buckets: expected sizes >= 1, got {tuple(buckets)}; correct them")
        self.device = device
        self.padded = rows_max is None or device.type != "cpu"
        self.sizes = tuple(sorted(buckets))
        self.rows_max = rows_max or self.sizes[-1]

    def split(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows covered, rows on the device), the latter padded with copies of its first row."""
        size_max = self.sizes[-1] if self.padded else self.rows_max
        for start in range(0, len(rows), size_max):
            chunk = rows[start : start + size_max]
            covered = slice(start, start + len(chunk))
            if self.padded:
                size = next(size for size in self.sizes if size >= len(chunk))
                chunk = torch.cat([chunk, chunk[:1].expand(size - len(chunk), -1)])
            yield covered, chunk.to(self.device)

    def warm_up_sizes(self) -> tuple[int, ...]:
        """Return the sizes to run once, the largest first, because it claims the memory."""
        return self.sizes[::-1] if self.padded else (self.sizes[-1], 1)


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
        ModelError: device or dtype cannot be had.
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
            last bit whatever the other rows are.

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


class Slates(NamedTuple):
    """Recommendations of a batch; a row is shorter than K only where the vocabulary has no more unseen items.

    Attributes:
        items: int32[B, K] item indices, best first, -1 where there is none.
        ids: Item ids of each row, without the missing ones.
        scores: float32[B, K] probability of the next click, among the items that may be named; 0 where there is none.
        strategies: SEQUENCE, NEIGHBOURS or POPULAR for each row.
    """

    items: Int32
    ids: list[list[str]]
    scores: Float32
    strategies: list[str]

    @classmethod
    def joined(cls, parts: Sequence[Slates]) -> Slates:
        """Return the rows of all parts in order."""
        if len(parts) == 1:
            return parts[0]
        items = np.concatenate([each.items for each in parts] or [np.empty((0, 0), np.int32)])
        scores = np.concatenate([each.scores for each in parts] or [np.empty((0, 0), np.float32)])
        ids = [row for each in parts for row in each.ids]
        return cls(items, ids, scores, [strategy for each in parts for strategy in each.strategies])


class RecommenderRunner:
    """The recommender, frozen; arguments and errors as for `FraudRunner`.

    The device encodes sessions and picks the CANDIDATES items of each that the network finds likeliest; the blend of
    these with past sessions and the session's own items is the CPU's.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: str = "auto",
        dtype: str = "float32",
        batch_buckets: Sequence[int] = BATCH_BUCKETS,
    ) -> None:
        self.device = resolve_device(device)
        model = RecommenderModel.from_artifact(artifact)
        freeze(model)
        log_scale = float(model.encoder.log_scale)
        self._blend = Blend.from_artifact(artifact, model.embedding.numpy().copy(), log_scale)
        self._looking = Looking(model, self.device, resolve_dtype(dtype, self.device), batch_buckets)
        vocabulary = Vocabulary.from_artifact(artifact)
        self._index = vocabulary.index
        self._ids = np.array([*vocabulary.ids, None], dtype=object)  # index -1 is the last place
        self._popular = np.argsort(-vocabulary.clicks, kind="stable").astype(np.int32)
        self._rank = np.argsort(self._popular).astype(np.int32)  # place of an item in _popular
        self._popularity = (vocabulary.clicks / max(1, int(vocabulary.clicks.sum()))).astype(np.float32)
        self.items = model.items
        self.length = model.length
        self.name = artifact.name
        self.version = artifact.version

    @classmethod
    def load(cls, folder: Path | str = "", device: str = "auto", dtype: str = "float32") -> RecommenderRunner:
        """Return a runner of the artifact in a folder, or of the one that ships."""
        return cls(load_artifact(folder or default_artifact("recommender")), device, dtype)

    def warm_up(self) -> None:
        """Run every batch size once, so that the first record does not wait for kernels and memory."""
        for size in self._looking.batches.warm_up_sizes():
            self.recommend(np.zeros((size, self.length), np.int32), min(20, self.items))

    def item_index(self, ids: Sequence[str]) -> Int32:
        """Return int32[B] indices of item ids, -1 for those that the model was not trained on."""
        return np.fromiter(map(self._index.get, ids, repeat(-1)), np.int32, len(ids))

    def recommend(self, sequences: Int32, k: int, keep_seen: bool = False) -> Slates:
        """Return the k items most likely to be clicked next.

        Args:
            sequences: int32[B, T] item indices in order of clicks, the last click rightmost, -1 for an unknown item
                or none; unknown items are skipped, the rest of the session counts.
            k: Items wanted, >= 1; K is at most the size of the vocabulary.
            keep_seen: Whether items already in the session may be recommended again.

        Returns:
            Slates; a session without any known item gets the most popular items. A slate's strategy is the part that
            gave more probability to the items on it; the session's own items count for past sessions.
        """
        k = min(k, self.items)
        sessions, counts = left_aligned(sequences, self.length)
        rows = np.flatnonzero(counts)
        items = np.tile(self._popular[:k], (len(sequences), 1))
        scores = np.tile(self._popularity[self._popular[:k]], (len(sequences), 1))
        strategies = [POPULAR] * len(sequences)
        if len(rows):
            vectors, candidates = self._looking.look(sessions[rows], counts[rows], max(CANDIDATES, k + self.length))
            items[rows], scores[rows], shares = self._blend.rank(
                sessions[rows], counts[rows], vectors, candidates, k, keep_seen=keep_seen
            )
            for row, by_neighbours in zip(rows.tolist(), (shares[:, 1] > shares[:, 0]).tolist(), strict=True):
                strategies[row] = NEIGHBOURS if by_neighbours else SEQUENCE
        return Slates(items, self._names(items), scores, strategies)

    def recommend_popular(self, sequences: Int32, k: int, keep_seen: bool = False) -> Slates:
        """Return the k items with the most clicks in training, whatever the network says; arguments as for `recommend`.

        Returns:
            Slates of strategy POPULAR; a score is the item's share of all clicks.
        """
        best = self._popular[: k + sequences.shape[1]]  # enough of them, whatever the session has seen
        seen = np.zeros((len(sequences), len(best)), np.bool_)
        if not keep_seen:
            ranks = np.where(sequences >= 0, self._rank[sequences], self.items)
            rows, places = np.nonzero(ranks < len(best))
            seen[rows, ranks[rows, places]] = True
        chosen = np.argsort(seen, axis=1, kind="stable")[:, :k]  # unseen ones first, in order
        items = np.where(np.take_along_axis(seen, chosen, axis=1), np.int32(-1), best[chosen])
        scores = np.where(items >= 0, self._popularity[items], np.float32(0))
        return Slates(items, self._names(items), scores, [POPULAR] * len(sequences))

    def _names(self, items: Int32) -> list[list[str]]:
        ids: list[list[str]] = self._ids[items].tolist()
        if (items < 0).any():
            ids = [[item for item in row if item is not None] for row in ids]
        return ids

    def with_new(self, slates: Slates, new: NewItems) -> Slates:
        """Return slates with new items among their ids and scores, in the order of probability.

        A known item's probability is what the new ones leave of it.

        Args:
            slates: As `recommend` gives them; their `items` know no new ones and stay.
            new: What may be recommended beside, for each slate.
        """
        ids, scores = list(slates.ids), slates.scores.copy()
        for row in [row for row, names in enumerate(new.ids) if names]:
            left = max(0.0, 1.0 - sum(new.shares[row]))
            known = (scores[row, : len(ids[row])] * left).tolist()
            both = [*zip(new.shares[row], new.ids[row], strict=True), *zip(known, ids[row], strict=True)]
            best = sorted(both, key=lambda pair: -pair[0])[: scores.shape[1]]
            ids[row] = [name for _, name in best]
            scores[row, : len(best)] = [score for score, _ in best]
        return slates._replace(ids=ids, scores=scores)

    def rank(self, sequences: Int32, k: int, part: Part = "blend") -> Int32:
        """Return int32[B, K] items as one part of the recommender ranks them, seen ones included; -1 where none is.

        Args:
            sequences: As for `recommend`.
            k: Items wanted, >= 1.
            part: One of PARTS; "item-item" has the votes of past sessions with the last click and nothing else.

        Raises:
            ModelError: the part is unknown.
        """
        if part not in PARTS:
            raise ModelError(f"part: expected one of {', '.join(PARTS)}, got {part!r}; correct it")
        if part == "blend":
            return self.recommend(sequences, k, keep_seen=True).items
        k = min(k, self.items)
        items = np.tile(self._popular[:k], (len(sequences), 1))
        sessions, counts = left_aligned(sequences, self.length)
        rows = np.flatnonzero(counts)
        if part == "popularity" or not len(rows):
            return items
        vectors, candidates = self._looking.look(sessions[rows], counts[rows], max(CANDIDATES, k + self.length))
        items[rows] = self._blend.of_part(part).rank(
            sessions[rows], counts[rows], vectors, candidates, k, keep_seen=True
        )[0]
        return items


class Looking:
    """A network that says which items are worth ranking: session vectors and the items with the largest logits.

    On a CPU with products of bfloat16 the logits are taken in it. They only choose the candidates: the blend takes the
    candidates' own logits again, in float32 and in one order, so that a slate does not depend on its batch.

    Args:
        model: Frozen.
        device: Where it runs.
        dtype: Of its products there.
        batch_buckets: As for the runners.
    """

    def __init__(
        self, model: RecommenderModel, device: torch.device, dtype: torch.dtype, batch_buckets: Sequence[int]
    ) -> None:
        self._model = model.to(device=device, dtype=dtype)
        self.items = model.items
        coarse = torch.bfloat16 if device.type == "cpu" and MULTIPLIES_BFLOAT16 else dtype
        self._items = model.embedding.detach().to(coarse)
        self.batches = Batches(device, batch_buckets, SESSIONS_PER_CHUNK_MAX)
        # A device takes the bucket that it was given; a CPU's cache does not hold as many scores.
        self._rows_max = self.batches.sizes[-1] if self.batches.padded else max(1, SCORES_PER_CHUNK_MAX // model.items)

    def look(self, sessions: Int32, counts: Int32, wanted: int) -> tuple[Float32, Int32]:
        """Return session vectors float32[B, D], and the `wanted` items (all, if there are fewer) int32[B, M]."""
        wanted = min(wanted, self.items)
        order = np.argsort(counts, kind="stable")  # like lengths together: a chunk is as long as its longest
        rows = torch.from_numpy(np.column_stack([sessions[order], counts[order]]).astype(np.int64))
        vectors = np.empty((len(sessions), self._items.shape[1]), np.float32)
        candidates = np.empty((len(sessions), wanted), np.int32)
        with torch.inference_mode():
            for covered, batch in self.batches.split(rows):
                lengths = batch[:, -1]
                clicks = batch[:, :-1] if self.batches.padded else batch[:, : int(lengths.max())]
                place = order[covered]
                found = self._model.encode(clicks, lengths)[: len(place)]
                vectors[place] = found.float().cpu().numpy()
                if not np.isfinite(
                    vectors[place]
                ).all():  # nothing to pick the largest of: loops would leave their arrays
                    raise ModelError("recommender: expected finite session vectors, got others; train it again")
                found = found.to(self._items.dtype)
                for begin in range(0, len(place), self._rows_max):
                    logits = found[begin : begin + self._rows_max] @ self._items.t()
                    candidates[place[begin : begin + self._rows_max]] = self._best(logits, wanted)
        return vectors, candidates

    def _best(self, logits: Tensor, wanted: int) -> Int32:
        if logits.device.type != "cpu":
            return logits.topk(wanted, dim=1).indices.int().cpu().numpy()
        best = np.empty((len(logits), wanted), np.int32)
        largest(logits.float().numpy(), wanted, best)
        return best


def left_aligned(sequences: Int32, length: int) -> tuple[Int32, Int32]:
    """Return the latest known items of each row from the left on, zeros after them, and their number.

    Args:
        sequences: int32[B, T], -1 where there is no known item.
        length: Items kept of a row.

    Returns:
        int32[B, length]; int32[B].
    """
    known = sequences >= 0
    after = known[:, ::-1].cumsum(axis=1)[:, ::-1]  # known clicks from here on
    known &= after <= length
    counts = known.sum(axis=1, dtype=np.int32)
    out = np.zeros((len(sequences), length), np.int32)
    out[np.arange(length) < counts[:, None]] = sequences[known]
    return out, counts
