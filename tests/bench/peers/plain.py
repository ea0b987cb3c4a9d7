"""A plain confluent-kafka loop: batches as they come, librdkafka's producer, commits after confirmed outputs."""

from __future__ import annotations

import signal
import time
from types import FrameType

from confluent_kafka import Consumer, KafkaException, Message, Producer
from job import BATCH_RECORDS_MAX, COMMIT_INTERVAL_S, decide, options


def main() -> None:
    asked = options()
    running = True
    consumer = Consumer(
        {
            "bootstrap.servers": asked.bootstrap,
            "group.id": asked.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": asked.bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 0 if asked.low_latency else 5,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
        }
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal running
        running = False

    def failed(error: object, _message: Message) -> None:
        # An output that is not confirmed must stop the loop before its input's offset is committed.
        raise SystemExit(f"delivery failed: {error}")

    def commit() -> None:
        if producer.flush(30):
            raise SystemExit("outputs were not confirmed within 30 s")
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as exc:
            if exc.args[0].name() != "_NO_OFFSET":
                raise

    signal.signal(signal.SIGTERM, stop)
    consumer.subscribe([asked.input], on_revoke=lambda _consumer, _partitions: commit())
    committed = time.monotonic()
    while running:
        first = consumer.poll(0.1)
        if first is not None:
            # Records fetched already join the first one; nothing waits for a batch to fill.
            messages = [first, *consumer.consume(BATCH_RECORDS_MAX - 1, 0)]
            for message in messages:
                if message.error() is not None:
                    raise SystemExit(f"{message.topic()}: {message.error()}")
            keys, values = decide([message.value() for message in messages])
            outputs = [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
            if producer.produce_batch(asked.output, outputs, on_delivery=failed) != len(outputs):
                raise SystemExit("the producer's queue is full")
            producer.poll(0)
        if time.monotonic() - committed >= COMMIT_INTERVAL_S:
            commit()
            committed = time.monotonic()
    commit()
    consumer.close()


main()
