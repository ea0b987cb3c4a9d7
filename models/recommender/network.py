"""The recommender's network: a session's clicks in, a unit vector out that lies near the items likely to come next."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifacts import Artifact, pack_texts, unpack_texts
from models.errors import ArtifactError

# Logits are cosines times a learned scale; training starts at a value where published models end.
SCALE: Final = 16.0


class SessionEncoder(nn.Module):
    """A GRU over the clicks, attention to them from the click asked about, and that click itself, in one unit vector.

    Each head weighs the clicks by their relation to the click asked about and by their distance before it. Items have
    unit length, so that a frequent item is not near everything.

    Args:
        width: Width of an item's vector (D).
        heads: Attention heads (H).
        length: Longest session that is read (T).
        dropout: Share of the clicks' components that training hides.

    Source:
        GRU as GRU4Rec, Hidasi et al. (2016), with NARM's attention, Li et al. (2017); unit vectors and scale as NISER,
        Gupta et al. (2019).
    """

    def __init__(self, width: int, heads: int, length: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.heads, self.length = width, heads, length
        self.gru = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, heads * width)
        self.position = nn.Parameter(torch.zeros(length, heads))  # by clicks before the one asked about
        self.session = nn.Linear((heads + 2) * width, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            # An untrained encoder says "the same item again": a start that training leaves within an epoch.
            self.session.weight.mul_(0.3)[:, :width] += torch.eye(width)
            self.query.weight.mul_(0.3)

    def forward(self, clicks: Tensor, asked: Tensor) -> Tensor:
        """Return the session vector at each click asked about, from it and the clicks before it.

        Args:
            clicks: [B, L, D] unit vectors of the items, the oldest click first, anything after the last; L <= T.
            asked: int64[B, Q] places of clicks in [0, L).

        Returns:
            [B, Q, D] unit vectors.
        """
        clicks = self.dropout(clicks)
        states, _ = self.gru(clicks)
        place = asked[:, :, None].expand(-1, -1, self.width)
        last = clicks.gather(1, place)  # [B, Q, D]
        before = asked[:, :, None] - torch.arange(clicks.shape[1], device=clicks.device)  # [B, Q, L]
        query = self.query(last).unflatten(2, (self.heads, self.width))  # [B, Q, H, D]
        affinity = torch.einsum("bqhd,bld->bqhl", query, clicks) * 4.0
        affinity = affinity + self.position[before.clamp(min=0)].transpose(2, 3)
        weights = affinity.masked_fill((before < 0)[:, :, None, :], -torch.inf).softmax(dim=3)
        pooled = torch.einsum("bqhl,bld->bqhd", weights, clicks).flatten(2)
        return nn.functional.normalize(self.session(torch.cat([last, states.gather(1, place), pooled], dim=2)), dim=2)


class RecommenderModel(nn.Module):
    """An encoder and the unit vectors of the items that it was trained with.

    Args:
        items: Size of the vocabulary (N).
        width: Width of an item's vector (D).
        heads: Attention heads.
        length: Longest session that is read (T); older clicks are ignored.
    """

    def __init__(self, items: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.items, self.width, self.length = items, width, length
        self.encoder = SessionEncoder(width, heads, length)
        self.embedding = nn.Parameter(nn.functional.normalize(torch.randn(items, width), dim=1))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> RecommenderModel:
        """Return the model of an artifact.

        Raises:
            ArtifactError: the artifact is of another kind, or its tensors do not fit its architecture.
        """
        if artifact.kind != "recommender":
            raise ArtifactError(f"{artifact.folder}: expected kind recommender, got {artifact.kind}; correct the path")
        architecture = artifact.section("architecture")
        try:
            model = cls(architecture["items"], architecture["width"], architecture["heads"], architecture["length"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{artifact.folder}: expected an architecture of items, width, heads and length, "
                f"got {architecture} ({error!r}); train it again"
            ) from error
        own = {name: value.numpy() for name, value in model.state_dict().items()}
        model.load_state_dict({name: torch.from_numpy(value) for name, value in artifact.like(own).items()})
        return model

    def encode(self, sequences: Tensor, counts: Tensor) -> Tensor:
        """Return the session vector after each session's last click.

        Args:
            sequences: int64[B, L] item indices, the oldest click first, any index after the last; L <= T.
            counts: int64[B] clicks of each session, >= 1.

        Returns:
            [B, D] unit vectors in the weights' dtype.
        """
        vectors: Tensor = self.encoder(self.embedding[sequences], (counts - 1)[:, None])
        return vectors[:, 0]


class Vocabulary:
    """Item ids that a recommender was trained on, in the order of its embedding, and how often each was clicked.

    Args:
        ids: Item ids; the place in the list is the item's index.
        clicks: int64[N] clicks in the training data.
    """

    TENSORS: Final = ("item_ids.utf8", "item_ids.end", "item_clicks")

    def __init__(self, ids: list[str], clicks: NDArray[np.int64]) -> None:
        self.ids = ids
        self.clicks = clicks
        self.index = {item: place for place, item in enumerate(ids)}

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Vocabulary:
        """Read the vocabulary of an artifact.

        Raises:
            ArtifactError: its tensors are absent, or are not an id and a number of clicks for each item.
        """
        items = artifact.section("architecture")["items"]
        utf8 = artifact.tensor("item_ids.utf8", ["uint8"], [None])
        end = artifact.tensor("item_ids.end", ["int64"], [items])
        clicks = artifact.tensor("item_clicks", ["int64"], [items])
        try:
            ids = unpack_texts(utf8, end)
        except ValueError as error:
            raise ArtifactError(f"{artifact.folder}: item_ids: expected UTF-8, got {error}; train it again") from error
        if len(set(ids)) != items or np.diff(end, prepend=0).min() < 0 or end[-1] != len(utf8) or clicks.min() < 0:
            raise ArtifactError(
                f"{artifact.folder}: expected {items} different item ids in {len(utf8)} bytes, and clicks >= 0, "
                f"got {len(set(ids))} in {end[-1]} and clicks from {clicks.min()} on; train it again"
            )
        return cls(ids, clicks)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what goes into the artifact."""
        packed = pack_texts(self.ids)
        return dict(zip(self.TENSORS, (packed["utf8"], packed["end"], self.clicks), strict=True))
