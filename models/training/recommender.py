"""Training of the recommender: sessions in, an artifact with its card out.

In order: the network is trained on the first nine tenths of the sessions, its epochs chosen on the last tenth; how past
sessions vote and what each part weighs are chosen there too; each part's quality there goes into the manifest; the
network is trained again on all sessions, for as many epochs, and past sessions are all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.artifacts import Artifact, save_artifact
from models.errors import TrainingDataError
from models.features.sessions import IDLE_MS
from models.progress import Progress, silent
from models.recommender.blend import Blend, NeighbourSettings, PastSessions
from models.recommender.blend_kernels import LONGER_THAN
from models.recommender.candidates import CandidateSearch, left_aligned
from models.recommender.examples import TOP_K, Examples, Sessions, hits, inverse_ranks, prefixes
from models.recommender.network import RecommenderModel, Vocabulary
from models.recommender.runner import CANDIDATES, RecommenderRunner
from models.simulator.clicks import simulate_clicks
from models.training.model_card import recommender_card
from models.training.reproducible import reproducible, versions
from models.training.sequence import HEADS, LENGTH, WIDTH, fit

COLUMNS: Final = ("session_id", "item_id", "event_time")
VALIDATION_SHARE: Final = 0.1
# Enough that a tenth of a point is more than chance between settings judged on the same examples.
EXAMPLES_MAX: Final = 8192
# Past sessions in an artifact: two megabytes, and more than a month of a large shop's newest.
PAST_CLICKS_MAX: Final = 1 << 20

# One value after the other is tried, each with the best of those before it.
CHOICES: Final[dict[str, tuple[float, ...]]] = {
    "similarity": (0.5, 1.5, 2.0),
    "voting_decay": (0.3, 0.5, 0.9),
    "session_length": (-0.5, 0.0),
    "behind": (0.2, 0.8),
    "ahead": (0.4, 0.7),
    "popularity": (0.0, 0.3),
    "age": (0.0, 3.0, 8.0),
}
SEQUENCE_SHARES: Final = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
REPEAT_SHARES: Final = (0.0, 0.1, 0.2, 0.4, 0.7)

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


class Queries(NamedTuple):
    """The items that a worker knows after a click, and the next click.

    Attributes:
        sequences: int32[B, LENGTH] latest items, the oldest first, zeros after the last.
        counts: int32[B] items of each.
        targets: int32[B] the next item.
    """

    sequences: Int32
    counts: Int32
    targets: Int32

    @classmethod
    def of(cls, examples: Examples) -> Queries:
        """Return the newest LENGTH clicks of each example."""
        return cls(*left_aligned(examples.newest(LENGTH), LENGTH), examples.targets)


def train(
    output: Path,
    *,
    clicks: int = 240_000,
    seed: int = 7,
    progress: Progress | None = None,
    columns: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train the recommender on clicks and write its artifact and model card.

    Args:
        output: Folder of the artifact; created if absent.
        clicks: Clicks to simulate where no columns are given; about six make a session.
        seed: Fixes the simulation, the initial weights and the order of batches.
        progress: Called with (stage, fraction done).
        columns: Clicks of your own: session_id and item_id (str[N]), event_time (int64[N], ms), in any order. A session
            silent for longer than a worker remembers it is two.

    Returns:
        Metrics of the last tenth of the sessions by name: p_at_20, mrr_at_20, sequence_p_at_20, ...

    Raises:
        TrainingDataError: a column is missing, or there are too few sessions of two clicks.
    """
    tell = progress or silent
    source = "columns given" if columns is not None else f"simulator, seed {seed}"
    if columns is None:
        tell("simulate clicks", 0.0)
        columns = dict(simulate_clicks(clicks, seed))
    sessions, ids = sessions_of(columns)
    artifact = _train(output, sessions, ids, seed, source, tell)
    metrics: dict[str, float] = artifact.manifest["metrics"]
    return metrics


