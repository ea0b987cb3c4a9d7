"""Compiled loops of the blend: one row's result depends on no other row.

`blend_rows` takes each row through the small kernels above it; numba inlines them. Arrays that belong together travel
as one tuple: `Network`, `Past`, `Voting`, `Mixture` and `Ranked` name their parts.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import ctypes
import sys
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from models.features.compilation import compiled

# Whole powers of a float call the C compiler's library, which is in a process by chance (with torch): where it is not,
# LLVM ends the process.
if sys.platform == "linux":
    ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)

# Sessions of 1, of 2 to 4, and of 5 clicks and more have weights of their own.
LONGER_THAN: Final = (1, 4)

reordered = partial(compiled, fastmath=True)
# Inlined before numba compiles: sums are then reordered as in one loop, and a score keeps its last bit.
inlined = njit(inline="always")


class Network(NamedTuple):
    """Item vectors float32[N, D], and the scale of their cosines: float32."""

    embedding: Any
    scale: Any


class Past(NamedTuple):
    """Past sessions, as `PastSessions` holds them.

    Attributes:
        clicks: int32[C] item indices, session after session.
        ends: int64[S + 1]; session s is clicks[ends[s]:ends[s + 1]].
        session: int32[C] the session of each click.
        matches: int32[C] clicks grouped by item, the newest session first.
        starts: int64[N + 1]; matches of item i are matches[starts[i]:starts[i + 1]].
    """

    clicks: Any
    ends: Any
    session: Any
    matches: Any
    starts: Any


class Voting(NamedTuple):
    """How past sessions vote: `NeighbourSettings`, as tables where it is a power.

    Attributes:
        sessions: float32[S] weight of each past session.
        rarity: float32[N] weight of each item in the comparison of sessions.
        evidence: float32[N] weight of a vote that each item's matches cast.
        share: float32[N] weight of the votes for each item.
        around: float32[2 * window + 1] weight of a click by its distance from the match.
        matches, compared, voting: Counts.
        compared_decay, voting_decay, similarity: float32.
    """

    sessions: Any
    rarity: Any
    evidence: Any
    share: Any
    around: Any
    matches: int
    compared: int
    voting: int
    compared_decay: Any
    voting_decay: Any
    similarity: Any


class Mixture(NamedTuple):
    """float32[T] repeat rates by lag, float32[3, 3] weights of the parts, and whether seen items may be named."""

    repeats: Any
    weights: Any
    keep_seen: bool


class Ranked(NamedTuple):
    """Results: int32[B, K] items, float32[B, K] scores, float32[B, 2] shares of the parts."""

    items: Any
    scores: Any
    shares: Any


class Scratch(NamedTuple):
    """Arrays of a call that each row leaves as it found them.

    Attributes:
        latest: int32[T] distinct items of the session, the latest first.
        lag: int32[T] clicks between the last click and each of `latest`.
        similarity: float32[S] of the past sessions; 0 for those not met.
        touched: int32[compared * matches] past sessions met.
        votes: float32[N]; 0 for items without any.
        voted: int32[N] items with votes.
        of_sequence: float32[N] probability that the network gives, weighted.
        total: float32[N] probability that all parts give; 0 for an item not named.
        named: int32[N] items named.
        logits: float32[M] of the candidates.
    """

    latest: Any
    lag: Any
    similarity: Any
    touched: Any
    votes: Any
    voted: Any
    of_sequence: Any
    total: Any
    named: Any
    logits: Any


@inlined
def latest_items(clicks, count, latest, lag):
    """Write the distinct items of a session, the latest first, with their lags; return their number."""
    distinct = 0
    for back in range(count):
        item = clicks[count - 1 - back]
        seen = False
        for other in range(distinct):
            seen |= latest[other] == item
        if not seen:
            latest[distinct] = item
            lag[distinct] = back
            distinct += 1
    return distinct


@inlined
def score_candidates(row, vectors, candidates, network, weight, scratch):
    """Name the row's candidates with the network's softmax over them; return their number."""
    embedding, logits, count = network.embedding, scratch.logits, candidates.shape[1]
    top = np.float32(-1e30)
    for place in range(count):
        item = candidates[row, place]
        cosine = np.float32(0)
        for d in range(embedding.shape[1]):
            cosine += vectors[row, d] * embedding[item, d]
        logits[place] = network.scale * cosine
        top = max(top, logits[place])
    mass = np.float32(0)
    for place in range(count):
        logits[place] = np.exp(logits[place] - top)
        mass += logits[place]
    for place in range(count):
        item = candidates[row, place]
        # Above zero: zero marks an item that is not named yet.
        scratch.of_sequence[item] = weight[0] * logits[place] / mass + np.float32(1e-30)
        scratch.total[item] = scratch.of_sequence[item]
        scratch.named[place] = item
    return count


@inlined
def compare_sessions(distinct, past, voting, scratch):
    """Write the similarity of past sessions that share an item with the session; return how many were met."""
    session, matches, starts, similarity = past.session, past.matches, past.starts, scratch.similarity
    met = 0
    for place in range(distinct):
        if scratch.lag[place] >= voting.compared:
            break
        item = scratch.latest[place]
        gain = voting.rarity[item] * voting.compared_decay ** scratch.lag[place]
        before = -1
        for match in range(starts[item], min(starts[item + 1], starts[item] + voting.matches)):
            other = session[matches[match]]
            if other != before:
                if similarity[other] == 0:
                    scratch.touched[met] = other
                    met += 1
                similarity[other] += gain
                before = other
    for place in range(met):
        other = scratch.touched[place]
        similarity[other] = similarity[other] ** voting.similarity * voting.sessions[other]
    return met


@inlined
def collect_votes(distinct, past, voting, scratch):
    """Let the clicks around each match vote; return the number of items with votes."""
    ends, votes, window = past.ends, scratch.votes, len(voting.around) // 2
    vote_count = 0
    for place in range(distinct):
        if scratch.lag[place] >= voting.voting:
            break
        item = scratch.latest[place]
        gain = voting.evidence[item] * voting.voting_decay ** scratch.lag[place]
        for match in range(past.starts[item], min(past.starts[item + 1], past.starts[item] + voting.matches)):
            center = past.matches[match]
            session = past.session[center]
            vote = gain * scratch.similarity[session]
            for click in range(max(center - window, ends[session]), min(center + window + 1, ends[session + 1])):
                if click == center:
                    continue
                other = past.clicks[click]
                if votes[other] == 0:
                    scratch.voted[vote_count] = other
                    vote_count += 1
                votes[other] += vote * voting.around[click - center + window] + np.float32(1e-30)
    return vote_count


@inlined
def add_votes(vote_count, named_count, share, weight, scratch):
    """Add the votes, as probabilities, to the items' totals and clear them; return the number of items named."""
    voted, votes = scratch.voted, scratch.votes
    mass = np.float32(0)
    for place in range(vote_count):
        votes[voted[place]] *= share[voted[place]]
        mass += votes[voted[place]]
    for place in range(vote_count):
        item = voted[place]
        if scratch.total[item] == 0:
            scratch.named[named_count] = item
            named_count += 1
        scratch.total[item] += weight[1] * votes[item] / mass + np.float32(1e-30)
        votes[item] = 0
    return named_count


