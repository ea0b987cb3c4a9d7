"""The `count` largest logits of each row: of equals at the end those of low index, by either path."""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recommender.blend_kernels import reordered

BLOCK: Final = 64  # items whose largest score stands for them; a cache line of block maxima covers 1,024 items


def top_k(logits: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """Return int32[B, count], each row's items with the largest logits, in any order.

    Args:
        logits: float32[B, N], without NaN.
        count: 1 <= count <= N.
    """
    best = np.empty((len(logits), count), np.int32)
    items = logits.shape[1]
    # Fewer blocks than items wanted give no floor. Of 128 items wanted, on one core of an EPYC with AVX2: 2,001 items x 256
    # rows take 2.5 ms by the cut and 9.8 by blocks, 8,000 x 128 take 4.0 and 18.7; 12,000 x 80 take 3.7 and 2.4, 40,000 x 26
    # take 3.8 and 1.2 (np.argpartition 4.3, torch.topk 4.7).
    if items > BLOCK * count:
        largest(logits, count, best)
    else:
        cuts = np.partition(logits, items - count, axis=1)[:, items - count]
        at_least(logits, np.ascontiguousarray(cuts), best)  # one layout for any number of rows: numba compiles once
    return best


@reordered
def at_least(logits, cuts, out):
    """Write each row's items above its cut, float32[B], and then the first of those that equal it."""
    count = out.shape[1]
    for row in range(len(logits)):
        line, cut, taken = logits[row], cuts[row], 0
        for item in range(line.size):
            if line[item] > cut:
                out[row, taken] = item
                taken += 1
        for item in range(line.size):
            if taken == count:
                break
            if line[item] == cut:
                out[row, taken] = item
                taken += 1


@reordered
def nth_largest(values, n, scratch):
    """Return the n-th largest value, 1 <= n <= len(values), by Hoare's selection in `scratch` (float32, as long or longer).

    Not np.partition: numba compiles 11 s at it, and takes 2 s of each start to read it from its cache.
    """
    for place in range(len(values)):
        scratch[place] = values[place]
    low, high = 0, len(values) - 1
    wanted = n - 1  # the place in descending order
    while low < high:
        first, middle, last = scratch[low], scratch[(low + high) // 2], scratch[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = low, high
        while i <= j:
            while scratch[i] > pivot:
                i += 1
            while scratch[j] < pivot:
                j -= 1
            if i <= j:
                scratch[i], scratch[j] = scratch[j], scratch[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            return pivot
    return scratch[wanted]


@reordered
def largest(logits, count, out):
    """Write each row's `count` items with the largest logits, in any order; of equals at the end, those of low index.

    The `count`-th largest block maximum is a floor: as many items reach it, and blocks below it need no look.

    Args:
        logits: float32[B, N].
        count: 1 <= count <= N.
        out: int32[B, count].
    """
    rows, items = logits.shape
    blocks = (items + BLOCK - 1) // BLOCK
    maxima = np.empty(blocks, np.float32)
    found = np.empty(items, np.int32)
    value = np.empty(items, np.float32)
    scratch = np.empty(items, np.float32)
    for row in range(rows):
        line = logits[row]
        for block in range(items // BLOCK):  # whole blocks: a length known to the compiler is four times as fast
            best = line[block * BLOCK]
            for place in range(BLOCK):
                best = max(best, line[block * BLOCK + place])
            maxima[block] = best
        if items % BLOCK:
            best = line[items - 1]
            for place in range(items - items % BLOCK, items):
                best = max(best, line[place])
            maxima[-1] = best
        floor = np.float32(-1e30)
        if blocks > count:
            floor = nth_largest(maxima, count, scratch)
        total = 0
        for block in range(blocks):
            if maxima[block] >= floor:
                for item in range(block * BLOCK, min(items, block * BLOCK + BLOCK)):
                    if line[item] >= floor:
                        found[total] = item
                        value[total] = line[item]
                        total += 1
        cut = nth_largest(value[:total], count, scratch)
        taken = 0
        for place in range(total):
            if value[place] > cut:
                out[row, taken] = found[place]
                taken += 1
        for place in range(total):
            if taken < count and value[place] == cut:
                out[row, taken] = found[place]
                taken += 1
