"""The recommender: a session's items in, a score for every item of the vocabulary out."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifacts import Artifact, pack_texts, unpack_texts
from models.errors import ArtifactError

# Row 0 of the embedding stands for "no item", so that an index of -1 plus one needs no branch.
PADDING: Final = 0


class RecommenderModel(nn.Module):
    """Attention over a session's items, queried by the last one, matched against every item's embedding.

    Each head weighs the clicks by what they are to the last one and by how long ago they were; the last item and the
    heads' averages make the session's vector. Items are matched by the embedding they enter by.

    Args:
        items: Size of the vocabulary (N).
        width: Embedding width (D).
        heads: Attention heads (H).
        length: Longest session that is read (T); older clicks are ignored.

    Source:
        Last item and attention as STAMP, Liu et al. (2018); dot-product heads, Vaswani et al. (2017).
    """

    def __init__(self, items: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.items, self.width, self.heads, self.length = items, width, heads, length
        self.embedding = nn.Embedding(items + 1, width, padding_idx=PADDING)
        self.query = nn.Linear(width, heads * width)
        self.position = nn.Parameter(torch.zeros(heads, length))
        self.session = nn.Sequential(
            nn.Linear((heads + 1) * width, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )
        self.shortcut = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(items + 1))  # -inf for PADDING: never recommended
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0.0
            self.bias[PADDING] = -torch.inf

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
            vocabulary = Vocabulary.from_artifact(artifact)
            own = {name: value for name, value in artifact.tensors.items() if name not in Vocabulary.TENSORS}
            model.load_state_dict({name: torch.from_numpy(value) for name, value in own.items()})
        except (KeyError, TypeError, RuntimeError) as error:
            raise ArtifactError(
                f"{artifact.folder}: expected tensors that fit {architecture}, got {error}; train it again"
            ) from error
        if len(vocabulary.ids) != model.items:
            raise ArtifactError(
                f"{artifact.folder}: expected {model.items} item ids, got {len(vocabulary.ids)}; train it again"
            )
        return model

    def encode(self, sequences: Tensor) -> Tensor:
        """Return the session vectors.

        Args:
            sequences: int64[B, T], item index plus one, PADDING left of the first click; every row has a click.

        Returns:
            [B, D] in the weights' dtype.
        """
        sequences = sequences[:, -self.length :]
        clicks = self.embedding(sequences)  # [B, T, D]
        last = clicks[:, -1]  # [B, D]
        query = self.query(last).unflatten(1, (self.heads, self.width))
        affinity = query @ clicks.transpose(1, 2) + self.position[:, self.length - sequences.shape[1] :]  # [B, H, T]
        weights = affinity.masked_fill((sequences == PADDING)[:, None, :], -torch.inf).softmax(dim=2)
        pooled = weights @ clicks  # [B, H, D]
        session: Tensor = self.session(torch.cat([last, pooled.flatten(1)], dim=1)) + self.shortcut(last)
        return session

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the logit of every item as the session's next click.

        Args:
            sequences: int64[B, T], as for `encode`.

        Returns:
            [B, N + 1] logits in the weights' dtype; column PADDING belongs to no item.
        """
        return torch.addmm(self.bias, self.encode(sequences), self.embedding.weight.t())


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
        """Read the vocabulary of an artifact; KeyError if a tensor is absent."""
        utf8, end, clicks = (artifact.tensors[name] for name in cls.TENSORS)
        return cls(unpack_texts(utf8, end), clicks)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what goes into the artifact."""
        packed = pack_texts(self.ids)
        return dict(zip(self.TENSORS, (packed["utf8"], packed["end"], self.clicks), strict=True))