@inlined
def weigh_seen(distinct, named_count, mixture, weight, scratch):
    """Add the repeat rates to the session's own items, or take these out; return the number of items named."""
    for place in range(distinct):
        item = scratch.latest[place]
        if mixture.keep_seen:
            if weight[2] > 0:
                if scratch.total[item] == 0:
                    scratch.named[named_count] = item
                    named_count += 1
                scratch.total[item] += weight[2] * mixture.repeats[scratch.lag[place]]
        else:
            scratch.total[item] = 0
    return named_count


@inlined
def pick_best(row, named_count, scratch, ranked):
    """Write the row's results: the named items with the largest totals, of equals those of low index."""
    items, scores, shares = ranked.items, ranked.scores, ranked.shares
    total, of_sequence, named = scratch.total, scratch.of_sequence, scratch.named
    k = items.shape[1]
    mass = np.float32(0)
    kept = 0
    for place in range(named_count):
        item = named[place]
        value = total[item]
        mass += value
        if value > 0 and (kept < k or value >= scores[row, k - 1]):
            slot = min(kept, k - 1)
            if kept == k and value == scores[row, slot] and item > items[row, slot]:
                continue
            while slot > 0 and (
                value > scores[row, slot - 1] or (value == scores[row, slot - 1] and item < items[row, slot - 1])
            ):
                scores[row, slot] = scores[row, slot - 1]
                items[row, slot] = items[row, slot - 1]
                slot -= 1
            scores[row, slot] = value
            items[row, slot] = item
            kept = min(k, kept + 1)
    for place in range(kept):
        item = items[row, place]
        shares[row, 0] += of_sequence[item]
        shares[row, 1] += max(np.float32(0), total[item] - of_sequence[item])
        scores[row, place] /= mass


@reordered
def blend_rows(sequences, counts, vectors, candidates, network, past, voting, mixture, ranked):
    """Rank every row; `Blend.rank` names arguments and results.

    The last five are plain tuples in the order of `Network`, `Past`, `Voting`, `Mixture` and `Ranked`: numba takes a
    named tuple from Python 1.7 us slower, and a lone row has 90 us.
    """
    network, past, voting = Network(*network), Past(*past), Voting(*voting)
    mixture, ranked = Mixture(*mixture), Ranked(*ranked)
    items, length = network.embedding.shape[0], sequences.shape[1]
    scratch = Scratch(
        np.empty(length, np.int32),
        np.empty(length, np.int32),
        np.zeros(len(voting.sessions), np.float32),
        np.empty(voting.compared * voting.matches, np.int32),
        np.zeros(items, np.float32),
        np.empty(items, np.int32),
        np.zeros(items, np.float32),
        np.zeros(items, np.float32),
        np.empty(items, np.int32),
        np.empty(candidates.shape[1], np.float32),
    )
    for row in range(len(sequences)):
        distinct = latest_items(sequences[row], counts[row], scratch.latest, scratch.lag)
        bucket = 0
        for longer_than in LONGER_THAN:
            bucket += counts[row] > longer_than
        weight = mixture.weights[bucket]
        named_count = 0
        if weight[0] > 0:
            named_count = score_candidates(row, vectors, candidates, network, weight, scratch)
        if weight[1] > 0:
            met = compare_sessions(distinct, past, voting, scratch)
            vote_count = collect_votes(distinct, past, voting, scratch)
            for place in range(met):
                scratch.similarity[scratch.touched[place]] = 0
            named_count = add_votes(vote_count, named_count, voting.share, weight, scratch)
        named_count = weigh_seen(distinct, named_count, mixture, weight, scratch)
        pick_best(row, named_count, scratch, ranked)
        for place in range(named_count):
            scratch.of_sequence[scratch.named[place]] = 0
            scratch.total[scratch.named[place]] = 0
