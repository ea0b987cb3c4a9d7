"""Three rankings of the next click in one: the network's, that of similar past sessions, and the session's own items.

Each part gives a probability over few items; the blend is their weighted sum, by weights that validation chose for
short, middle and long sessions. All of it is one compiled loop over the rows: a row's result depends on no other row.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.artifacts import Artifact
from models.errors import ArtifactError
from models.recommender.blend_kernels import LONGER_THAN, Mixture, Network, Past, Ranked, Voting, blend_rows

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

SEQUENCE, NEIGHBOURS, REPEATS = range(3)
LOG_SCALE_MAX: Final = 80.0  # beyond, its exponential is no float32
COUNT_MAX: Final = 10_000  # matches, clicks or items that a setting of the neighbours may name


@dataclass(frozen=True)
class NeighbourSettings:
    """How past sessions vote. A click of the session finds past clicks on the same item: its matches.

    Attributes:
        matches: Latest matches that are read of each item; bounds the time of a row.
        compared: Latest items of the session by which past sessions are compared with it.
        voting: Latest items of the session whose matches vote.
        compared_decay: Weight of an item in the comparison, per click that is later.
        voting_decay: Weight of an item's votes, per click that is later.
        rarity: Power of log(sessions / clicks of the item) in the comparison.
        similarity: Power of the past session's similarity in its votes.
        age: Votes fall by exp(-age) from the newest past session to the oldest.
        session_length: Power of the past session's length in its votes.
        ahead: Weight of an item per click that it lies further after the match.
        behind: Weight of the item just before the match.
        behind_decay: Weight of an item per click that it lies further before the match.
        window: Clicks around the match that get votes.
        evidence: Power of the number of an item's matches by which its votes are divided.
        popularity: Power of an item's clicks by which the votes for it are divided.

    Source:
        Decays in the session, by age and around the match as STAN, Garg et al. (2019); rarity as VSKNN, Ludewig and
        Jannach (2018).
    """

    matches: int = 200
    compared: int = 10
    voting: int = 5
    compared_decay: float = 0.85
    voting_decay: float = 0.7
    rarity: float = 2.0
    similarity: float = 1.0
    age: float = 1.0
    session_length: float = -0.25
    ahead: float = 0.5
    behind: float = 0.5
    behind_decay: float = 0.7
    window: int = 8
    evidence: float = 0.3
    popularity: float = 0.15

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> NeighbourSettings:
        """Return the settings of an artifact; the defaults where it says nothing.

        Raises:
            ArtifactError: one is unknown, no number, or one that would claim memory without end.
        """
        given = artifact.section("neighbours")
        known = {own.name: type(own.default) for own in fields(cls)}
        for name, value in given.items() if isinstance(given, dict) else [("neighbours", given)]:
            whole = known.get(name) is int
            fits = (type(value) is int and 1 <= value <= COUNT_MAX) if whole else type(value) in (int, float)
            if name not in known or not fits:
                expected = f"a whole number, 1 to {COUNT_MAX}" if whole else f"a number for one of {', '.join(known)}"
                raise ArtifactError(
                    f"{artifact.folder}: neighbours: {name}: expected {expected}, got {value!r:.24}; train it again"
                )
        return cls(**given)


class PastSessions:
    """Past sessions, found by their items.

    Args:
        clicks: Integer[C] item indices, session after session, the oldest session first.
        lengths: Integer[S] clicks of each session; their sum is C.
        items: Size of the vocabulary (N).
    """

    TENSORS: Final = ("past.clicks", "past.lengths")

    def __init__(self, clicks: NDArray[Any], lengths: NDArray[Any], items: int) -> None:
        self.items = items
        self.lengths = np.ascontiguousarray(lengths, np.int32)
        session = np.repeat(np.arange(len(lengths), dtype=np.int32), self.lengths)
        clicks = np.ascontiguousarray(clicks, np.int32)
        self.arrays = Past(
            clicks=clicks,
            ends=np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]),
            session=session,
            # Of an item the newest session comes first, and in a session the oldest click.
            matches=np.lexsort((-session, clicks)).astype(np.int32),
            starts=np.concatenate([[0], np.cumsum(np.bincount(clicks, minlength=items))]),
        )

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> PastSessions:
        """Read the past sessions of an artifact.

        Raises:
            ArtifactError: they are absent or do not fit each other or the vocabulary.
        """
        items = int(artifact.section("architecture")["items"])
        clicks, lengths = (artifact.tensor(name, ["uint16", "int32"], [None]) for name in cls.TENSORS)
        first, last = (int(clicks.min()), int(clicks.max())) if len(clicks) else (0, 0)
        if int(lengths.sum()) != len(clicks) or first < 0 or last >= items or (lengths < 0).any():
            raise ArtifactError(
                f"{artifact.folder}: expected {int(lengths.sum())} past clicks on {items} items, got {len(clicks)} on "
                f"items {first} to {last}; train it again"
            )
        return cls(clicks, lengths, items)

    def latest(self, clicks_max: int) -> PastSessions:
        """Return the newest sessions that have no more clicks together."""
        clicks, ends = self.arrays.clicks, self.arrays.ends
        first = int(np.searchsorted(ends, ends[-1] - clicks_max))
        return PastSessions(clicks[ends[first] :], self.lengths[first:], self.items)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what goes into the artifact, in the smallest integers that hold it."""
        dtype = np.uint16 if self.items <= 1 << 16 else np.int32
        return dict(zip(self.TENSORS, (self.arrays.clicks.astype(dtype), self.lengths.astype(np.uint16)), strict=True))


