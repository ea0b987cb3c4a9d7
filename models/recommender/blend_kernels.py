"""Compiled loops of the blend: one row's result depends on no other row."""

# mypy: allow-untyped-defs

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numba import njit

# Whole powers of a float call the C compiler's library, which is in a process by chance (with torch): where it is not,
# LLVM ends the process.
if sys.platform == "linux":
    ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)

# Sessions of 1, of 2 to 4, and of 5 clicks and more have weights of their own.
LONGER_THAN: Final = (1, 4)

BLOCK: Final = 64  # items whose largest score stands for them; a cache line of block maxima covers 1,024 items


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with sums that may be reordered, which lets them use whole vectors; cached like the feature kernels."""
    try:
        return cast(Callable[..., Any], njit(cache=True, nogil=True, error_model="numpy", fastmath=True)(function))
    except RuntimeError:
        return cast(Callable[..., Any], njit(nogil=True, error_model="numpy", fastmath=True)(function))


@compiled
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


@compiled
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


@compiled
def blend_rows(
    sequences, counts, vectors, candidates, embedding, scale,
    clicks, ends, session, matches, starts,
    session_votes, item_rarity, item_votes, item_share, around,
    matches_max, compared, voting, compared_decay, voting_decay, similarity_power,
    repeats, weights, keep_seen, out_items, out_scores, out_shares,
):  # fmt: skip
    """Rank every row; arguments and results as `Blend.rank` names them."""
    items, width = embedding.shape
    k = out_items.shape[1]
    window = len(around) // 2
    similarity = np.zeros(len(session_votes), np.float32)
    touched = np.empty(compared * matches_max, np.int32)
    votes = np.zeros(items, np.float32)
    voted = np.empty(items, np.int32)
    of_sequence = np.zeros(items, np.float32)
    total = np.zeros(items, np.float32)
    named = np.empty(items, np.int32)
    logits = np.empty(candidates.shape[1], np.float32)
    latest = np.empty(sequences.shape[1], np.int32)  # distinct items of the session, the latest first
    lag = np.empty(sequences.shape[1], np.int32)
    for row in range(len(sequences)):
        count = counts[row]
        distinct = 0
        for back in range(count):
            item = sequences[row, count - 1 - back]
            seen = False
            for other in range(distinct):
                seen |= latest[other] == item
            if not seen:
                latest[distinct] = item
                lag[distinct] = back
                distinct += 1
        bucket = 0
        for longer_than in LONGER_THAN:
            bucket += count > longer_than
        weight = weights[bucket]
        name_count = 0

        if weight[0] > 0:
            top = np.float32(-1e30)
            for place in range(candidates.shape[1]):
                item = candidates[row, place]
                cosine = np.float32(0)
                for d in range(width):
                    cosine += vectors[row, d] * embedding[item, d]
                logits[place] = scale * cosine
                top = max(top, logits[place])
            mass = np.float32(0)
            for place in range(candidates.shape[1]):
                logits[place] = np.exp(logits[place] - top)
                mass += logits[place]
            for place in range(candidates.shape[1]):
                item = candidates[row, place]
                # Above zero, because zero tells that an item is not named yet.
                of_sequence[item] = weight[0] * logits[place] / mass + np.float32(1e-30)
                total[item] = of_sequence[item]
                named[name_count] = item
                name_count += 1

        if weight[1] > 0:
            touch_count = 0
            for place in range(distinct):
                if lag[place] >= compared:
                    break
                item = latest[place]
                gain = item_rarity[item] * compared_decay ** lag[place]
                before = -1
                for match in range(starts[item], min(starts[item + 1], starts[item] + matches_max)):
                    past = session[matches[match]]
                    if past != before:
                        if similarity[past] == 0:
                            touched[touch_count] = past
                            touch_count += 1
                        similarity[past] += gain
                        before = past
            for place in range(touch_count):
                past = touched[place]
                similarity[past] = similarity[past] ** similarity_power * session_votes[past]
            vote_count = 0
            mass = np.float32(0)
            for place in range(distinct):
                if lag[place] >= voting:
                    break
                item = latest[place]
                gain = item_votes[item] * voting_decay ** lag[place]
                for match in range(starts[item], min(starts[item + 1], starts[item] + matches_max)):
                    center = matches[match]
                    past = session[center]
                    vote = gain * similarity[past]
                    for click in range(max(center - window, ends[past]), min(center + window + 1, ends[past + 1])):
                        if click == center:
                            continue
                        other = clicks[click]
                        if votes[other] == 0:
                            voted[vote_count] = other
                            vote_count += 1
                        votes[other] += vote * around[click - center + window] + np.float32(1e-30)
            for place in range(touch_count):
                similarity[touched[place]] = 0
            for place in range(vote_count):
                votes[voted[place]] *= item_share[voted[place]]
                mass += votes[voted[place]]
            for place in range(vote_count):
                item = voted[place]
                if total[item] == 0:
                    named[name_count] = item
                    name_count += 1
                total[item] += weight[1] * votes[item] / mass + np.float32(1e-30)
                votes[item] = 0

        for place in range(distinct):
            item = latest[place]
            if keep_seen:
                if weight[2] > 0:
                    if total[item] == 0:
                        named[name_count] = item
                        name_count += 1
                    total[item] += weight[2] * repeats[lag[place]]
            else:
                total[item] = 0

        mass = np.float32(0)
        kept = 0
        for place in range(name_count):
            item = named[place]
            value = total[item]
            mass += value
            if value > 0 and (kept < k or value >= out_scores[row, k - 1]):
                slot = min(kept, k - 1)
                if kept == k and value == out_scores[row, slot] and item > out_items[row, slot]:
                    continue
                while slot > 0 and (
                    value > out_scores[row, slot - 1]
                    or (value == out_scores[row, slot - 1] and item < out_items[row, slot - 1])
                ):
                    out_scores[row, slot] = out_scores[row, slot - 1]
                    out_items[row, slot] = out_items[row, slot - 1]
                    slot -= 1
                out_scores[row, slot] = value
                out_items[row, slot] = item
                kept = min(k, kept + 1)
        for place in range(kept):
            item = out_items[row, place]
            out_shares[row, 0] += of_sequence[item]
            out_shares[row, 1] += max(np.float32(0), total[item] - of_sequence[item])
            out_scores[row, place] /= mass
        for place in range(name_count):
            of_sequence[named[place]] = 0
            total[named[place]] = 0
