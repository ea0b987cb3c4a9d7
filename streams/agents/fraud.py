"""Fraud: every payment gets a score, a decision, a confidence and, unless it is approved, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features.cards import CardHistory
from models.features.history import HistoryGroup
from models.features.payments import FRAUD_FEATURES, PaymentFeatures
from models.features.seen import SeenRecords
from models.fraud.runner import FraudRunner
from streams.agents.answering import AnsweringJob, RemembersRecords
from streams.contract.columns import Limits, Transactions
from streams.contract.decoding import decode_transactions
from streams.contract.encoding import Made, encode_decisions
from streams.contract.events import Headers, Reason
from streams.engine.failover import Answers
from streams.policy.rules import Rules
from streams.policy.thresholds import Thresholds, confidence
from streams.policy.verdicts import APPROVE, DECISIONS, Verdicts
from streams.state.label_log import LabelLog
from streams.transport.record_batch import RecordBatch


class CardState(RemembersRecords, HistoryGroup):
    """State of a partition's payments: the history of each card, and the ids of the payments seen."""

    def __init__(self, duplicates_horizon_ms: int) -> None:
        self.cards, self.seen = CardHistory(), SeenRecords(duplicates_horizon_ms)
        super().__init__(self.cards, self.seen)


class CardReplay:
    """Rebuilds a partition's state from the log: applies payments without deciding them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(
        self, state: CardState, values: list[bytes | None], timestamps: list[int], headers: list[Headers]
    ) -> None:
        payments = decode_transactions(values, now_ms=timestamps, limits=self._limits, headers=headers)
        payments = state.without_duplicates(payments, timestamps)
        state.cards.update(payments.card_ids, payments.event_times, payments.amounts, payments.is_retry())


@dataclass(frozen=True, slots=True)
class FraudModel:
    """A fraud artifact in service: its runner, and the thresholds that go with its scores."""

    runner: FraudRunner
    thresholds: Thresholds

    @property
    def name(self) -> str:
        """Name of the artifact."""
        return self.runner.name

    @property
    def version(self) -> str:
        """Version of the artifact."""
        return self.runner.version


class FraudJob(AnsweringJob[Transactions, CardState, FraudModel, Verdicts]):
    """Decides payments by the model, or by rules while it fails.

    Args:
        labels: outcomes of earlier payments, for the terminals' features.
        rules: decide while the model fails.
        reasons_max: reasons named with a review or a decline.
        shared: as for `AnsweringJob`.
    """

    name = "fraud"

    def __init__(self, *args: Any, labels: LabelLog, rules: Rules, reasons_max: int, **shared: Any) -> None:
        super().__init__(*args, **shared)
        self._labels, self._rules, self._reasons_max = labels, rules, reasons_max

    def decode(self, batch: RecordBatch) -> Transactions:
        return decode_transactions(batch.values, now_ms=batch.timestamps, limits=self._limits, headers=batch.headers)

    def is_quick(self, batches: Sequence[RecordBatch], decoded: Sequence[Transactions]) -> bool:
        """Tell whether `run` needs no further label and no restore of state."""
        complete = all(self._labels.is_complete(payments.event_times) for payments in decoded)
        return complete and super().is_quick(batches, decoded)

    def prepare(self, decoded: Sequence[Transactions]) -> None:
        """Wait for every label that a payment of the batch may see."""
        for payments in decoded:
            self._labels.wait_for(payments.event_times)

    def features(self, model: FraudModel, state: CardState, columns: Transactions) -> tuple[NDArray[np.float32], None]:
        rows = np.empty((len(columns.accepted), len(FRAUD_FEATURES)), np.float32)
        if len(rows):
            with self._labels.lock:
                PaymentFeatures(state.cards, self._labels.history).build(
                    columns.card_ids,
                    columns.terminal_ids,
                    columns.event_times,
                    columns.amounts,
                    rows,
                    columns.is_retry(),
                )
        return rows, None

    def judge(self, model: FraudModel, rows: NDArray[np.float32]) -> Verdicts:
        scores = model.runner.score(rows)
        if not np.isfinite(scores).all():
            raise ArithmeticError("a score is not a finite number")
        decisions = model.thresholds.decide(scores)
        reasons = self._reasons(model.runner, rows, decisions)
        return Verdicts(decisions, scores.tolist(), confidence(scores).tolist(), reasons)

    def stand_in(self, model: FraudModel, rows: NDArray[np.float32]) -> Verdicts:
        return self._rules.decide(rows, self._reasons_max)

    def join(self, model: FraudModel, answers: Answers[Verdicts], beside: list[None]) -> Verdicts:
        return Verdicts.joined(answers.parts)

    def encode(self, columns: Transactions, answer: Verdicts, rows: slice, made: Made) -> list[bytes]:
        return encode_decisions(
            columns,
            made,
            scores=answer.scores[rows],
            decisions=[DECISIONS[each] for each in answer.decisions[rows].tolist()],
            confidences=answer.confidences[rows],
            reasons=answer.reasons[rows],
        )

    def count(self, answer: Verdicts) -> None:
        for decision, count in enumerate(np.bincount(answer.decisions, minlength=len(DECISIONS)).tolist()):
            self._metrics.decisions.labels(DECISIONS[decision]).inc(count)

    def _reasons(
        self, runner: FraudRunner, rows: NDArray[np.float32], decisions: NDArray[np.int64]
    ) -> list[list[Reason]]:
        reasons: list[list[Reason]] = list(repeat([], len(decisions)))
        held = np.flatnonzero(decisions != APPROVE)
        if held.size and self._reasons_max:
            for row, parts in zip(held.tolist(), runner.reasons(rows[held], self._reasons_max), strict=True):
                reasons[row] = [Reason(name, round(share, 6)) for name, share in parts]
        return reasons
