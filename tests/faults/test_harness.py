"""The harness proves itself: each defect that such workers are known for, put back by hand, raises the alarm.

The same fault without the defect raises none. All on real workers, under the default guarantee unless it says otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from streams.contract.topics import DECISIONS
from tests.faults.checker import Verdict
from tests.faults.conftest import LoneBroker
from tests.faults.proxy import PRODUCE
from tests.faults.trial import Trial

pytestmark = pytest.mark.kafka

RECORDS = 600
Scenario = Callable[[Trial, tuple[str, ...]], Verdict]


def quiet(defect: tuple[str, ...]) -> float:
    """Return how long to wait in silence for what is missing: with a defect, something is."""
    return 15.0 if defect else math.inf


def model_raises_once(trial: Trial, defect: tuple[str, ...]) -> Verdict:
    """The third micro-batch raises, with others behind it."""
    trial.load(trial.produce_labels(RECORDS), rate=400)
    trial.supervise(0, "raise:3", lasting=defect)
    return trial.verdict(60, faults=1, quiet_s_max=quiet(defect))


def killed_with_records_in_flight(trial: Trial, defect: tuple[str, ...]) -> Verdict:
    """Everything is there at the start, small micro-batches take it up; kill -9 just after a commit."""
    trial.load(trial.produce_labels(RECORDS)).finish()
    trial.supervise(0, "exit:after-commit:1", lasting=("slow:2:60", *defect))
    return trial.verdict(60, faults=1, quiet_s_max=quiet(defect))


def input_with_gaps(trial: Trial, defect: tuple[str, ...]) -> Verdict:
    """Input written by transactions: their markers are gaps in the offsets."""
    records = trial.produce_labels(RECORDS)
    for begin in range(0, RECORDS, 100):
        trial.load(records[begin : begin + 100], transaction="commit").finish()
    trial.supervise(0, lasting=defect)
    return trial.verdict(60, quiet_s_max=quiet(defect))


def output_refused_for_a_while(trial: Trial, defect: tuple[str, ...]) -> Verdict:
    """The broker takes no decision for some seconds, because all are too large for it."""
    records = trial.produce_labels(RECORDS)
    worker = trial.supervise(0, lasting=defect)
    trial.load(records[:300]).finish()
    trial.wait_for_decisions(300)
    trial.configure_topic(DECISIONS.name, max_message_bytes=100)
    trial.load(records[300:]).finish()
    time.sleep(3)
    trial.configure_topic(DECISIONS.name, max_message_bytes=None)
    return trial.verdict(60, faults=len(worker.codes), quiet_s_max=quiet(defect))


def killed_before_a_commit(trial: Trial, defect: tuple[str, ...]) -> Verdict:
    """kill -9 when outputs and offsets are sent and the transaction is about to commit."""
    trial.load(trial.produce_labels(RECORDS)).finish()
    trial.supervise(0, "exit:before-commit:1", lasting=defect)
    return trial.verdict(60, faults=1, quiet_s_max=quiet(defect))


ALARMS: list[tuple[str, Scenario, str]] = [
    ("1", model_raises_once, "lost"),
    ("2", killed_with_records_in_flight, "lost"),
    ("3", input_with_gaps, "lost"),
    ("4", output_refused_for_a_while, "lost"),
    ("5", killed_before_a_commit, "doubled"),
]
SMALL_BATCHES = pytest.mark.settings(batch_records_max=64, inline_records_max=64, fetch_records_max=64)


@SMALL_BATCHES
@pytest.mark.parametrize(("number", "scenario", "alarm"), ALARMS, ids=[scenario.__name__ for _, scenario, _ in ALARMS])
def test_a_defect_put_back_raises_the_alarm(trial: Trial, number: str, scenario: Scenario, alarm: str) -> None:
    """Defects 1 to 5: the scenario that hurts a worker with the defect is reported as what it is."""
    verdict = scenario(trial, (f"defect:{number}",))
    assert getattr(verdict, alarm), str(verdict)


@SMALL_BATCHES
@pytest.mark.parametrize("scenario", [scenario for _, scenario, _ in ALARMS], ids=lambda scenario: scenario.__name__)
def test_the_same_fault_without_the_defect_raises_none(trial: Trial, scenario: Scenario) -> None:
    """The alarm is for the defect, not for the fault."""
    verdict = scenario(trial, ())
    assert verdict.clean, str(verdict)


@SMALL_BATCHES
@pytest.mark.faults
@pytest.mark.parametrize("run", range(20))
def test_a_clean_build_raises_none_in_twenty_runs(trial: Trial, run: int) -> None:
    """Each scenario four times: no alarm is a matter of luck."""
    verdict = ALARMS[run % len(ALARMS)][1](trial, ())
    assert verdict.clean, str(verdict)


@pytest.mark.settings(guarantee="at_least_once")
@pytest.mark.parametrize("defect", [("defect:6",), ()], ids=["defect", "clean"])
def test_a_producer_that_is_not_idempotent_doubles_when_an_answer_is_lost(
    proxied: Trial, lone: LoneBroker, defect: tuple[str, ...]
) -> None:
    """Defect 6: the broker has the outputs, the connection breaks before it can say so. With idempotence nothing doubles."""
    records = proxied.produce_labels(RECORDS)
    proxied.supervise(0, lasting=defect)
    proxied.load(records[:100]).finish()
    proxied.wait_for_decisions(100)
    lone.proxy.cuts[PRODUCE] = 2
    proxied.load(records[100:], rate=200)
    verdict = proxied.verdict(60, faults=2)
    assert lone.proxy.cuts[PRODUCE] == 0, "the proxy has cut nothing"
    assert bool(verdict.doubled) == bool(defect) and not verdict.lost and not verdict.wrong, str(verdict)
