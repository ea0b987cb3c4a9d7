"""StateWriter: a checkpoint's rows and marker in one Kafka transaction, fenced by the group's generation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as RdProducer

from streams.errors import DeliveryFailed
from streams.transport.transactions import GroupMember

TRANSACTION_S_MAX = 30.0
# Rows are handed over in slices with a pause: a checkpoint may take its time, decisions may not wait for the interpreter.
SLICE_ROWS = 128
SLICE_PAUSE_S = 0.001


class StateWriter:
    """One transactional producer of a worker, for the rows of its feature state."""

    def __init__(self, config: Mapping[str, str], transactional_id: str) -> None:
        self._producer = RdProducer(
            {
                **config,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(TRANSACTION_S_MAX * 1000),
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 5,
            }
        )
        self._ready = False

    def write(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        member: GroupMember,
        position: int,
    ) -> int:
        """Write rows to one partition, all or none, and return how many.

        Args:
            rows: key and payload; None is a tombstone.
            member: the writer under its present generation.
            position: goes into the transaction as the group's offset of the state topic's partition. Nobody reads it
                there; the broker checks the generation with it, and so fences a worker that lost the partition.

        Raises:
            DeliveryFailed: the transaction did not commit; none of its rows will be read.
        """
        producer, count = self._producer, 0
        try:
            if not self._ready:
                producer.init_transactions(TRANSACTION_S_MAX)
                self._ready = True
            producer.begin_transaction()
            for key, payload in rows:
                while True:
                    try:
                        producer.produce(topic, payload, key, partition)
                        break
                    except BufferError:
                        producer.poll(0.01)
                count += 1
                if count % SLICE_ROWS == 0:
                    time.sleep(SLICE_PAUSE_S)
            where = TopicPartition(topic, partition, position)
            producer.send_offsets_to_transaction([where], member.metadata(), TRANSACTION_S_MAX)
            producer.commit_transaction(TRANSACTION_S_MAX)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            if error.txn_requires_abort():
                producer.abort_transaction(TRANSACTION_S_MAX)
            raise DeliveryFailed(f"{topic}[{partition}]: the checkpoint was not written: {error.str()}") from exc
        return count
