"""Fraud: every payment gets a score, a decision, a confidence and, when it is held up, reasons."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.features.cards import CardHistory
from models.features.history import HistoryGroup
from models.features.payments import FRAUD_FEATURES, PaymentFeatures
from models.features.seen import SeenRecords
from models.fraud.runner import FraudRunner
from streams.contract.columns import Limits, Transactions
from streams.contract.decoding import decode_transactions
from streams.contract.encoding import ModelName, Timing, encode_decisions
from streams.contract.events import Headers, Reason
from streams.contract.topics import DECISIONS as DECISIONS_TOPIC
from streams.contract.topics import TRANSACTIONS
from streams.engine.failover import Failover
from streams.engine.isolation import set_aside
from streams.engine.metrics import Metrics
from streams.engine.publishing import Publisher
from streams.policy.rules import Rules
from streams.policy.thresholds import Thresholds, confidence
from streams.policy.verdicts import APPROVE, DECISIONS, Verdicts
from streams.state.label_log import LabelLog
from streams.state.table import StateTable
from streams.transport.outputs.producer import Outputs
from streams.transport.record_batch import RecordBatch

if TYPE_CHECKING:
    from streams.worker.application import Application


def fraud_agent(app: Application) -> None:
    """Declare the agent that decides payments."""

    @app.agent(app.batched(TRANSACTIONS), name="fraud")
    async def decide_payments(stream):  # type: ignore[no-untyped-def]
        async for fetch in stream.noack():
            app.worker.fraud.submit(fetch)


class CardState(HistoryGroup):
    """What a partition's payments leave behind: the history of each card, and which payments it has seen."""

    def __init__(self, duplicates_horizon_ms: int) -> None:
        self.cards, self.seen = CardHistory(), SeenRecords(duplicates_horizon_ms)
        super().__init__(self.cards, self.seen)

    def without_duplicates(self, payments: Transactions, timestamps: Sequence[int]) -> Transactions:
        """Return the payments that were not seen before, each remembered now.

        Args:
            timestamps: of the records that the payments were decoded from, ms.
        """
        moments = np.array(timestamps, np.int64)[payments.accepted]
        return payments.without(self.seen.duplicates(payments.card_ids, payments.identities(), moments))


