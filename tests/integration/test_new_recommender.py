"""A new recommender on a real Kafka takes the sessions over from the one before, while clicks keep coming."""

from __future__ import annotations

import math
import re
import threading
from collections import Counter, defaultdict
from operator import sub
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from models.artifacts import default_artifact, load_artifact, save_artifact
from models.recommender.network import Vocabulary
from models.recommender.runner import RecommenderRunner
from streams.agents.recommendations import RecommendationJob
from streams.contract.topics import CLICKSTREAM
from tests.support import jobs
from tests.support.traffic import clicks
from tests.support.workers import Bench, WorkerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.settings(checkpoint_interval_s=1, session_timeout_s=6, top_k=10)]
PARTITIONS = 4
CLICKS, CLICKS_PER_S, CHUNK = 2_880, 600, 240  # each chunk has a producer of its own, half a second or more
HELD_BACK = CLICKS // 3  # until the first model stops, so that clicks come while models change, on a slow machine too
GONE, ADDED = 300, 20  # items of the first model that the second does not know, and the other way round
# Scores of clicks may differ in about the seventh digit by the micro-batch that they were in.
SCORE_OFF_MAX = 2e-6


def other_model(folder: Path) -> list[str]:
    """Save the model that ships with its items in another order, some gone and some added; return those gone."""
    shipped = load_artifact(default_artifact("recommender"))
    vocabulary, rng = Vocabulary.from_artifact(shipped), np.random.default_rng(5)
    order = rng.permutation(len(vocabulary.ids))
    gone, kept = order[:GONE], order[GONE:]
    place = np.full(len(order), -1)
    place[kept] = np.arange(len(kept))
    past, lengths = place[shipped.tensors["past.clicks"]], shipped.tensors["past.lengths"]
    session = np.repeat(np.arange(len(lengths)), lengths)
    embedding = shipped.tensors["embedding"]
    added = embedding[rng.choice(kept, ADDED)] + rng.normal(0, 0.02, (ADDED, embedding.shape[1])).astype(np.float32)
    items = Vocabulary(
        [*(vocabulary.ids[item] for item in kept), *map(added_name, range(ADDED))],
        np.concatenate([vocabulary.clicks[kept], np.ones(ADDED, np.int64)]),
    )
    tensors = {
        **shipped.tensors,
        **items.tensors(),
        "embedding": np.concatenate([embedding[kept], added / np.linalg.norm(added, axis=1, keepdims=True)]),
        "past.clicks": past[past >= 0].astype(np.uint16),
        "past.lengths": np.bincount(session[past >= 0], minlength=len(lengths)).astype(np.uint16),
    }
    architecture = shipped.manifest["architecture"] | {"items": len(items.ids)}
    save_artifact(folder, tensors, shipped.manifest | {"name": "other", "architecture": architecture})
    return [vocabulary.ids[item] for item in gone]


def added_name(number: int) -> str:
    return f"added-{number}"


def events() -> list[dict[str, Any]]:
    """Clicks of few sessions on the shipped model's items, on items that the other has been given, and on others yet."""
    rng, made = np.random.default_rng(7), clicks(CLICKS)
    for event, kind, number in zip(made, rng.random(CLICKS), rng.integers(ADDED, size=CLICKS).tolist(), strict=True):
        if kind < 0.1:
            event["item_id"] = added_name(number)
        elif kind < 0.15:
            event["item_id"] = f"launched-{number % 4}"
    return made


def restores(worker: WorkerProcess) -> dict[int, tuple[int, int, int]]:
    """Return, of each partition whose sessions a worker has restored, up to where, from how many rows, at which place."""
    pattern = rf"{CLICKSTREAM.name}\[(\d+)\]: restored to (\d+) from (\d+) rows at (\d+) in"
    return {int(n): (int(to), int(rows), int(at)) for n, to, rows, at in re.findall(pattern, worker.log.read_text())}


def alone(folder: Path, messages: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the slates of a model that was there from the first click on, by the job that a worker runs, by event."""
    runner, slates = RecommenderRunner.load(folder, device="cpu"), {}
    partitions: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for message in messages:
        partitions[message.partition()].append(orjson.loads(message.value()))
    for records in partitions.values():
        job = jobs.Bench(RecommendationJob, runner)
        for begin in range(0, len(records), 500):
            answers, letters = job.send(records[begin : begin + 500])
            assert not letters
            slates |= {slate["event_id"]: slate for slate in answers}
    return slates


def ranking(slate: dict[str, Any]) -> tuple[list[str], list[float]]:
    return [item["item_id"] for item in slate["items"]], [item["score"] for item in slate["items"]]


def test_a_new_recommender_goes_on_from_the_checkpoints_of_the_one_before(bench: Bench) -> None:
    """Clicks come all the while; the new model replays nothing, answers each once, and as if it had always been there."""
    folder = bench.folder / "other"
    gone = other_model(folder)
    made, stopping, pause = events(), threading.Event(), threading.Event()

    def load() -> None:
        for begin in range(0, CLICKS, CHUNK):
            if begin >= CLICKS - HELD_BACK:
                stopping.wait()
            bench.produce_json("clickstream", "session_id", made[begin : begin + CHUNK])
            pause.wait(CHUNK / CLICKS_PER_S)

    first = bench.start(0).wait_until_ready()
    producing = threading.Thread(target=load, daemon=True)
    producing.start()
    bench.wait_for("recommendations", CLICKS // 4)
    stopping.set()
    first.stop()
    first.log.unlink()
    second = bench.start(0, recommender_artifact=folder).wait_until_ready()
    producing.join()
    bench.wait_for("recommendations", CLICKS)

    slates = bench.read_json("recommendations")
    assert Counter(slate["event_id"] for slate in slates) == {event["event_id"]: 1 for event in made}
    found = restores(second)
    assert len(found) == PARTITIONS
    assert all(rows > 0 and to == at > 0 for to, rows, at in found.values()), "replayed what a checkpoint holds"

    version = load_artifact(folder).version
    of_second = [slate for slate in slates if slate["model_version"] == version]
    assert CLICKS // 4 < len(of_second) < CLICKS
    expected = alone(folder, bench.read("clickstream"))
    for slate in of_second:
        ids, scores = ranking(slate)
        wanted, at = ranking(expected[slate["event_id"]])
        assert slate["strategy"] == expected[slate["event_id"]]["strategy"]
        assert scores == pytest.approx(at, abs=SCORE_OFF_MAX)
        swapped = {place for place, (item, other) in enumerate(zip(ids, wanted, strict=True)) if item != other}
        gaps = [
            *map(sub, at, at[1:]),
            math.inf,
        ]  # of those with one score either may come first; or last, and be cut off
        assert swapped <= {n for n in range(len(at)) if min(gaps[n - 1] if n else math.inf, gaps[n]) < SCORE_OFF_MAX}
    named = {item for slate in of_second for item in ranking(slate)[0]}
    assert named & set(gone) and any(item.startswith("launched") for item in named)
    assert any(item.startswith("added") for item in named)
