"""Producer of a command: idempotent; it counts the broker's acknowledgements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException, Message

from streams.clients.connection import command_config, idempotent_producer
from streams.errors import DeliveryFailed
from streams.settings import Settings

# About 0.3 s at full speed: enough to keep the next batch of every partition ready, little enough to stop quickly.
QUEUE_RECORDS_MAX: Final = 100_000
# Fewer make the cost of a call show; more make the first record wait until the last one is encoded.
CALL_RECORDS_MAX: Final = 4_096
# A restarted cluster answers within a minute; after two, records count as failed instead of being kept for ever.
CONFIRM_S_MAX: Final = 120.0
GIVE_UP_S: Final = 2.0

BY_KEY: Final = -1  # librdkafka's PARTITION_UA

Headers = list[tuple[str, str | bytes | None]]


class Delivery:
    """An idempotent producer. `confirmed` counts records that all in-sync replicas hold.

    Attributes:
        topics: the public topics under their names on this cluster.
        sent: records queued.
        failed: records that were not delivered.

    The queue holds QUEUE_RECORDS_MAX records; `send` waits while it is full, which bounds memory and keeps order.
    """

    def __init__(self, settings: Settings, *, linger_ms: float = 5.0) -> None:
        self._producer = idempotent_producer(
            command_config(settings),
            **{
                "client.id": "streams-produce",
                "compression.type": "lz4",
                "linger.ms": linger_ms,
                "batch.num.messages": 10_000,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": QUEUE_RECORDS_MAX + CALL_RECORDS_MAX,
                "queue.buffering.max.kbytes": 1_048_576,
                "delivery.timeout.ms": int(CONFIRM_S_MAX * 1000),
                # Report failures only: a record that has left the queue without one is confirmed.
                "delivery.report.only.error": True,
                "on_delivery": self._failed_one,
                "error_cb": self._error,
            },
        )
        self.topics = settings.topics
        self.sent = 0
        self.failed = 0
        self.first_failure = ""
        self.last_error = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is None:
            self.flush()
        else:
            self.give_up()

    @property
    def waiting(self) -> int:
        """Records queued or sent, not yet confirmed or failed."""
        return len(self._producer)

    @property
    def confirmed(self) -> int:
        """Records that the broker has acknowledged."""
        return self.sent - self.failed - self.waiting

    def send(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        """Queue records in order; wait while the queue is full.

        Raises:
            DeliveryFailed: the producer cannot go on, because an idempotent sequence is broken.
        """
        for start in range(0, len(values), CALL_RECORDS_MAX):
            stop = start + CALL_RECORDS_MAX
            batch = [
                {"key": key, "value": value} for key, value in zip(keys[start:stop], values[start:stop], strict=True)
            ]
            while len(self._producer) > QUEUE_RECORDS_MAX:
                self._producer.poll(0.01)
            self.sent += len(batch)
            if self._producer.produce_batch(topic, batch) < len(batch):
                for message in batch:
                    if "_error" in message:
                        self._send_one(topic, message["key"], message["value"], [])
        self._producer.poll(0)

    def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, *, partition: int = BY_KEY
    ) -> None:
        """Queue one record with headers."""
        self.sent += 1
        self._send_one(topic, key, value, headers, partition)
        self._producer.poll(0)

    def poll(self, wait_s: float = 0.0) -> None:
        """Serve failure reports for up to `wait_s`."""
        self._producer.poll(wait_s)

    def flush(self) -> None:
        """Wait until every record is confirmed or failed.

        Raises:
            DeliveryFailed: a record is not confirmed.
        """
        deadline = time.monotonic() + CONFIRM_S_MAX
        while self._producer.flush(0.5) and time.monotonic() < deadline:
            pass
        if self.failed or self.waiting:
            raise DeliveryFailed(
                f"{self.failed + self.waiting:,} of {self.sent:,} records were not confirmed by the broker: "
                f"{self.first_failure or self.last_error or 'no answer'}; send them again"
            )

    def give_up(self) -> None:
        """Wait GIVE_UP_S for records under way: an interrupted command must not wait for a cluster that is gone."""
        self._producer.flush(GIVE_UP_S)

    def _send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int = BY_KEY
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.01)
            except KafkaException as exc:
                self._count_failure(topic, exc.args[0])
                return

    def _failed_one(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._count_failure(str(message.topic()), error)

    def _count_failure(self, topic: str, error: KafkaError) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or f"{topic}: {error.str()}"

    def _error(self, error: KafkaError) -> None:
        self.last_error = error.str()
        if error.fatal():
            raise DeliveryFailed(f"the producer cannot go on: {error.str()}")
