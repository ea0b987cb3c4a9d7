#!/usr/bin/env bash
# Versions: confluent-kafka 2.16.1, aiokafka 0.14.0, Apache Kafka 4.3.1
# Question: which timestamp has a record that was produced with timestamp 0?
# Guess: 0, the first millisecond of 1970, by every client.
# Happens: confluent-kafka stamps it with the present, since 0 means "now" to it; 1 stays 1. aiokafka writes 0.
# Here: a replay that counts its time from 0 would have one event of today among those of 1970, and a watermark that
#   jumps by decades.
# Live with it: begin simulated time above 0.
# Source: seen here; the reference of `Producer.produce` names 0 as the current time.
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1 aiokafka==0.14.0

"$python" - <<'PY'
import asyncio
import os

import aiokafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = os.environ["BOOTSTRAP"]
client = {"bootstrap.servers": address}
admin = AdminClient(client)
admin.create_topics([NewTopic("times", 1, 1)])["times"].result(20)
producer = Producer(client)
for stamp in (0, 1):
    producer.produce("times", f"confluent {stamp}", timestamp=stamp)
producer.flush()


async def produce():
    other = aiokafka.AIOKafkaProducer(bootstrap_servers=address)
    await other.start()
    for stamp in (0, 1):
        await other.send_and_wait("times", f"aiokafka {stamp}".encode(), timestamp_ms=stamp)
    await other.stop()


asyncio.run(produce())
consumer = Consumer({**client, "group.id": "reader"})
consumer.assign([TopicPartition("times", 0, 0)])
seen = {record.value().decode(): record.timestamp()[1] for record in consumer.consume(4, 20)}
consumer.close()
for name, stamp in seen.items():
    print(f"{name}: {stamp}")
assert seen.pop("confluent 0") > 1_700_000_000_000
assert seen == {"confluent 1": 1, "aiokafka 0": 0, "aiokafka 1": 1}
PY