class Blend:
    """Ranks the items of few candidates by the network, by past sessions and by the session itself.

    Args:
        embedding: float32[N, D] unit vectors of the items.
        scale: The network's logits are cosines times this.
        past: Past sessions.
        settings: How they vote.
        repeats: float32[T] probability that the next click is on the item last clicked so many clicks ago.
        weights: float32[3, 3] of the parts SEQUENCE, NEIGHBOURS, REPEATS in columns, for sessions of one click, of a
            few, of many in rows.
    """

    TENSORS: Final = ("blend.repeats", "blend.weights")

    def __init__(
        self,
        embedding: Float32,
        scale: float | np.float32,
        past: PastSessions,
        settings: NeighbourSettings,
        repeats: Float32,
        weights: Float32,
    ) -> None:
        self.embedding, self.scale, self.past = embedding, np.float32(scale), past
        self._network = tuple(Network(self.embedding, self.scale))
        self.repeats, self.weights = repeats, weights
        self.settings = settings

    @classmethod
    def from_artifact(cls, artifact: Artifact, embedding: Float32, log_scale: float) -> Blend:
        """Return the blend of an artifact, around its network's item vectors and scale.

        Raises:
            ArtifactError: past sessions, settings or weights are absent or do not fit.
        """
        repeats = artifact.tensor("blend.repeats", ["float32"], [artifact.section("architecture")["length"]])
        weights = artifact.tensor("blend.weights", ["float32"], [len(LONGER_THAN) + 1, 3])
        settings, past = NeighbourSettings.from_artifact(artifact), PastSessions.from_artifact(artifact)
        if not log_scale <= LOG_SCALE_MAX:
            raise ArtifactError(
                f"{artifact.folder}: log_scale: expected at most {LOG_SCALE_MAX}, got {log_scale}; train it again"
            )
        return cls(embedding, float(np.exp(log_scale)), past, settings, repeats, weights)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what goes into the artifact beside the network."""
        own = dict(zip(self.TENSORS, (self.repeats, self.weights), strict=True))
        return {**own, **self.past.tensors()}

    def of_part(self, part: str) -> Blend:
        """Return the same with one part alone: "sequence", "neighbours" or "item-item"."""
        weights = np.zeros_like(self.weights)
        weights[:, SEQUENCE if part == "sequence" else NEIGHBOURS] = 1.0
        last_click = {"compared": 1, "voting": 1} if part == "item-item" else {}
        return Blend(self.embedding, self.scale, self.past, replace(self.settings, **last_click), self.repeats, weights)

    @property
    def settings(self) -> NeighbourSettings:
        """How past sessions vote."""
        return self._settings

    @settings.setter
    def settings(self, settings: NeighbourSettings) -> None:
        past = self.past
        self._settings = settings
        sessions = max(1, len(past.lengths))
        votes = np.exp(-settings.age * np.arange(sessions, 0, -1) / sessions)[: len(past.lengths)]
        votes = votes * np.maximum(past.lengths, 1.0) ** settings.session_length
        counts = np.diff(past.arrays.starts)
        rarity = np.log(np.maximum(sessions / (1.0 + counts), 1.0 + 1e-6)) ** settings.rarity
        distance = np.arange(settings.window)
        before = settings.behind * settings.behind_decay ** distance[::-1]
        voting = Voting(
            sessions=votes.astype(np.float32),
            rarity=rarity.astype(np.float32),
            evidence=(np.clip(counts, 1, settings.matches) ** -settings.evidence).astype(np.float32),
            share=(np.maximum(counts, 1.0) ** -settings.popularity).astype(np.float32),
            around=np.concatenate([before, [0.0], settings.ahead**distance]).astype(np.float32),
            matches=settings.matches,
            compared=settings.compared,
            voting=settings.voting,
            compared_decay=np.float32(settings.compared_decay),
            voting_decay=np.float32(settings.voting_decay),
            similarity=np.float32(settings.similarity),
        )
        self._tables = tuple(past.arrays), tuple(voting)

    def rank(
        self,
        sequences: Int32,
        counts: Int32,
        vectors: Float32,
        candidates: Int32,
        k: int,
        *,
        keep_seen: bool,
        weights: Float32 | None = None,
    ) -> tuple[Int32, Float32, Float32]:
        """Return the best items of each session.

        Args:
            sequences: int32[B, T] item indices, the oldest click first.
            counts: int32[B] clicks of each session, >= 1.
            vectors: float32[B, D] session vectors.
            candidates: int32[B, M] the items that the network is asked about: those with the largest logits.
            k: Items wanted.
            keep_seen: Whether the session's own items may be among them.
            weights: float32[3, 3] in place of the blend's own.

        Returns:
            int32[B, K] items, best first, -1 where there is none, equal ones by index; float32[B, K] probabilities among
            the items that may be named; float32[B, 2] the probability that SEQUENCE and NEIGHBOURS gave to the items
            named.
        """
        rows = len(sequences)
        items = np.full((rows, k), -1, np.int32)
        scores = np.zeros((rows, k), np.float32)
        shares = np.zeros((rows, 2), np.float32)
        mixture = Mixture(self.repeats, self.weights if weights is None else weights, keep_seen)
        ranked = Ranked(items, scores, shares)
        blend_rows(sequences, counts, vectors, candidates, self._network, *self._tables, tuple(mixture), tuple(ranked))
        return items, scores, shares
