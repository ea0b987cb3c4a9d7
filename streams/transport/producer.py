"""Producers: librdkafka for outputs, Faust's own (made idempotent) for ordinary Faust messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as RdProducer
from faust.transport.drivers import aiokafka as driver

from streams.errors import DeliveryFailed

# How long librdkafka retries one message before it reports failure; then the worker stops and its input is read again.
DELIVERY_S_MAX = 60.0
# A batch of outputs leaves at once at low load; under load batches fill while the previous request is on its way.
LINGER_MS = 0.5
# A dead letter holds its record's bytes in base64: a third more than the 1 MiB that brokers accept by default.
OUTPUT_BYTES_MAX = 2 * 1024 * 1024
OUTPUT_RECORDS_MAX = 200_000
OUTPUT_KIB_MAX = 262_144

Confirmed = Callable[[], None]
Failed = Callable[[DeliveryFailed], None]


class Producer(driver.Producer):
    """Faust's producer for ordinary topics and tables: acks=all and idempotent, always."""

    logger = driver.logger

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


@dataclass(slots=True)
class Outputs:
    """Records for one topic. A partition of -1 leaves the choice to the key."""

    topic: str
    values: Sequence[bytes]
    keys: Sequence[bytes | None]
    partition: int = -1


@dataclass(slots=True)
class _Pending:
    """Counts the deliveries of one `produce` call."""

    left: int
    confirmed: Confirmed
    failed: Failed
    errors: list[KafkaError] = field(default_factory=list)

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and not self.errors:
            self.errors.append(error)
            place = f"{message.topic()}[{message.partition()}]"
            self.failed(
                DeliveryFailed(
                    f"{place}: the broker did not confirm an output: {error.str()}; nothing of it is committed"
                )
            )
        self.left -= 1
        if self.left == 0 and not self.errors:
            self.confirmed()


class OutputProducer:
    """Idempotent librdkafka producer: `acks=all`, keys placed as Java's and Faust's clients place them.

    Every record has its delivery report; a call is confirmed when all of its records are.
    """

    def __init__(self, config: Mapping[str, str]) -> None:
        self._producer = RdProducer(
            {
                **config,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": LINGER_MS,
                "message.max.bytes": OUTPUT_BYTES_MAX,
                "batch.num.messages": 10_000,
                "queue.buffering.max.messages": OUTPUT_RECORDS_MAX,
                "queue.buffering.max.kbytes": OUTPUT_KIB_MAX,
                "delivery.timeout.ms": int(DELIVERY_S_MAX * 1000),
                "socket.nagle.disable": True,
            }
        )

    def poll(self) -> None:
        """Handle the delivery reports that have come. For the loop's thread: a thread of its own would fight for the lock."""
        self._producer.poll(0)

    def produce(self, outputs: Sequence[Outputs], confirmed: Confirmed, failed: Failed) -> None:
        """Send the outputs of one input batch. Any thread.

        Args:
            outputs: what to send, in order.
            confirmed: called once, by a `poll`, when the broker holds all of them; at once if there are none.
            failed: called once, by a `poll` or at once, when one cannot be delivered.
        """
        total = sum(len(each.values) for each in outputs)
        if total == 0:
            confirmed()
            return
        pending = _Pending(total, confirmed, failed)
        for each in outputs:
            try:
                self._produce(each, pending.delivered)
            except KafkaException as exc:
                error: KafkaError = exc.args[0]
                failed(
                    DeliveryFailed(f"{each.topic}: an output was refused: {error.str()}; nothing of it is committed")
                )
                return

    def _produce(self, outputs: Outputs, delivered: Callable[[KafkaError | None, Message], None]) -> None:
        produce, topic, partition = self._producer.produce, outputs.topic, outputs.partition
        deadline = time.monotonic() + DELIVERY_S_MAX
        records = iter(zip(outputs.values, outputs.keys, strict=True))
        for value, key in records:
            while True:
                try:
                    produce(topic, value, key, partition, delivered)
                    break
                except BufferError:
                    # Full: the broker is slower than the model. Waiting here is the back-pressure.
                    if time.monotonic() > deadline:
                        raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
                    self._producer.poll(0.001)

    def partition_counts(self, topics: Sequence[str], timeout_s: float = 10.0) -> dict[str, int]:
        """Return the number of partitions of each topic that exists.

        Raises:
            DeliveryFailed: the cluster does not answer.
        """
        try:
            known = self._producer.list_topics(timeout=timeout_s).topics
        except KafkaException as exc:
            raise DeliveryFailed(f"the cluster does not answer: {exc.args[0].str()}") from exc
        return {topic: len(known[topic].partitions) for topic in topics if topic in known}

    def __len__(self) -> int:
        return len(self._producer)

    def close(self, timeout_s: float) -> int:
        """Flush within the time given and stop; return how many records are left undelivered."""
        left: int = self._producer.flush(timeout_s)
        return left
