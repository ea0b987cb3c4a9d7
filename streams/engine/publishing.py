"""Publisher: decisions and dead letters to Kafka, with the topics' names and partitions in one place."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import msgspec

from streams.contract.decoding import Clicks, Rejection, Transactions, encode_dead_letter
from streams.contract.events import LETTER_KEY_BYTES_MAX, Decision, RankedItem, Reason, Recommendation, Timings
from streams.contract.topics import DEAD_LETTERS, DECISIONS, MISSING, RECOMMENDATIONS, Topic
from streams.errors import KafkaUnavailable
from streams.transport.outputs.producer import Delivery, OutputProducer, Outputs
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.record_batch import RecordBatch

DESTINATIONS = (DECISIONS, RECOMMENDATIONS, DEAD_LETTERS)
_JSON: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ModelName:
    """Which model decided: goes into every decision."""

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
        """Return what the output says of it."""
        return Timings(self.queue_ms, self.inference_ms)


class Publisher:
    """Sends what the jobs made."""

    def __init__(self, producer: OutputProducer | TransactionalProducer) -> None:
        self._producer = producer
        names = [topic.name for topic in DESTINATIONS]
        self._partitions = producer.partition_counts(names)
        missing = [name for name in names if name not in self._partitions]
        if missing:
            raise KafkaUnavailable(f"topic {', '.join(missing)} {MISSING}")

    def decisions(self, batch: RecordBatch, topic: Topic, values: list[bytes], keys: list[bytes | None]) -> Outputs:
        """Return the outputs of a batch: to the input's partition, so that a key's decisions stay in its order.

        Where the output topic has fewer partitions than the input's, the key decides.
        """
        partition = batch.tp.partition if batch.tp.partition < self._partitions[topic.name] else -1
        return Outputs(topic.name, values, keys, partition)

    def dead_letters(self, batch: RecordBatch, rejected: Sequence[Rejection]) -> Outputs:
        """Return the dead letters of a batch: place, reason, and the original bytes as far as they fit."""
        values = [
            encode_dead_letter(
                topic=batch.tp.topic,
                partition=batch.tp.partition,
                offset=batch.offsets[each.position],
                key=batch.keys[each.position],
                value=batch.values[each.position],
                stage=each.stage,
                code=each.code,
                message=each.message,
            )
            for each in rejected
        ]
        keys = [batch.keys[each.position] for each in rejected]
        return Outputs(DEAD_LETTERS.name, values, [key and key[:LETTER_KEY_BYTES_MAX] for key in keys])

    def publish(self, delivery: Delivery) -> None:
        """Send; the delivery is told what became of it."""
        self._producer.produce(delivery)


def encode_decisions(
    columns: Transactions,
    scores: Sequence[float | None],
    decisions: Sequence[str],
    confidences: Sequence[float | None],
    reasons: Sequence[list[Reason]],
    model: ModelName,
    timing: Timing,
    *,
    degraded: bool = False,
) -> list[bytes]:
    """Return the JSON values of `fraud-decisions`, one a transaction (`streams.contract.events.Decision`)."""
    ids, count = columns.transaction_ids, len(columns.transaction_ids)
    return _encoded(
        count,
        map(
            Decision,
            [transaction_id + model.suffix for transaction_id in ids], ids, columns.card_ids, columns.terminal_ids,
            columns.amounts.tolist(), columns.event_times.tolist(), scores, decisions, confidences, reasons,
            repeat(model.name), repeat(model.version), repeat(timing.decided_at), repeat(timing.timings),
            repeat("rules" if degraded else "model"), repeat(degraded),
        ),
    )  # fmt: skip


def encode_recommendations(
    columns: Clicks,
    item_ids: Sequence[list[str]],
    scores: Sequence[list[float]],
    strategies: Sequence[str],
    model: ModelName,
    timing: Timing,
    *,
    degraded: bool = False,
) -> list[bytes]:
    """Return the JSON values of `recommendations`, one a click (`streams.contract.events.Recommendation`)."""
    ids, count = columns.event_ids, len(columns.event_ids)
    named = [list(map(RankedItem, items, each)) for items, each in zip(item_ids, scores, strict=True)]
    return _encoded(
        count,
        map(
            Recommendation,
            [event_id + model.suffix for event_id in ids], ids, columns.session_ids, named, strategies,
            [min(1.0, sum(each)) for each in scores], repeat(model.name), repeat(model.version),
            columns.event_times.tolist(), repeat(timing.decided_at), repeat(timing.timings), repeat(degraded),
        ),
    )  # fmt: skip


def _encoded(count: int, answers: Iterable[Decision] | Iterable[Recommendation]) -> list[bytes]:
    """Return the JSON of each, in one call: a call for each costs as much as the JSON."""
    values = _JSON.encode_lines(list(answers)).splitlines()  # msgspec 0.22 never lets go of an iterator
    if len(values) != count:
        raise ValueError(f"expected columns of {count} rows, got one of {len(values)}")
    return values
