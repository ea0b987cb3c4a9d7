"""Producers: librdkafka for outputs, Faust's own (made idempotent) for ordinary Faust messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as RdProducer

from streams.clients.refusals import cause_of
from streams.errors import DeliveryFailed, KafkaUnavailable
from streams.transport.record_batch import RecordBatch
from streams.transport.upstream import DriverProducer, driver_logger

# How long librdkafka retries one message before it reports failure; then the worker stops and its input is read again.
DELIVERY_S_MAX = 60.0
# A batch of outputs leaves at once at low load; under load batches fill while the previous request is on its way.
LINGER_MS = 0.5
OUTPUT_RECORDS_MAX = 200_000
OUTPUT_KIB_MAX = 262_144

# Decisions do not wait for their delivery reports; commits and the bound on records in flight do.
DELIVERY_POLL_S = 0.005


class Producer(DriverProducer):
    """Faust's producer for ordinary topics and tables: acks=all and idempotent, always."""

    logger = driver_logger

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
class Delivery:
    """The outputs of one input batch, and who is told what became of them: exactly one of the three, once.

    Args:
        batch: the input.
        outputs: what to send, in order.
        confirmed: the broker holds all of them.
        abandoned: no reader will see them. The partition has passed to another assignment, which reads its records again.
        failed: they cannot be delivered; the worker must stop.
    """

    batch: RecordBatch
    outputs: Sequence[Outputs]
    confirmed: Callable[[], None]
    abandoned: Callable[[], None]
    failed: Callable[[DeliveryFailed], None]


class OutputSender:
    """librdkafka as outputs need it: `acks=all`, idempotent, keys placed as Java's and Faust's clients place them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.client = RdProducer(
            {
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": LINGER_MS,
                "batch.num.messages": 10_000,
                "queue.buffering.max.messages": OUTPUT_RECORDS_MAX,
                "queue.buffering.max.kbytes": OUTPUT_KIB_MAX,
                "delivery.timeout.ms": int(DELIVERY_S_MAX * 1000),
                "socket.nagle.disable": True,
                # The broker refuses a new transaction's first step while it still writes the end of the last one. The
                # default of 100 ms would be seen in each hundredth latency; the pause doubles with every refusal.
                "retry.backoff.ms": 2,
                **config,
            }
        )

    def send(self, outputs: Outputs, delivered: Callable[[KafkaError | None, Message], None] | None = None) -> None:
        """Hand records over; `delivered` is called for each by a later poll.

        Raises:
            DeliveryFailed: the client refuses a record, or its queue stays full.
        """
        produce, topic, partition = self.client.produce, outputs.topic, outputs.partition
        deadline = time.monotonic() + DELIVERY_S_MAX
        for value, key in zip(outputs.values, outputs.keys, strict=True):
            while True:
                try:
                    produce(topic, value, key, partition, delivered)
                    break
                except BufferError:
                    # Full: the broker is slower than the model. Waiting here is the back-pressure.
                    if time.monotonic() > deadline:
                        raise DeliveryFailed(
                            f"{topic}: outputs were not accepted for {DELIVERY_S_MAX:.0f} s; nothing of it is committed"
                        ) from None
                    self.client.poll(0.001)
                except KafkaException as exc:
                    raise DeliveryFailed(
                        f"{topic}: an output was refused: {cause_of(exc.args[0], self.client).str()}; nothing of it is committed"
                    ) from exc

    def partition_counts(self, topics: Sequence[str], timeout_s: float = 10.0) -> dict[str, int]:
        """Return the number of partitions of each topic that exists.

        Raises:
            KafkaUnavailable: the cluster does not answer.
        """
        try:
            known = self.client.list_topics(timeout=timeout_s).topics
        except KafkaException as exc:
            raise KafkaUnavailable(f"the cluster does not answer: {exc.args[0].str()}") from exc
        return {topic: len(known[topic].partitions) for topic in topics if topic in known}


@dataclass(slots=True)
class _Pending:
    """Counts the reports of one delivery."""

    delivery: Delivery
    left: int
    failed: bool = False

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and not self.failed:
            self.failed = True
            place = f"{message.topic()}[{message.partition()}]"
            self.delivery.failed(
                DeliveryFailed(
                    f"{place}: the broker did not confirm an output: {error.str()}; nothing of it is committed"
                )
            )
        self.left -= 1
        if self.left == 0 and not self.failed:
            self.delivery.confirmed()


class OutputProducer:
    """At least once: every record has its delivery report; a delivery is confirmed when all of its records are."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self._sender = OutputSender(config)
        self.partition_counts = self._sender.partition_counts

    async def run(self) -> None:
        """Handle the delivery reports as they come. On the loop: a thread of their own would fight for the lock."""
        while True:
            self._sender.client.poll(0)
            await asyncio.sleep(DELIVERY_POLL_S)

    def produce(self, delivery: Delivery) -> None:
        """Send; any thread. The delivery is told at once where there is nothing to send, else on the loop."""
        total = sum(len(each.values) for each in delivery.outputs)
        if total == 0:
            delivery.confirmed()
            return
        pending = _Pending(delivery, total)
        try:
            for each in delivery.outputs:
                self._sender.send(each, pending.delivered)
        except DeliveryFailed as exc:
            pending.failed = True
            delivery.failed(exc)

    def close(self, timeout_s: float) -> int:
        """Flush within the time given and stop; return how many records are left undelivered."""
        left: int = self._sender.client.flush(timeout_s)
        return left
