"""Training of the recommender: clicks in event-time order in, an artifact with its card out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.artifacts import Artifact, load_artifact, save_artifact
from models.errors import TrainingDataError
from models.features.sessions import SessionHistory
from models.recommender import RecommenderModel, Vocabulary
from models.runner import RecommenderRunner
from models.training.model_card import recommender_card
from models.training.reproducible import Progress, date, reproducible, silent, versions
from models.training.simulator import simulate_clicks

COLUMNS: Final = ("session_id", "item_id", "event_time")
WIDTH: Final = 64
HEADS: Final = 4
LENGTH: Final = 20
EPOCHS: Final = 3
BATCH_RECORDS: Final = 512
LEARNING_RATE: Final = 3e-3
TOP_K: Final = 20

# Shares of the event time that come last.
VALIDATION_SHARE: Final = 0.03
TEST_SHARE: Final = 0.05
# Fewer clicks than this teach an item nothing but noise.
ITEM_CLICKS_MIN: Final = 3

Int32 = NDArray[np.int32]


def train(
    output: Path,
    *,
    clicks: int = 1_200_000,
    seed: int = 7,
    progress: Progress | None = None,
    columns: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train the recommender and write its artifact and model card.

    Every click of a session is an example: the items before it, as `SessionHistory` keeps them, and itself as the
    target. Vocabulary and weights come from the oldest clicks, the metrics from the newest.

    Args:
        output: Folder of the artifact; created if absent.
        clicks: Clicks to simulate where no columns are given; about six make a session.
        seed: Fixes the simulation, the initial weights and the order of batches.
        progress: Told (stage, fraction done).
        columns: Clicks of your own: session_id and item_id (str[N]), event_time (int64[N], ms), in any order.

    Returns:
        Metrics of the test part by name: p_at_20, mrr_at_20, popular_p_at_20, ...

    Raises:
        TrainingDataError: a column is missing, or a part has no session of two known items.
    """
    tell = progress or silent
    source = "columns given" if columns is not None else f"simulator, seed {seed}"
    if columns is None:
        tell("simulate clicks", 0.0)
        columns = dict(simulate_clicks(clicks, seed))
    sessions, items, event_time = _ordered(columns)
    tell("build sequences", 0.05)
    edges = _edges(event_time)
    counts = Counter(items[: edges["train"].stop])
    by_clicks = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ids = [item for item, count in by_clicks if count >= ITEM_CLICKS_MIN]
    vocabulary = Vocabulary(ids, np.array([counts[item] for item in ids], np.int64))
    index = np.fromiter(map(vocabulary.index.get, items, repeat(-1)), np.int32, len(items))
    sequences, following = build_examples(sessions, index, event_time)
    parts = {name: _examples(sequences, following, index, edge, name) for name, edge in edges.items()}
    manifest = {
        "kind": "recommender",
        "name": "recommender-attention",
        "architecture": {"type": "attention", "items": len(ids), "width": WIDTH, "heads": HEADS, "length": LENGTH},
        "seed": seed,
        "data": {"source": source, "clicks": len(items), "sessions": len(set(sessions)), "items": len(counts)},
        "split": {
            name: {
                "clicks": edge.stop - edge.start,
                "examples": len(parts[name][1]),
                "from": date(int(event_time[edge.start])),
                "to": date(int(event_time[edge.stop - 1])),
            }
            for name, edge in edges.items()
        },
        "training": versions(),
    }
    with reproducible(seed):
        model = _fit(len(ids), vocabulary.clicks, *parts["train"], *parts["validation"], tell)
        tell("measure", 0.95)
        metrics = measure(model, vocabulary.clicks, *parts["test"])
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        artifact = save_artifact(output, {**weights, **vocabulary.tensors()}, {**manifest, "metrics": metrics})
        RecommenderRunner(artifact, device="cpu").warm_up()
    (output / "README.md").write_text(recommender_card(artifact), encoding="utf-8")
    return metrics


