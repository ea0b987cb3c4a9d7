"""Publisher: answers and dead letters to Kafka, with the topics' names and partitions in one place."""

from __future__ import annotations

from collections.abc import Sequence

from streams.contract.columns import Rejection
from streams.contract.events import LETTER_KEY_BYTES_MAX
from streams.contract.letters import encode_dead_letter
from streams.contract.topics import MISSING, Topics
from streams.engine.answered import Answered
from streams.errors import KafkaUnavailable
from streams.transport.outputs.producer import Delivery, OutputProducer, Outputs
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.record_batch import RecordBatch


class Publisher:
    """Sends what the jobs answered.

    Raises:
        KafkaUnavailable: an output topic is missing.
    """

    def __init__(self, producer: OutputProducer | TransactionalProducer, topics: Topics) -> None:
        self._producer = producer
        self._dead_letters = topics.dead_letters.name
        names = [topic.name for topic in topics.outputs]
        self._partitions = producer.partition_counts(names)
        missing = [name for name in names if name not in self._partitions]
        if missing:
            raise KafkaUnavailable(f"topic {', '.join(missing)} {MISSING}")

    def outputs(self, batch: RecordBatch, answered: Answered) -> list[Outputs]:
        """Return the outputs of a batch: its answers, then its dead letters.

        Answers go to the input's partition, so that a key's answers stay in its order. Where the output topic has fewer
        partitions than the input's, the key decides.
        """
        outputs = []
        if answered.values:
            partition = batch.tp.partition
            within = partition < self._partitions[answered.topic.name]
            outputs.append(Outputs(answered.topic.name, answered.values, answered.keys, partition if within else -1))
        if answered.rejected:
            outputs.append(self.dead_letters(batch, answered.rejected))
        return outputs

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
        return Outputs(self._dead_letters, values, [key and key[:LETTER_KEY_BYTES_MAX] for key in keys])

    def publish(self, delivery: Delivery) -> None:
        """Send; the delivery receives the broker's report."""
        self._producer.produce(delivery)
