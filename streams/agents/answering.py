"""Answering: the shared run of jobs whose records a model answers. A job supplies features, judge, stand-in, encoding."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.features.seen import SeenRecords
from streams.contract.columns import Decidable, Limits
from streams.contract.encoding import Made, ModelName, Timing
from streams.contract.topics import Topic
from streams.engine.answered import Answered
from streams.engine.failover import Answers, Failover
from streams.engine.isolation import set_aside
from streams.engine.metrics import Metrics
from streams.engine.slot import ModelSlot
from streams.state.table import StateTable
from streams.transport.record_batch import RecordBatch


class Named(Protocol):
    """A model with the name and version that decisions carry."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


C = TypeVar("C", bound=Decidable)  # columns of a batch
S = TypeVar("S", bound="RemembersRecords")  # state of a partition
M = TypeVar("M", bound=Named)  # model
A = TypeVar("A")  # answers to consecutive rows


class RemembersRecords:
    """State of a partition that recognises a repeated record."""

    seen: SeenRecords

    def without_duplicates(self, columns: C, timestamps: Sequence[int]) -> C:
        """Return the rows not seen before, and remember their ids.

        Args:
            timestamps: of the records that the columns were decoded from, ms.
        """
        moments = np.array(timestamps, np.int64)[columns.accepted]
        return columns.without(self.seen.duplicates(columns.kafka_keys(), columns.identities(), moments))


class AnsweringJob(ABC, Generic[C, S, M, A]):
    """One micro-batch: features, one forward pass, answers (`streams.engine.pipeline.Job`).

    Args:
        slot: the model, read once a micro-batch.
        table: state of the partitions.
        failover: calls the model, or the stand-in while it fails.
        output: topic of the answers.
        limits: bounds on a record.
        metrics: counts the answers.
    """

    name: str

    def __init__(
        self,
        slot: ModelSlot[M],
        table: StateTable[Any],
        failover: Failover,
        *,
        output: Topic,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.slot, self.failover = slot, failover
        self._table, self._output, self._limits, self._metrics = table, output, limits, metrics

    @abstractmethod
    def decode(self, batch: RecordBatch) -> C:
        """Return the columns of a batch."""

    @abstractmethod
    def features(self, model: M, state: S, columns: C) -> tuple[NDArray[Any], Any]:
        """Update the state by the rows of a batch; return the model's input, [B, ...], and the data that `join` needs."""

    @abstractmethod
    def judge(self, model: M, rows: NDArray[Any]) -> A:
        """Return the model's answers to rows; raise where it fails."""

    @abstractmethod
    def stand_in(self, model: M, rows: NDArray[Any]) -> A:
        """Return the answers without the model; never fails."""

    @abstractmethod
    def join(self, model: M, answers: Answers[A], beside: list[Any]) -> A:
        """Return the answers to all rows but the culprits; `beside` holds the second result of `features` for each batch."""

    @abstractmethod
    def encode(self, columns: C, answer: A, rows: slice, made: Made) -> list[bytes]:
        """Return the output values of a batch, whose rows are `rows` of the answer."""

    @abstractmethod
    def count(self, answer: A) -> None:
        """Count the answers by kind."""

    def is_quick(self, batches: Sequence[RecordBatch], decoded: Sequence[C]) -> bool:
        """Tell whether `run` needs no restore of state."""
        return self._table.stands_before(batches)

    def prepare(self, decoded: Sequence[C]) -> None:
        """Do nothing: `run` restores the state where a batch needs it."""

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[C]) -> list[Answered]:
        """Return the answers to each batch, in the order given, all by one model or all without it."""
        started = time.monotonic()
        model = self.slot.current
        parts, beside, fresh = [], [], []
        for batch, columns in zip(batches, decoded, strict=True):
            state: S = self._table.at(batch)
            new = state.without_duplicates(columns, batch.timestamps)
            rows, rest = self.features(model, state, new)
            self._table.advance(batch)
            parts.append(rows)
            beside.append(rest)
            fresh.append(new)
        repeats = [len(a.accepted) - len(b.accepted) for a, b in zip(decoded, fresh, strict=True)]
        asked = parts[0] if len(parts) == 1 else np.concatenate(parts)
        answers = self.failover(partial(self.judge, model), asked, partial(self.stand_in, model))
        if answers.culprits:
            fresh = set_aside(fresh, answers.culprits)
        answer = self.join(model, answers, beside)
        named = ModelName(model.name, model.version)
        answered, end = [], 0
        for batch, columns, count in zip(batches, fresh, repeats, strict=True):
            begin, end = end, end + len(columns.accepted)
            made = Made(named, Timing.since(batch.fetched_at, started), answers.degraded)
            values = self.encode(columns, answer, slice(begin, end), made)
            keys = [key.encode() for key in columns.kafka_keys()]
            answered.append(Answered(self._output, keys, values, columns.rejected, count))
        self.count(answer)
        if answers.degraded:
            self._metrics.degraded.labels(self.name).inc(end)
        return answered