def train_sessions(
    output: Path, items: Int32, offsets: NDArray[np.int64], *, seed: int = 7, progress: Progress | None = None
) -> Artifact:
    """Train on whole sessions and write the artifact: its item ids are the decimal text of the integers.

    Args:
        output: Folder of the artifact; created if absent.
        items: int32[C], the sessions' clicks one after the other, oldest session first.
        offsets: int64[S + 1]; session s is items[offsets[s]:offsets[s + 1]].
        seed: Fixes the initial weights and the order of batches.
        progress: Told (stage, fraction done).

    Returns:
        The artifact. Epochs and blend are chosen on the last tenth of the sessions, and `metrics` are of that tenth;
        the weights saved have seen all sessions.

    Raises:
        TrainingDataError: offsets do not fit the items, or no session has two items.
    """
    items, offsets = np.asarray(items, np.int32), np.asarray(offsets, np.int64)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise TrainingDataError(
            f"offsets: expected a rise from 0 to {len(items)} in {len(offsets)} steps, got another; correct them"
        )
    sessions = len(offsets) - 1
    number = np.repeat(np.arange(sessions), np.diff(offsets))
    # A click a second keeps the order; a session's clicks lie together.
    columns = {
        "session_id": number.astype(str).tolist(),
        "item_id": items.astype(str).tolist(),
        "event_time": np.arange(len(items), dtype=np.int64) * 1000,
    }
    train(output, seed=seed, progress=progress, columns=columns)
    return load_artifact(output)


def build_examples(
    sessions: list[str], index: Int32, event_time: NDArray[np.int64], batch_records: int = 4096
) -> tuple[Int32, NDArray[np.int64]]:
    """Return what a worker knows after each click, and where the session's next click is.

    Args:
        sessions: Session ids, length N, in event-time order.
        index: int32[N] item indices, -1 unknown.
        event_time: int64[N], ms.
        batch_records: Records a step; changes nothing but speed.

    Returns:
        int32[N, LENGTH] latest items after each click, left-padded with -1; int64[N] place of the session's next click,
        -1 after its last.
    """
    history = SessionHistory(LENGTH)
    sequences = np.empty((len(sessions), LENGTH), np.int32)
    for begin in range(0, len(sessions), batch_records):
        part = slice(begin, begin + batch_records)
        sequences[part] = history.update(sessions[part], index[part], event_time[part])
    numbers: dict[str, int] = {}
    session = np.fromiter((numbers.setdefault(key, len(numbers)) for key in sessions), np.int64, len(sessions))
    order = np.argsort(session, kind="stable")
    followed = np.flatnonzero(session[order][:-1] == session[order][1:])
    following = np.full(len(sessions), -1, np.int64)
    following[order[followed]] = order[followed + 1]
    return sequences, following


def _ordered(columns: Mapping[str, Any]) -> tuple[list[str], list[str], NDArray[np.int64]]:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise TrainingDataError(f"columns: expected {', '.join(COLUMNS)}, got no {', '.join(missing)}; add them")
    event_time = np.asarray(columns["event_time"], np.int64)
    lengths = {name: len(columns[name]) for name in COLUMNS}
    if len(set(lengths.values())) != 1:
        raise TrainingDataError(f"columns: expected one length, got {lengths}; cut them to one")
    if not len(event_time):
        raise TrainingDataError("columns: expected clicks, got none; give some")
    order = np.argsort(event_time, kind="stable")
    sessions: list[str] = np.asarray(columns["session_id"], dtype=object)[order].tolist()
    items: list[str] = np.asarray(columns["item_id"], dtype=object)[order].tolist()
    return sessions, items, event_time[order]


def _edges(event_time: NDArray[np.int64]) -> dict[str, slice]:
    first, last = int(event_time[0]), int(event_time[-1])
    test = int(np.searchsorted(event_time, last - int(TEST_SHARE * (last - first))))
    validation = int(np.searchsorted(event_time, last - int((TEST_SHARE + VALIDATION_SHARE) * (last - first))))
    return {
        "train": slice(0, validation),
        "validation": slice(validation, test),
        "test": slice(test, len(event_time)),
    }


