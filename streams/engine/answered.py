"""Answered: a job's result for one batch. The pipeline sends it; a job never sees a producer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.contract.columns import Rejection
from streams.contract.topics import Topic


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to the records of one batch.

    Attributes:
        topic: where the answers go.
        keys: Kafka key of each answer.
        values: JSON value of each answer, in the order of the records.
        rejected: records that have a dead letter instead.
        repeats: records skipped because they were answered before; None where the job does not look for repeats.
    """

    topic: Topic
    keys: Sequence[bytes]
    values: Sequence[bytes]
    rejected: Sequence[Rejection] = ()
    repeats: int | None = None