def train_sessions(
    output: Path, items: Int32, offsets: Int64, *, seed: int = 7, progress: Progress | None = None
) -> Artifact:
    """Train on whole sessions and write the artifact: its item ids are the decimal text of the integers.

    Args:
        output: Folder of the artifact; created if absent.
        items: int32[C], the sessions' clicks one after the other, oldest session first.
        offsets: int64[S + 1]; session s is items[offsets[s]:offsets[s + 1]].
        seed: Fixes the initial weights and the order of batches.
        progress: Called with (stage, fraction done).

    Returns:
        The artifact. Epochs and blend are chosen on the last tenth of the sessions, and `metrics` are of that tenth;
        the weights saved have seen all sessions.

    Raises:
        TrainingDataError: offsets do not fit the items, or there are too few sessions of two items.
    """
    items, offsets = np.asarray(items, np.int32), np.asarray(offsets, np.int64)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise TrainingDataError(
            f"offsets: expected a rise from 0 to {len(items)} in {len(offsets)} steps, got another; correct them"
        )
    names, index = np.unique(items, return_inverse=True)
    sessions = Sessions(index.astype(np.int32), offsets)
    return _train(output, sessions, names.astype(str).tolist(), seed, "sessions given", progress or silent)


def sessions_of(columns: Mapping[str, Any]) -> tuple[Sessions, list[str]]:
    """Return the sessions of clicks in the order of their last clicks, and the item ids by index.

    Raises:
        TrainingDataError: a column is missing or empty, or lengths differ.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise TrainingDataError(f"columns: expected {', '.join(COLUMNS)}, got no {', '.join(missing)}; add them")
    event_time = np.asarray(columns["event_time"], np.int64)
    lengths = {name: len(columns[name]) for name in COLUMNS}
    if len(set(lengths.values())) != 1:
        raise TrainingDataError(f"columns: expected one length, got {lengths}; cut them to one")
    if not len(event_time):
        raise TrainingDataError("columns: expected clicks, got none; give some")
    _, session = np.unique(np.asarray(columns["session_id"], dtype=str), return_inverse=True)
    names, index = np.unique(np.asarray(columns["item_id"], dtype=str), return_inverse=True)
    order = np.lexsort((event_time, session))  # stable: equal times stay in the order given
    session, event_time, index = session[order], event_time[order], index[order]
    starts = np.append(True, (np.diff(session) != 0) | (np.diff(event_time) > IDLE_MS))
    begins = np.flatnonzero(starts)
    ends = np.append(begins[1:], len(order))
    by_end = np.argsort(event_time[ends - 1], kind="stable")
    counts = (ends - begins)[by_end]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    place = np.repeat(begins[by_end] - offsets[:-1], counts) + np.arange(len(order))
    return Sessions(index[place].astype(np.int32), offsets), names.tolist()


def repeat_rates(queries: Queries) -> NDArray[np.float32]:
    """Return float32[LENGTH]: how often the next click is on the item last clicked 0, 1, ... clicks before the last."""
    sequences, counts, targets = queries
    rates = np.zeros(LENGTH, np.float32)
    rows = np.arange(len(targets))
    later = np.zeros((len(targets), LENGTH), bool)  # clicks that were looked at already
    for lag in range(int(counts.max())):
        place = counts - 1 - lag
        item = sequences[rows, place]
        latest = (place >= 0) & ~((sequences == item[:, None]) & later).any(axis=1)
        rates[lag] = (item == targets)[latest].sum() / max(1, latest.sum())
        later[rows[place >= 0], place[place >= 0]] = True
    return rates


def _train(output: Path, sessions: Sessions, ids: list[str], seed: int, source: str, tell: Progress) -> Artifact:
    total = len(sessions)
    cut = total - max(1, int(VALIDATION_SHARE * total))
    older, newest = sessions.part(0, cut), sessions.part(cut, total)
    unknown = np.bincount(older.items, minlength=len(ids)) == 0
    examples = prefixes(newest.without(unknown[newest.items])).sample(EXAMPLES_MAX, seed)
    if not len(examples) or not len(prefixes(older)):
        raise TrainingDataError(
            f"sessions: expected some of two or more items in the first nine tenths, and in the last tenth some of two "
            f"items that these have, got none of the {total}; give more clicks"
        )
    validation = Queries.of(examples)
    with reproducible(seed):
        model, epochs = _fit_to_validation(older, len(ids), validation, seed, tell)
        tell("choose the blend", 0.45)
        vectors, candidates = _find(model, validation)
        blend = _blend(model, older)
        blend.settings = _choose_settings(blend, validation, vectors, candidates)
        blend.weights = _choose_weights(blend, validation, vectors, candidates)
        metrics = _report(blend, validation, vectors, candidates, np.bincount(older.items, minlength=len(ids)))
        final = fit(
            sessions.items,
            sessions.offsets,
            len(ids),
            seed,
            lambda done: tell("fit on all sessions", 0.5 + 0.49 * done),
            stop_after=epochs,
        )
        all_of_it = _blend(final, sessions)
    vocabulary = Vocabulary(ids, np.bincount(sessions.items, minlength=len(ids)))
    weights = {name: value.numpy() for name, value in final.state_dict().items()}
    repeats_and_past = {**all_of_it.tensors(), "blend.weights": blend.weights}
    manifest = {
        "kind": "recommender",
        "name": "recommender-blend",
        "architecture": {"type": "gru-attention", "items": len(ids), "width": WIDTH, "heads": HEADS, "length": LENGTH},
        "neighbours": asdict(blend.settings),
        "seed": seed,
        "data": {"source": source, "clicks": len(sessions.items), "sessions": total, "items": len(ids)},
        "split": {"train": {"sessions": cut}, "validation": {"sessions": total - cut}},
        "training": {**versions(), "epochs": epochs},
        "metrics": metrics,
    }
    artifact = save_artifact(output, {**weights, **vocabulary.tensors(), **repeats_and_past}, manifest)
    RecommenderRunner(artifact, device="cpu").warm_up()
    (output / "README.md").write_text(recommender_card(artifact), encoding="utf-8")
    return artifact


def _fit_to_validation(
    older: Sessions, vocabulary: int, validation: Queries, seed: int, tell: Progress
) -> tuple[RecommenderModel, int]:
    """Return the network of the epoch that ranks the validation examples best, and the number of that epoch."""
    best: tuple[float, int, dict[str, torch.Tensor]] = (-1.0, 0, {})

    def judge(epoch: int, model: RecommenderModel) -> None:
        nonlocal best
        vectors, candidates = _find(model, validation)
        blend = _blend(model, older.part(0, 0)).of_part("sequence")
        quality = _objective(_rank(blend, validation, vectors, candidates), validation)
        if quality.mean() > best[0]:
            state = {name: value.clone() for name, value in model.state_dict().items()}
            best = (float(quality.mean()), epoch, state)

    model = fit(older.items, older.offsets, vocabulary, seed, lambda done: tell("fit", 0.45 * done), after_epoch=judge)
    model.load_state_dict(best[2])
    return model, best[1]


def _find(model: RecommenderModel, queries: Queries) -> tuple[NDArray[np.float32], Int32]:
    search = CandidateSearch(model, torch.device("cpu"), torch.float32, (1,))
    return search.find(queries.sequences, queries.counts, CANDIDATES)


def _blend(model: RecommenderModel, sessions: Sessions) -> Blend:
    """Return a blend of equal weights around a network and the newest of its training sessions."""
    past = PastSessions(sessions.items, np.diff(sessions.offsets), model.items).latest(PAST_CLICKS_MAX)
    newest = prefixes(sessions.part(int((1 - VALIDATION_SHARE) * len(sessions)), len(sessions)))
    repeats = repeat_rates(Queries.of(newest)) if len(newest) else np.zeros(LENGTH, np.float32)
    weights = np.ones((len(LONGER_THAN) + 1, 3), np.float32)
    embedding = model.embedding.detach().numpy().copy()
    return Blend(embedding, float(model.encoder.log_scale.detach().exp()), past, NeighbourSettings(), repeats, weights)


def _rank(blend: Blend, queries: Queries, vectors: NDArray[np.float32], candidates: Int32) -> Int32:
    return blend.rank(queries.sequences, queries.counts, vectors, candidates, TOP_K, keep_seen=True)[0]


def _objective(items: Int32, queries: Queries) -> NDArray[np.float64]:
    """Return each example's share of the quality: MRR counts twice, because it is about half of P."""
    inverse = inverse_ranks(items, queries.targets)
    return (inverse > 0) + 2.0 * inverse


