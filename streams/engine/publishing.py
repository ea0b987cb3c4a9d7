"""Publisher: decisions and dead letters to Kafka, with the topics' names and partitions in one place."""

from __future__ import annotations

from collections.abc import Sequence

from streams.contract.columns import Rejection
from streams.contract.events import LETTER_KEY_BYTES_MAX
from streams.contract.letters import encode_dead_letter
from streams.contract.topics import DEAD_LETTERS, DECISIONS, MISSING, RECOMMENDATIONS, Topic
from streams.errors import KafkaUnavailable
from streams.transport.outputs.producer import Delivery, OutputProducer, Outputs
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.record_batch import RecordBatch

DESTINATIONS = (DECISIONS, RECOMMENDATIONS, DEAD_LETTERS)


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
