"""The items worth ranking for a session, by the network's largest logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray
from torch import Tensor

from models.devices import Batches
from models.errors import ModelError
from models.recommender.network import RecommenderModel
from models.recommender.top_k import top_k

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

# Scores of one chunk on the CPU: 4 MB, so that they are still in the cache when the largest are picked.
SCORES_PER_CHUNK_MAX: Final = 1 << 20
# Sessions that the CPU encodes at once: beyond, they are no cheaper each.
SESSIONS_PER_CHUNK_MAX: Final = 256
MULTIPLIES_BFLOAT16: Final = bool(get_host_cpu_features().get("avx512bf16"))


class CandidateSearch:
    """Search for the items worth ranking: a network encodes sessions, and the items with the largest logits stay.

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

    def find(self, sessions: Int32, counts: Int32, wanted: int) -> tuple[Float32, Int32]:
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
                # Among NaN there is no largest logit: the loops that pick it would leave their arrays.
                if not np.isfinite(vectors[place]).all():
                    raise ModelError("recommender: expected finite session vectors, got others; train it again")
                found = found.to(self._items.dtype)
                for begin in range(0, len(place), self._rows_max):
                    logits = found[begin : begin + self._rows_max] @ self._items.t()
                    candidates[place[begin : begin + self._rows_max]] = self._best(logits, wanted)
        return vectors, candidates

    def _best(self, logits: Tensor, wanted: int) -> Int32:
        if logits.device.type != "cpu":
            return logits.topk(wanted, dim=1).indices.int().cpu().numpy()
        return top_k(logits.float().numpy(), wanted)


def left_aligned(sequences: Int32, length: int) -> tuple[Int32, Int32]:
    """Return the latest known items of each row from the left on, zeros after them, and their number.

    Args:
        sequences: int32[B, T], -1 where there is no known item.
        length: Items kept of a row.

    Returns:
        int32[B, length]; int32[B].
    """
    known = sequences >= 0
    after = known[:, ::-1].cumsum(axis=1)[:, ::-1]  # known clicks from this place to the last
    known &= after <= length
    counts = known.sum(axis=1, dtype=np.int32)
    out = np.zeros((len(sequences), length), np.int32)
    out[np.arange(length) < counts[:, None]] = sequences[known]
    return out, counts
