"""Checker: what the broker confirmed, what was decided of it, and what is wrong with that.

Every input has an id of its own. The oracle computes the decisions offline, over the input as it stands in the log;
outputs are read with `read_committed`. No fault excuses anything: CLEAN is 0 lost, 0 doubled, 0 wrong, 0 inversions.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An input that the broker confirmed to its producer; the time is of the wall clock, in seconds."""

    partition: int
    offset: int
    at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A decision as a read_committed reader met it.

    Attributes:
        input_id: the `transaction_id` it answers.
        partition, offset: where it stands in `fraud-decisions`.
        at: when the reader got it, seconds of the wall clock; NaN where it was read afterwards.
        value: the decision.
    """

    input_id: str
    partition: int
    offset: int
    at: float
    value: Mapping[str, Any]

    @classmethod
    def of(cls, message: Any, at: float = math.nan) -> Seen:
        """Read one record of `fraud-decisions`."""
        value = orjson.loads(message.value())
        return cls(value["transaction_id"], message.partition(), message.offset(), at, value)


@dataclass(frozen=True)
class Expected:
    """What should be decided.

    Attributes:
        scores: id -> score, of every valid record in the input's log.
        places: id -> (partition, offset) of the input.
        excused: ids that the broker confirmed and that need no decision: aborted, compacted away, dead-lettered.
        degraded: whether a decision may be without a score, if it says that it is degraded.
    """

    scores: Mapping[str, float]
    places: Mapping[str, tuple[int, int]]
    excused: frozenset[str] = frozenset()
    degraded: bool = False


@dataclass
class Verdict:
    """What the checker found. Lists hold ids, so that a failure can be looked up in the log."""

    inputs: int
    lost: list[str]
    doubled: list[str]
    wrong: list[str]
    inversions: list[str]
    stall_s: float
    first_decision_s: list[float] = field(default_factory=list)
    faults: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong. Stalls are for the tests: how long one may last depends on the fault."""
        return not (self.lost or self.doubled or self.wrong or self.inversions)

    def __str__(self) -> str:
        parts = [f"{self.inputs} inputs, {self.faults} faults, longest stall {self.stall_s:.1f} s"]
        for name in ("lost", "doubled", "wrong", "inversions"):
            found = getattr(self, name)
            parts.append(f"{len(found)} {name}" + (f" ({', '.join(found[:SHOWN])} ...)" if found else ""))
        return "; ".join(parts)


def judge(confirmed: Mapping[str, Confirmed], expected: Expected, decisions: Sequence[Seen]) -> Verdict:
    """Compare what was decided with what should have been.

    Args:
        confirmed: id -> where and when the broker confirmed it to the producer.
        expected: by the oracle.
        decisions: every committed record of `fraud-decisions`, each partition in the order of its offsets.

    Returns:
        Lost: confirmed or in the log, and not decided. Doubled: decided more than once, by any model. Wrong:
        another score than the oracle's, or a decision of a record that is no input (an aborted one). Inversions: keys whose
        decisions do not stand in the order of their inputs, or in more than one partition.
    """
    times = Counter(each.input_id for each in decisions)
    wanted = (confirmed.keys() | expected.scores.keys()) - expected.excused
    wrong = {
        each.input_id for each in decisions if each.input_id not in expected.scores or not is_right(each, expected)
    }
    return Verdict(
        inputs=len(wanted),
        lost=sorted(wanted - times.keys()),
        doubled=sorted(each for each, count in times.items() if count > 1),
        wrong=sorted(wrong),
        inversions=inversions(expected.places, decisions),
        stall_s=longest_stall(confirmed, decisions),
    )


def is_right(decision: Seen, expected: Expected) -> bool:
    """Tell whether a decision has the oracle's score, or none where the model may have failed."""
    score = decision.value["score"]
    if score is None:
        return expected.degraded and decision.value.get("degraded") is True
    return bool(np.float32(score) == np.float32(expected.scores[decision.input_id]))


def inversions(places: Mapping[str, tuple[int, int]], decisions: Iterable[Seen]) -> list[str]:
    """Return the cards whose first decisions are out of the order of their inputs, or spread over partitions."""
    last: dict[str, tuple[int, int]] = {}
    met: set[str] = set()
    found: set[str] = set()
    for each in decisions:
        place = places.get(each.input_id)
        if place is None or each.input_id in met:
            continue
        met.add(each.input_id)
        card, at = each.value["card_id"], (each.partition, place[1])
        before = last.setdefault(card, at)
        if before[0] != at[0] or before[1] > at[1]:
            found.add(card)
        last[card] = at
    return sorted(found)


def longest_stall(confirmed: Mapping[str, Confirmed], decisions: Iterable[Seen]) -> float:
    """Return the longest silence, in seconds, of a partition that had work: confirmed inputs without a decision.

    Silence begins with the last decision, or with the first input when there was nothing to do; it ends with a decision.
    """
    events: dict[int, list[tuple[float, int]]] = defaultdict(list)
    decided: set[str] = set()
    for each in decisions:
        source = confirmed.get(each.input_id)
        if source is None or each.input_id in decided or math.isnan(each.at):
            continue
        decided.add(each.input_id)
        events[source.partition].append((min(source.at, each.at), 1))
        events[source.partition].append((each.at, -1))
    longest = 0.0
    for of_partition in events.values():
        waiting, since = 0, 0.0
        for at, step in sorted(of_partition, key=lambda event: (event[0], -event[1])):
            if step > 0 and waiting == 0:
                since = at
            elif step < 0:
                longest, since = max(longest, at - since), at
            waiting += step
    return longest


def first_decision_after(moments: Iterable[float], decisions: Iterable[Seen]) -> list[float]:
    """Return for each moment, in seconds of the wall clock, how long it took until the next decision was met."""
    times = sorted(each.at for each in decisions if not math.isnan(each.at))
    found = []
    for moment in moments:
        later = next((at for at in times if at >= moment), None)
        if later is not None:
            found.append(later - moment)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values does not exceed; NaN of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
