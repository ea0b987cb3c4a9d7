"""Any events in any order: each guarantee holds for every seed.

`pytest tests/simulation` runs as many seeds as fit in the time below. `SEEDS=20000 pytest -m simulation` runs that many, from
`FIRST_SEED` on. A seed that fails names itself, and `SEED=123 pytest tests/simulation` runs it alone, exactly as it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.simulation.world import Outcome, short_times, simulate

ROOT = Path(__file__).parents[2]
SHORT_S = 12.0  # of a normal run, for each guarantee
GUARANTEES = ("exactly_once", "at_least_once")


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with short_times():
        yield


def run(seed: int, guarantee: str) -> Outcome:
    try:
        return simulate(seed, guarantee)
    except BaseException as exc:
        exc.add_note(f"again: SEED={seed} pytest tests/simulation -k '{guarantee} and seeds'")
        raise


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_the_guarantee_holds_for_the_first_seeds(guarantee: str) -> None:
    """As many seeds as a normal run has time for: no output lost or wrong, no offset or state ahead, no reader held up."""
    given = os.environ.get("SEED")
    if given is not None:
        run(int(given), guarantee)
        return
    deadline = time.monotonic() + SHORT_S
    outcomes = [run(0, guarantee)]
    for seed in count(1):
        if time.monotonic() > deadline:
            break
        outcomes.append(run(seed, guarantee))
    print(f"{guarantee}: {len(outcomes)} seeds")
    if guarantee == "exactly_once":
        assert not any(outcome.repeated for outcome in outcomes)


@pytest.mark.simulation
@pytest.mark.timeout(0)
@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_the_guarantee_holds_for_many_seeds(guarantee: str) -> None:
    """The same for SEEDS seeds from FIRST_SEED on."""
    first = int(os.environ.get("FIRST_SEED", "0"))
    for seed in range(first, first + int(os.environ.get("SEEDS", "5000"))):
        run(seed, guarantee)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_seeds_replay_exactly(guarantee: str) -> None:
    """The same seed comes to the same, event by event; another seed does not."""
    outcomes = [run(seed, guarantee) for seed in (7, 8, 7)]
    assert outcomes[0] == outcomes[2] != outcomes[1]


@pytest.mark.simulation
def test_seeds_replay_in_another_process() -> None:
    """Nothing hangs on a process, such as its hashes of strings."""
    code = (
        "from tests.simulation.world import *\n"
        "with short_times(): print([simulate(seed, g) for seed in range(20) for g in ('exactly_once', 'at_least_once')])"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed, path in (("1", os.pathsep.join(filter(None, sys.path))), ("2", os.pathsep.join(filter(None, sys.path))))
    ]  # fmt: skip
    assert found[0] == found[1] != ""


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_what_is_simulated_does_happen(guarantee: str) -> None:
    """Among few seeds there are restarts, rebalances and checkpoints, and repeats where they are allowed."""
    outcomes = [run(seed, guarantee) for seed in range(60)]
    assert sum(outcome.restarts for outcome in outcomes) > 20
    assert sum(outcome.generations > 3 for outcome in outcomes) > 20
    assert sum(outcome.checkpoints for outcome in outcomes) > 100
    assert any(outcome.repeated for outcome in outcomes) is (guarantee == "at_least_once")
