"""The recommender, frozen: item sequences in, slates out.

A runner owns no thread and no queue: its caller serialises the calls. Two runners of one artifact give equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from models.artifacts import Artifact, default_artifact, load_artifact
from models.devices import BATCH_BUCKETS, freeze, resolve_device, resolve_dtype
from models.errors import ArtifactError, ModelError
from models.features.clicks import NewItems
from models.features.items import ItemTable
from models.features.sessions import LENGTH
from models.recommender.blend import Blend
from models.recommender.candidates import CandidateSearch, left_aligned
from models.recommender.network import RecommenderModel, Vocabulary

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

SEQUENCE: Final = "sequence"
NEIGHBOURS: Final = "neighbours"
POPULAR: Final = "popular"

# Items of the network that the blend sees. A hundredth of a session's probability lies outside; hits do not.
CANDIDATES: Final = 128

Part = Literal["blend", "sequence", "neighbours", "item-item", "popularity"]
PARTS: Final = get_args(Part)


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
        if model.length > LENGTH:
            raise ArtifactError(
                f"{artifact.folder}: architecture.length: expected at most {LENGTH}, the clicks that are kept of a "
                f"session, got {model.length}; shorten it and train it again"
            )
        freeze(model)
        log_scale = float(model.encoder.log_scale)
        self._blend = Blend.from_artifact(artifact, model.embedding.numpy().copy(), log_scale)
        self._search = CandidateSearch(model, self.device, resolve_dtype(dtype, self.device), batch_buckets)
        vocabulary = Vocabulary.from_artifact(artifact)
        self._index, self._table = vocabulary.index, ItemTable(vocabulary.ids)
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
        for size in self._search.batches.warm_up_sizes():
            self.recommend(np.zeros((size, self.length), np.int32), min(20, self.items))
        self.places(np.zeros((1, self.length), np.int64))

    def item_index(self, ids: Sequence[str]) -> Int32:
        """Return int32[B] indices of item ids, -1 for those that the model was not trained on."""
        return np.fromiter(map(self._index.get, ids, repeat(-1)), np.int32, len(ids))

    def places(self, numbers: Int64) -> Int32:
        """Return int32[B, T] indices of items by their numbers (`models.features.items`), -1 as for `item_index`."""
        return self._table.places(numbers)

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
            vectors, candidates = self._search.find(sessions[rows], counts[rows], max(CANDIDATES, k + self.length))
            items[rows], scores[rows], shares = self._blend.rank(
                sessions[rows], counts[rows], vectors, candidates, k, keep_seen=keep_seen
            )
            for row, by_neighbours in zip(rows.tolist(), (shares[:, 1] > shares[:, 0]).tolist(), strict=True):
                strategies[row] = NEIGHBOURS if by_neighbours else SEQUENCE
        return Slates(items, self._names(items), scores, strategies)

    def recommend_popular(self, sequences: Int32, k: int, keep_seen: bool = False) -> Slates:
        """Return the k items with the most clicks in training, without the network; arguments as for `recommend`.

        Returns:
            Slates of strategy POPULAR; a score is the item's share of all clicks.
        """
        best = self._popular[: k + sequences.shape[1]]  # enough even if the session has seen as many as it holds
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

        The new items' probabilities reduce those of the known items.

        Args:
            slates: As `recommend` gives them; their `items` know no new ones and stay.
            new: The new items that each slate may have.
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
        vectors, candidates = self._search.find(sessions[rows], counts[rows], max(CANDIDATES, k + self.length))
        items[rows] = self._blend.of_part(part).rank(
            sessions[rows], counts[rows], vectors, candidates, k, keep_seen=True
        )[0]
        return items