def _choose_settings(
    blend: Blend, queries: Queries, vectors: NDArray[np.float32], candidates: Int32
) -> NeighbourSettings:
    """Return the settings with which past sessions alone rank the examples best."""
    alone = blend.of_part("neighbours")
    best = _objective(_rank(alone, queries, vectors, candidates), queries).mean()
    for name, values in CHOICES.items():
        chosen = alone.settings
        for value in values:
            alone.settings = replace(chosen, **{name: value})  # type: ignore[arg-type]
            quality = _objective(_rank(alone, queries, vectors, candidates), queries).mean()
            if quality > best:
                best, chosen = quality, alone.settings
        alone.settings = chosen
    return alone.settings


def _choose_weights(
    blend: Blend, queries: Queries, vectors: NDArray[np.float32], candidates: Int32
) -> NDArray[np.float32]:
    """Return for sessions of each length the weights of the parts that rank its examples best."""
    bucket = np.searchsorted(LONGER_THAN, queries.counts)
    best = np.full(len(LONGER_THAN) + 1, -1.0)
    chosen = np.ones((len(best), 3), np.float32)
    for sequence, repeats in product(SEQUENCE_SHARES, REPEAT_SHARES):
        weights = np.array([sequence, 1.0 - sequence, repeats], np.float32)
        blend.weights = np.tile(weights, (len(best), 1))
        quality = _objective(_rank(blend, queries, vectors, candidates), queries)
        for each in range(len(best)):
            mean = quality[bucket == each].mean() if (bucket == each).any() else 0.0
            if mean > best[each]:
                best[each], chosen[each] = mean, weights
    return chosen


def _report(
    blend: Blend, queries: Queries, vectors: NDArray[np.float32], candidates: Int32, clicks: Int64
) -> dict[str, float]:
    """Return the quality of the blend and of each part alone; and of the blend as it is served, without seen items."""
    result = {
        f"{name}": value
        for name, value in hits(_rank(blend, queries, vectors, candidates), queries.targets)._asdict().items()
    }
    unseen = ~((queries.sequences == queries.targets[:, None]) & (np.arange(LENGTH) < queries.counts[:, None])).any(
        axis=1
    )
    served = blend.rank(queries.sequences, queries.counts, vectors, candidates, TOP_K, keep_seen=False)[0]
    result["unseen_p_at_20"] = hits(served[unseen], queries.targets[unseen]).p_at_20 if unseen.any() else 0.0
    popular = np.argsort(-clicks, kind="stable")[:TOP_K].astype(np.int32)
    rankings = {
        part: _rank(blend.of_part(part), queries, vectors, candidates)
        for part in ("sequence", "neighbours", "item-item")
    }
    rankings["popularity"] = np.tile(popular, (len(queries.targets), 1))
    for part, items in rankings.items():
        for name, value in hits(items, queries.targets)._asdict().items():
            result[f"{part}_{name}"] = value
    return result
