"""Failover: who decides while a model fails for everything, and when the model is asked again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streams.engine.failover import PAUSE_S_MAX, PAUSE_S_MIN, Failover
from streams.engine.isolation import FAILURES_IN_A_ROW_MAX
from streams.errors import ModelFailed


class Model:
    """Answers each row with its number; raises for some rows, or for all."""

    def __init__(self) -> None:
        self.broken, self.raises, self.calls = False, set[int](), 0

    def __call__(self, rows: NDArray[np.float32]) -> list[str]:
        self.calls += 1
        numbers = rows[:, 0].astype(int).tolist()
        if self.broken or self.raises.intersection(numbers):
            raise RuntimeError("cannot score")
        return [f"model {number}" for number in numbers]


def stand_in(rows: NDArray[np.float32]) -> list[str]:
    return [f"rules {number}" for number in rows[:, 0].astype(int).tolist()]


class Case:
    """A failover over a model, at a time of the test's."""

    def __init__(self, degrade: bool = True) -> None:
        self.model, self.now = Model(), 100.0
        self.failover = Failover("test", degrade, lambda: self.now)

    def ask(self, first: int, stop: int) -> tuple[list[str], set[int], bool]:
        rows = np.arange(first, stop, dtype=np.float32)[:, None]
        answers = self.failover(self.model, rows, stand_in)
        assert answers.degraded == self.failover.is_degraded
        return [each for part in answers.parts for each in part], set(answers.culprits), answers.degraded


def rules(first: int, stop: int) -> tuple[list[str], set[int], bool]:
    return [f"rules {number}" for number in range(first, stop)], set(), True


def model(first: int, stop: int) -> tuple[list[str], set[int], bool]:
    return [f"model {number}" for number in range(first, stop)], set(), False


def test_without_leave_to_degrade_the_failure_is_raised() -> None:
    """The default: every decision is the model's."""
    case = Case(degrade=False)
    case.model.broken = True
    with pytest.raises(ModelFailed, match="records in a row"):
        case.ask(0, 100)
    assert not case.failover.is_degraded


def test_a_micro_batch_is_decided_by_the_model_or_without_it_never_by_both() -> None:
    """Also where the model has answered some of its rows and set others aside before it failed for good."""
    case = Case()
    case.model.raises = set(range(40, 100))
    assert case.ask(0, 100) == rules(0, 100)


def test_single_records_that_fail_one_after_the_other_end_in_degradation() -> None:
    """At low load the first ones are taken for bad records, as they are without leave to degrade; the next is decided."""
    case = Case()
    case.model.broken = True
    for number in range(FAILURES_IN_A_ROW_MAX - 1):
        assert case.ask(number, number + 1) == ([], {0}, False)
    assert case.ask(7, 8) == rules(7, 8)


def test_a_bad_record_among_good_ones_degrades_nothing() -> None:
    """It is set aside, and its neighbours are the model's."""
    case = Case()
    case.model.raises = {3}
    answered, culprits, degraded = case.ask(0, 10)
    assert (culprits, degraded) == ({3}, False)
    assert answered == [f"model {number}" for number in range(10) if number != 3]


def test_the_model_is_left_alone_for_a_pause_that_doubles_up_to_its_bound() -> None:
    """Within a pause the model is not called; at its end one failing row is enough, and no record is set aside for it."""
    case = Case()
    case.model.broken = True
    case.ask(0, 100)
    pause_s = PAUSE_S_MIN
    for _ in range(12):
        calls = case.model.calls
        case.now += pause_s * 0.999
        assert case.ask(0, 5) == rules(0, 5)
        assert case.model.calls == calls
        case.now += pause_s * 0.002
        assert case.ask(0, 5) == rules(0, 5)
        assert calls < case.model.calls <= calls + 3
        pause_s = min(2 * pause_s, PAUSE_S_MAX)
    assert pause_s == PAUSE_S_MAX


def test_a_model_that_answers_again_decides_from_there_on() -> None:
    """The worker recovers by itself; the next failure begins with the shortest pause."""
    case = Case()
    case.model.broken = True
    for _ in range(4):
        case.ask(0, 10)
        case.now += PAUSE_S_MAX
    case.model.broken = False
    assert case.ask(0, 10) == model(0, 10)
    assert case.ask(10, 20) == model(10, 20)
    case.model.broken = True
    case.ask(20, 120)
    case.now += PAUSE_S_MIN * 1.001
    case.model.broken = False
    assert case.ask(0, 10) == model(0, 10)


def test_a_micro_batch_without_rows_tells_nothing_of_the_model() -> None:
    """Refused records alone neither end nor begin a degradation."""
    case = Case()
    assert case.failover(case.model, np.empty((0, 1), np.float32), stand_in).parts == []
    case.model.broken = True
    case.ask(0, 100)
    case.now += PAUSE_S_MAX
    case.failover(case.model, np.empty((0, 1), np.float32), stand_in)
    assert case.failover.is_degraded
