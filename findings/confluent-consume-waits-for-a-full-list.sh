#!/usr/bin/env bash
# Versions: confluent-kafka 2.16.1, aiokafka 0.14.0, Apache Kafka 4.3.1
# Question: when does `Consumer.consume(10, timeout=2)` return where 3 records are there?
# Guess: at once with the 3, as `poll` of Java's client and `getmany` of aiokafka do; the timeout is for an empty topic.
# Happens: after the whole 2 s, with the 3. It waits for the full list until the timeout. aiokafka answers in milliseconds.
# Here: each read of a quiet topic would cost its timeout: labels, the tail of a restore, the terminal view.
# Live with it: `poll(timeout)` for the first record, then `consume(n, 0)` for those behind it.
# Source: seen here; the reference says that `timeout` is the "maximum time to block waiting for message".
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1 aiokafka==0.14.0

"$python" - <<'PY'
import asyncio
import os
import time

import aiokafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = os.environ["BOOTSTRAP"]
client = {"bootstrap.servers": address}
admin = AdminClient(client)
admin.create_topics([NewTopic("quiet", 1, 1)])["quiet"].result(20)
producer = Producer(client)
for value in (b"warm", b"1", b"2", b"3"):
    producer.produce("quiet", value)
producer.flush()


def by_confluent(read):
    consumer = Consumer({**client, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition("quiet", 0, 0)])
    assert consumer.poll(30).value() == b"warm"
    began = time.monotonic()
    records = read(consumer)
    took_s = time.monotonic() - began
    consumer.close()
    return len(records), took_s


async def by_aiokafka():
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    place = aiokafka.TopicPartition("quiet", 0)
    await consumer.start()
    consumer.assign([place])
    consumer.seek(place, 0)
    await consumer.getone()
    began = time.monotonic()
    found = await consumer.getmany(timeout_ms=2000, max_records=10)
    took_s = time.monotonic() - began
    await consumer.stop()
    return sum(map(len, found.values())), took_s


full = by_confluent(lambda consumer: consumer.consume(10, 2.0))
first = by_confluent(lambda consumer: [consumer.poll(2.0), *consumer.consume(9, 0)])
other = asyncio.run(by_aiokafka())
for name, (count, took_s) in {"consume(10, 2)": full, "poll, consume(9, 0)": first, "aiokafka getmany": other}.items():
    print(f"{name:>20}: {count} records after {took_s:.3f} s")
assert full[0] == 3 and full[1] > 1.9
assert first[1] < 1 and other[0] == 3 and other[1] < 1
PY
