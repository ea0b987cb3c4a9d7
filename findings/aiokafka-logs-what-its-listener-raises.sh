#!/usr/bin/env bash
# Versions: aiokafka 0.14.0, confluent-kafka 2.16.1, Apache Kafka 4.3.1
# Question: what does a consumer do where the application's assignment callback raises?
# Guess: the next read raises it; without its state, the partition must not be read.
# Happens: confluent-kafka raises it from the read. aiokafka logs it and hands out the records of the partition.
# Here: a take-over that fails would be followed by decisions on a state that was never loaded.
# Live with it: the listener itself must stop the process, or mark the partition as not ready.
# Source: seen here; the same in the client that it comes from: https://github.com/dpkp/kafka-python/issues/917
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1 aiokafka==0.14.0

"$python" - <<'PY'
import asyncio
import logging
import os

import aiokafka
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

address = os.environ["BOOTSTRAP"]
client = {"bootstrap.servers": address}
admin = AdminClient(client)
admin.create_topics([NewTopic("input", 1, 1)])["input"].result(20)
producer = Producer(client)
producer.produce("input", b"payment")
producer.flush()
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Listener(aiokafka.ConsumerRebalanceListener):
    def on_partitions_assigned(self, assigned):
        raise LookupError("no state for this partition")

    def on_partitions_revoked(self, revoked):
        pass


async def by_aiokafka():
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=address, group_id="a", auto_offset_reset="earliest")
    consumer.subscribe(["input"], listener=Listener())
    await consumer.start()
    try:
        return (await asyncio.wait_for(consumer.getone(), 20)).value
    finally:
        await consumer.stop()


def by_confluent():
    def assigned(consumer, partitions):
        raise LookupError("no state for this partition")

    consumer = Consumer({**client, "group.id": "c", "auto.offset.reset": "earliest"})
    consumer.subscribe(["input"], on_assign=assigned)
    try:
        return consumer.poll(20)
    except LookupError as exc:
        return exc
    finally:
        consumer.close()


first, second = asyncio.run(by_aiokafka()), by_confluent()
print(f"aiokafka reads {first!r}; confluent-kafka raises {second!r}")
assert first == b"payment" and isinstance(second, LookupError)
PY