class CardReplay:
    """Applies payments to a partition's state without deciding them: how state is rebuilt from the log."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(
        self, state: CardState, values: list[bytes | None], timestamps: list[int], headers: list[Headers]
    ) -> None:
        payments = decode_transactions(values, now_ms=timestamps, limits=self._limits, headers=headers)
        payments = state.without_duplicates(payments, timestamps)
        state.cards.update(payments.card_ids, payments.event_times, payments.amounts, payments.again())


class FraudJob:
    """One micro-batch of payments: features, one forward pass, decisions."""

    name = "fraud"

    def __init__(
        self,
        runner: FraudRunner,
        cards: StateTable[CardState],
        labels: LabelLog,
        thresholds: Thresholds,
        rules: Rules,
        failover: Failover,
        reasons_max: int,
        limits: Limits,
        publisher: Publisher,
        metrics: Metrics,
    ) -> None:
        self._runner, self._cards, self._labels = runner, cards, labels
        self._thresholds, self._rules, self._failover = thresholds, rules, failover
        self._reasons_max, self._limits = reasons_max, limits
        self._publisher, self._metrics = publisher, metrics
        self._model = ModelName(runner.name, runner.version)
        self._degraded = metrics.degraded.labels(self.name)

    def decode(self, batch: RecordBatch) -> Transactions:
        return decode_transactions(batch.values, now_ms=batch.timestamps, limits=self._limits, headers=batch.headers)

    def is_quick(self, batches: Sequence[RecordBatch], payments: Sequence[Transactions]) -> bool:
        complete = all(self._labels.is_complete(columns.event_times) for columns in payments)
        return complete and self._cards.stands_before(batches)

    def run(self, batches: Sequence[RecordBatch], payments: Sequence[Transactions]) -> list[list[Outputs]]:
        """Return each batch's decisions and dead letters."""
        started = time.monotonic()
        features, payments = self._build_features(batches, payments)
        answers = self._failover(self._judge, features, self._judge_by_rules)
        if answers.culprits:
            payments = set_aside(payments, answers.culprits)
        verdicts = Verdicts.joined(answers.parts)
        words = [DECISIONS[each] for each in verdicts.decisions.tolist()]
        outputs, end = [], 0
        for batch, columns in zip(batches, payments, strict=True):
            begin, end = end, end + len(columns.accepted)
            values = encode_decisions(
                columns,
                verdicts.scores[begin:end],
                words[begin:end],
                verdicts.confidences[begin:end],
                verdicts.reasons[begin:end],
                self._model,
                Timing.since(batch.fetched_at, started),
                degraded=answers.degraded,
            )
            outputs.append(self._outputs(batch, columns, values))
        for decision, count in enumerate(np.bincount(verdicts.decisions, minlength=len(DECISIONS)).tolist()):
            self._metrics.decisions.labels(DECISIONS[decision]).inc(count)
        if answers.degraded:
            self._degraded.inc(end)
        return outputs

    def _build_features(
        self, batches: Sequence[RecordBatch], payments: Sequence[Transactions]
    ) -> tuple[NDArray[np.float32], list[Transactions]]:
        """Return the features of the payments that are no repeats, float32[B, F], and those payments by batch."""
        features = np.empty((sum(len(columns.accepted) for columns in payments), len(FRAUD_FEATURES)), np.float32)
        fresh, end = [], 0
        for batch, decoded in zip(batches, payments, strict=True):
            state = self._cards.at(batch)
            columns = state.without_duplicates(decoded, batch.timestamps)
            begin, end = end, end + len(columns.accepted)
            if end > begin:
                self._labels.wait_for(columns.event_times)
                with self._labels.lock:
                    PaymentFeatures(state.cards, self._labels.history).build(
                        columns.card_ids,
                        columns.terminal_ids,
                        columns.event_times,
                        columns.amounts,
                        features[begin:end],
                        columns.again(),
                    )
            self._cards.advance(batch)
            self._metrics.duplicates.labels(batch.tp.topic).inc(len(decoded.accepted) - len(columns.accepted))
            fresh.append(columns)
        return features[:end], fresh

    def _judge(self, features: NDArray[np.float32]) -> Verdicts:
        scores = self._runner.score(features)
        if not np.isfinite(scores).all():
            raise ArithmeticError("a score is not a finite number")
        decisions = self._thresholds.decide(scores)
        return Verdicts(decisions, scores.tolist(), confidence(scores).tolist(), self._reasons(features, decisions))

    def _judge_by_rules(self, features: NDArray[np.float32]) -> Verdicts:
        return self._rules.decide(features, self._reasons_max)

    def _reasons(self, features: NDArray[np.float32], decisions: NDArray[np.int64]) -> list[list[Reason]]:
        reasons: list[list[Reason]] = list(repeat([], len(decisions)))
        held = np.flatnonzero(decisions != APPROVE)
        if held.size and self._reasons_max:
            for row, parts in zip(held.tolist(), self._runner.reasons(features[held], self._reasons_max), strict=True):
                reasons[row] = [Reason(name, round(share, 6)) for name, share in parts]
        return reasons

    def _outputs(self, batch: RecordBatch, columns: Transactions, values: list[bytes]) -> list[Outputs]:
        keys: list[bytes | None] = [card.encode() for card in columns.card_ids]
        outputs = [self._publisher.decisions(batch, DECISIONS_TOPIC, values, keys)]
        if columns.rejected:
            outputs.append(self._publisher.dead_letters(batch, columns.rejected))
            for each in columns.rejected:
                self._metrics.rejected.labels(batch.tp.topic, each.code).inc()
        return outputs
