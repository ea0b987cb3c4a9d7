"""Decisions and recommendations as the JSON values of their topics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import msgspec

from streams.contract.columns import Clicks, Transactions
from streams.contract.events import Decision, RankedItem, Reason, Recommendation, Timings

_JSON: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ModelName:
    """Name and version of the model, for every decision."""

    name: str
    version: str

    @property
    def suffix(self) -> str:
        """What follows the input's id in `decision_id`: the same input and model give the same id."""
        return f"@{self.version[:12]}"


@dataclass(frozen=True, slots=True)
class Timing:
    """When a batch was decided (ms since the epoch), how long it waited and how long its micro-batch took, in ms."""

    decided_at: int
    queue_ms: float
    inference_ms: float

    @classmethod
    def since(cls, fetched_at: float, started: float) -> Timing:
        """Return the timing of a batch; arguments are monotonic seconds."""
        return cls(
            int(time.time() * 1000),
            round(1e3 * (started - fetched_at), 3),
            round(1e3 * (time.monotonic() - started), 3),
        )

    @property
    def timings(self) -> Timings:
        """Return the timings for the output."""
        return Timings(self.queue_ms, self.inference_ms)


@dataclass(frozen=True, slots=True)
class Made:
    """How the answers to a batch were made, for each of them.

    Attributes:
        model: the model that answered, or that failed.
        timing: when, and how long it took.
        degraded: whether the model failed and a stand-in answered.
    """

    model: ModelName
    timing: Timing
    degraded: bool = False


def encode_decisions(
    columns: Transactions,
    made: Made,
    *,
    scores: Sequence[float | None],
    decisions: Sequence[str],
    confidences: Sequence[float | None],
    reasons: Sequence[list[Reason]],
) -> list[bytes]:
    """Return the JSON values of `fraud-decisions`, one a transaction (`streams.contract.events.Decision`)."""
    ids, model = columns.transaction_ids, made.model
    answers = (
        [transaction_id + model.suffix for transaction_id in ids], ids, columns.card_ids, columns.terminal_ids,
        columns.amounts.tolist(), columns.event_times.tolist(), scores, decisions, confidences, reasons,
        repeat(model.name), repeat(model.version), repeat(made.timing.decided_at), repeat(made.timing.timings),
        repeat("rules" if made.degraded else "model"), repeat(made.degraded),
    )  # fmt: skip
    return _encoded(len(ids), map(Decision, *answers))


def encode_recommendations(
    columns: Clicks,
    made: Made,
    *,
    item_ids: Sequence[list[str]],
    scores: Sequence[list[float]],
    strategies: Sequence[str],
) -> list[bytes]:
    """Return the JSON values of `recommendations`, one a click (`streams.contract.events.Recommendation`)."""
    ids, model = columns.event_ids, made.model
    named = [list(map(RankedItem, items, each)) for items, each in zip(item_ids, scores, strict=True)]
    answers = (
        [event_id + model.suffix for event_id in ids], ids, columns.session_ids, named, strategies,
        [min(1.0, sum(each)) for each in scores], repeat(model.name), repeat(model.version),
        columns.event_times.tolist(), repeat(made.timing.decided_at), repeat(made.timing.timings),
        repeat(made.degraded),
    )  # fmt: skip
    return _encoded(len(ids), map(Recommendation, *answers))


def _encoded(count: int, answers: Iterable[Decision] | Iterable[Recommendation]) -> list[bytes]:
    """Return the JSON of each, in one call: a call for each costs as much as the JSON."""
    values = _JSON.encode_lines(list(answers)).splitlines()  # msgspec 0.22 never lets go of an iterator
    if len(values) != count:
        raise ValueError(f"expected columns of {count} rows, got one of {len(values)}")
    return values
