"""The checker itself: each kind of damage, made by hand, raises its alarm and no other; what is right raises none."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.checker import Confirmed, Expected, Seen, first_decision_after, judge, longest_stall


def decision(number: int, at: float, *, score: float = 0.5, partition: int = 0, card: str = "c") -> Seen:
    return Seen(f"t{number}", partition, number, at, {"score": score, "card_id": card})


CONFIRMED = {f"t{n}": Confirmed(0, n, float(n)) for n in range(4)}
EXPECTED = Expected(dict.fromkeys(CONFIRMED, 0.5), {key: (c.partition, c.offset) for key, c in CONFIRMED.items()})
RIGHT = [decision(n, n + 0.1) for n in range(4)]


def test_what_is_right_raises_no_alarm() -> None:
    """Every input decided once, in order, with the oracle's score, up to a double's digits beyond those of a float32."""
    verdict = judge(
        CONFIRMED, EXPECTED, [replace(RIGHT[0], value={"score": 0.50000000001, "card_id": "c"}), *RIGHT[1:]]
    )
    assert verdict.clean and verdict.inputs == 4


def test_a_confirmed_input_without_a_decision_is_lost() -> None:
    """Also when the log itself has lost it, so that the oracle does not know it; not when it is excused."""
    assert judge(CONFIRMED, EXPECTED, RIGHT[1:]).lost == ["t0"]
    known = Expected({"t1": 0.5, "t2": 0.5, "t3": 0.5}, EXPECTED.places)
    assert judge(CONFIRMED, known, RIGHT[1:]).lost == ["t0"]
    assert judge(CONFIRMED, replace(EXPECTED, excused=frozenset({"t0"})), RIGHT[1:]).clean


def test_an_unconfirmed_input_that_is_in_the_log_must_be_decided_too() -> None:
    """The producer's connection may break after the broker has the record."""
    confirmed = {key: value for key, value in CONFIRMED.items() if key != "t3"}
    assert judge(confirmed, EXPECTED, RIGHT[:3]).lost == ["t3"]


def test_a_second_decision_is_doubled_even_if_it_is_equal() -> None:
    """No reader should need to drop anything."""
    assert judge(CONFIRMED, EXPECTED, [*RIGHT, decision(3, 9.0)]).doubled == ["t3"]


def test_another_score_and_an_answer_to_nothing_are_wrong() -> None:
    """A score off in the seventh digit, and a decision of a record that was aborted."""
    assert judge(CONFIRMED, EXPECTED, [decision(0, 0.1, score=0.5000001), *RIGHT[1:]]).wrong == ["t0"]
    assert judge(CONFIRMED, EXPECTED, [*RIGHT, decision(9, 9.0)]).wrong == ["t9"]


def test_a_decision_without_a_score_is_wrong_unless_it_may_be_degraded_and_says_so() -> None:
    """No other test mistakes a worker that goes on without its model for one that works."""
    bare = replace(RIGHT[0], value={"score": None, "card_id": "c"})
    marked = replace(RIGHT[0], value={"score": None, "card_id": "c", "degraded": True})
    may = replace(EXPECTED, degraded=True)
    assert judge(CONFIRMED, may, [marked, *RIGHT[1:]]).clean
    for expected, first in ((EXPECTED, marked), (EXPECTED, bare), (may, bare)):
        assert judge(CONFIRMED, expected, [first, *RIGHT[1:]]).wrong == ["t0"]


def test_decisions_of_a_key_out_of_order_are_an_inversion() -> None:
    """Swapped in a partition, or spread over two; other keys in between change nothing."""
    assert judge(CONFIRMED, EXPECTED, [RIGHT[0], RIGHT[2], RIGHT[1], RIGHT[3]]).inversions == ["c"]
    assert judge(CONFIRMED, EXPECTED, [*RIGHT[:3], replace(RIGHT[3], partition=1)]).inversions == ["c"]
    apart = [replace(RIGHT[1], value={"score": 0.5, "card_id": "d"}), RIGHT[0], *RIGHT[2:]]
    assert judge(CONFIRMED, EXPECTED, apart).clean


def test_a_stall_is_the_silence_of_a_partition_that_has_work() -> None:
    """Silence without work is none; another partition's decisions do not end it."""
    assert longest_stall(CONFIRMED, [decision(0, 0.5), decision(1, 1.5), decision(2, 2.5), decision(3, 8.0)]) == 5.0
    late = {"t0": Confirmed(0, 0, 0.0), "t1": Confirmed(0, 1, 100.0), "t2": Confirmed(1, 0, 0.0)}
    assert longest_stall(late, [decision(0, 1.0), decision(1, 102.0), decision(2, 3.0)]) == 3.0


def test_the_time_to_the_first_decision_counts_from_each_restart() -> None:
    """A restart that nothing follows has no time."""
    assert first_decision_after([0.0, 2.0, 50.0], RIGHT) == [0.1, 2.1 - 2.0]