def _examples(
    sequences: Int32, following: NDArray[np.int64], index: Int32, edge: slice, name: str
) -> tuple[Int32, Int32]:
    """Return sequences and targets of the clicks of a part whose next click is in it too, both known items."""
    place = following[edge]
    usable = (place >= 0) & (place < edge.stop) & (index[place] >= 0) & (sequences[edge] >= 0).any(axis=1)
    if not usable.any():
        raise TrainingDataError(
            f"{name} part: expected sessions of two or more known items, got none in {edge.stop - edge.start} clicks; "
            "give more clicks"
        )
    return sequences[edge][usable], index[place[usable]]


def _fit(
    items: int,
    clicks: NDArray[np.int64],
    sequences: Int32,
    targets: Int32,
    validation_sequences: Int32,
    validation_targets: Int32,
    tell: Progress,
) -> RecommenderModel:
    """Return the model of the epoch that ranks the validation part best."""
    model = RecommenderModel(items, WIDTH, HEADS, LENGTH)
    with torch.no_grad():
        model.bias[1:] = torch.from_numpy(np.log(clicks / clicks.sum())).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    batches = max(1, len(targets) // BATCH_RECORDS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=EPOCHS * batches, pct_start=0.15
    )
    rows, next_items = torch.from_numpy(sequences), torch.from_numpy(targets)
    best, best_state = -1.0, model.state_dict()
    for epoch in range(EPOCHS):
        model.train()
        for step, batch in enumerate(torch.randperm(len(targets))[: batches * BATCH_RECORDS].view(batches, -1)):
            if step % 50 == 0:
                done = (epoch + step / batches) / EPOCHS
                tell(f"fit, epoch {epoch + 1} of {EPOCHS}", 0.1 + 0.85 * done)
            optimiser.zero_grad(set_to_none=True)
            logits = model(rows[batch].long() + 1)
            torch.nn.functional.cross_entropy(logits, next_items[batch].long() + 1).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        model.eval()
        quality = measure(model, clicks, validation_sequences, validation_targets)["p_at_20"]
        if quality > best:
            best, best_state = quality, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    model.eval()
    return model


def measure(
    model: RecommenderModel, clicks: NDArray[np.int64], sequences: Int32, targets: Int32, rows_max: int = 512
) -> dict[str, float]:
    """Return how often and how high the next item is among the first 20.

    Args:
        model: In evaluation mode, on the CPU.
        clicks: int64[N] clicks of each item, for the comparison with popularity.
        sequences: int32[B, T], each with a known item.
        targets: int32[B], known.
        rows_max: Rows scored at once.

    Returns:
        p_at_20 and mrr_at_20 over all items, as the literature has it; unseen_p_at_20 over the next clicks on items new
        to the session, with the seen ones left out, as served; the same of the most popular items.
    """
    positions: list[NDArray[np.int64]] = []
    served: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for begin in range(0, len(targets), rows_max):
            rows = torch.from_numpy(sequences[begin : begin + rows_max]).long() + 1
            wanted = torch.from_numpy(targets[begin : begin + rows_max]).long()[:, None] + 1
            logits = model(rows)
            value = logits.gather(1, wanted)
            positions.append((logits > value).sum(dim=1).numpy())
            served.append((logits.scatter(1, rows, -torch.inf) > value).sum(dim=1).numpy())
    position = np.concatenate(positions)
    unseen = ~(sequences == targets[:, None]).any(axis=1)
    popular = np.empty(len(clicks), np.int64)
    popular[np.argsort(-clicks, kind="stable")] = np.arange(len(clicks))
    by_popularity = popular[targets]
    return {
        "p_at_20": float((position < TOP_K).mean()),
        "mrr_at_20": float(np.where(position < TOP_K, 1.0 / (position + 1), 0.0).mean()),
        "unseen_p_at_20": float((np.concatenate(served)[unseen] < TOP_K).mean()) if unseen.any() else 0.0,
        "popular_p_at_20": float((by_popularity < TOP_K).mean()),
        "popular_mrr_at_20": float(np.where(by_popularity < TOP_K, 1.0 / (by_popularity + 1), 0.0).mean()),
    }
