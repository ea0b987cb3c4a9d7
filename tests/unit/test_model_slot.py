"""A model that is swapped while payments are decided: each micro-batch is wholly of one model."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from models.fraud.runner import FraudRunner
from streams.agents.fraud import FraudJob, FraudModel
from streams.policy.thresholds import Thresholds
from tests.support.jobs import Bench
from tests.support.traffic import payments

PAYMENTS = payments(2_000, cards=20)[0]
BATCH = 40


@pytest.fixture(scope="module")
def runner() -> FraudRunner:
    return FraudRunner.load(device="cpu")


def named(runner: FraudRunner, version: str, thresholds: Thresholds) -> FraudModel:
    """Return a model that scores as `runner` does, under a version and with thresholds of its own."""
    other: Any = SimpleNamespace(name="fraud", version=version, score=runner.score, reasons=runner.reasons)
    return FraudModel(other, thresholds)


def test_a_micro_batch_has_one_model_while_models_are_swapped(runner: FraudRunner) -> None:
    """Version, id and thresholds of a decision are those of the model that scored it, and both models do decide."""
    lenient, strict = "a" * 64, "b" * 64
    models = [named(runner, lenient, Thresholds(1.0, 1.0)), named(runner, strict, Thresholds(0.0, 0.0))]
    bench = Bench(FraudJob, runner)
    bench.slot.swap(models[0])
    over = threading.Event()

    def swap() -> None:
        turn = 0
        while not over.wait(0.0005):
            turn += 1
            bench.slot.swap(models[turn % 2])

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: list[str] = []
    try:
        for begin in range(0, len(PAYMENTS), BATCH):
            answers, letters = bench.send(PAYMENTS[begin : begin + BATCH])
            (version,) = {answer["model_version"] for answer in answers}
            seen.append(version)
            assert len(answers) == BATCH and letters == []
            assert {answer["decision"] for answer in answers} == {"approve" if version == lenient else "decline"}
            assert {answer["decision_id"].partition("@")[2] for answer in answers} == {version[:12]}
    finally:
        over.set()
        swapping.join()
    assert set(seen) == {lenient, strict}


def test_the_state_goes_on_over_a_swap(runner: FraudRunner) -> None:
    """The second model's scores are those that it gives where it has decided all along."""
    first, second = (named(runner, version * 64, Thresholds(0.5, 0.9)) for version in "ab")
    swapped, steady = Bench(FraudJob, runner), Bench(FraudJob, runner)
    swapped.slot.swap(first)
    steady.slot.swap(second)
    swapped.send(PAYMENTS[:500])
    steady.send(PAYMENTS[:500])
    swapped.slot.swap(second)
    timed = ("decided_at", "timings")
    one, other = (
        [
            {key: value for key, value in answer.items() if key not in timed}
            for answer in bench.send(PAYMENTS[500:700])[0]
        ]
        for bench in (swapped, steady)
    )
    assert one == other and len(one) == 200
