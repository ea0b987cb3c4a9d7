"""The blend's compiled loop against the rules written out in plain numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from models.recommender.blend import Blend, NeighbourSettings, PastSessions

ITEMS, WIDTH, LENGTH, CANDIDATES = 40, 8, 20, 12
REPEATS = (0.3 * 0.8 ** np.arange(LENGTH)).astype(np.float32)


@pytest.fixture(scope="module")
def past():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, 300)
    return PastSessions(rng.integers(0, ITEMS, lengths.sum()), lengths, ITEMS)


def votes_of(query, past, settings):
    """Return float64[N]: the share of votes that past sessions give to each item, read directly from the rules."""
    sessions = [past.arrays.clicks[begin:end].tolist() for begin, end in pairwise(past.arrays.ends)]
    count = len(sessions)
    clicked = np.bincount(past.arrays.clicks, minlength=ITEMS)
    latest = {item: lag for lag, item in reversed(list(enumerate(query[::-1])))}
    votes = np.zeros(ITEMS)
    for number, items in enumerate(sessions):
        compared = sum(
            settings.compared_decay**lag * np.log(count / (1 + clicked[item])) ** settings.rarity
            for item, lag in latest.items()
            if item in items and lag < settings.compared
        )
        worth = (
            compared**settings.similarity
            * np.exp(-settings.age * (count - number) / count)
            * len(items) ** settings.session_length
        )
        for item, lag in latest.items():
            gain = worth * settings.voting_decay**lag * clicked[item] ** -settings.evidence
            for place in (place for place, other in enumerate(items) if other == item and lag < settings.voting):
                window = range(max(0, place - settings.window), min(len(items), place + settings.window + 1))
                for ahead, other in ((other - place, items[other]) for other in window):
                    if ahead > 0:
                        votes[other] += gain * settings.ahead ** (ahead - 1)
                    elif ahead < 0:
                        votes[other] += gain * settings.behind * settings.behind_decay ** (-ahead - 1)
    votes *= clicked**-settings.popularity
    return votes / votes.sum()


def plain_ranking(blend, query, vector, candidates, k, keep_seen):
    """Return items, scores and shares of one session, as `Blend.rank` does."""
    bucket = (len(query) > 1) + (len(query) > 4)
    weights = blend.weights[bucket].astype(np.float64)
    of_sequence, others = np.zeros(ITEMS), np.zeros(ITEMS)
    logits = blend.scale * (blend.embedding[candidates].astype(np.float64) @ vector)
    of_sequence[candidates] = weights[0] * np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    if weights[1]:
        others += weights[1] * votes_of(query, blend.past, blend.settings)
    latest = {item: lag for lag, item in reversed(list(enumerate(query[::-1])))}
    for item, lag in latest.items():
        if keep_seen:
            others[item] += weights[2] * REPEATS[lag]
        else:
            of_sequence[item] = others[item] = 0.0
    total = of_sequence + others
    items = np.argsort(-total, kind="stable")[:k]
    items = items[total[items] > 0]
    shares = np.array([of_sequence[items].sum(), others[items].sum()])
    return items, total[items] / total.sum(), shares


@pytest.mark.parametrize("keep_seen", [True, False])
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0.5, 0.3, 0.2)])
@pytest.mark.parametrize("similarity", [1.0, 1.5])
def test_ranking_is_that_of_the_rules_read_directly(past, keep_seen, weights, similarity):
    """Items, scores and shares of each part, for sessions of any length; a batch gives what its rows give alone."""
    rng = np.random.default_rng(7)
    embedding = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    by_length = np.array([weights, weights[::-1] if weights[0] == 0.5 else weights, weights], np.float32)
    settings = NeighbourSettings(matches=10_000, window=3, similarity=similarity)
    blend = Blend(embedding, 4.0, past, settings, REPEATS, by_length)
    queries = [rng.integers(0, ITEMS, length).tolist() for length in (1, 2, 4, 5, 9, 14, 1, 20)]
    sequences = np.array([query + [0] * (LENGTH - len(query)) for query in queries], np.int32)
    counts = np.array(list(map(len, queries)), np.int32)
    vectors = embedding[rng.integers(0, ITEMS, len(queries))]
    candidates = np.stack([rng.permutation(ITEMS)[:CANDIDATES] for _ in queries]).astype(np.int32)
    ranked = blend.rank(sequences, counts, vectors, candidates, 10, keep_seen=keep_seen)
    for row, query in enumerate(queries):
        here = slice(row, row + 1)
        alone = blend.rank(sequences[here], counts[here], vectors[here], candidates[here], 10, keep_seen=keep_seen)
        for found, of_batch in zip(alone, ranked, strict=True):
            assert np.array_equal(found[0], of_batch[row])
        items, scores, shares = plain_ranking(blend, query, vectors[row], candidates[row], 10, keep_seen)
        found = ranked[0][row][ranked[0][row] >= 0]
        assert len(found) == len(items) and set(found.tolist()) == set(items.tolist())
        np.testing.assert_allclose(ranked[1][row][: len(items)], scores, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(ranked[2][row], shares, rtol=1e-3, atol=1e-6)
