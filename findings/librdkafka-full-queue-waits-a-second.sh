#!/usr/bin/env bash
# Versions: confluent-kafka 2.16.1 (librdkafka 2.16), Apache Kafka 4.3.1
# Question: how long does a consumer pause whose local queue was full for a moment?
# Guess: until the queue has room again; a small `queued.min.messages` saves memory and costs little.
# Happens: the partition is not asked again for a whole second, however soon the queue is empty. 20,000 records take
#   seconds in place of a fraction of one. The pause has a setting of its own, `fetch.queue.backoff.ms`.
# Here: a restore reads with a small queue, and this second was two thirds of it.
# Live with it: set `fetch.queue.backoff.ms` (5 ms here) wherever the queue is bounded.
# Source: https://github.com/confluentinc/librdkafka/issues/2879
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1

"$python" - <<'PY'
import os
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

RECORDS = 20_000
client = {"bootstrap.servers": os.environ["BOOTSTRAP"]}
admin = AdminClient(client)
admin.create_topics([NewTopic("queue", 1, 1)])["queue"].result(20)
producer = Producer(client)
for _ in range(RECORDS):
    producer.produce("queue", b"x" * 200)
producer.flush()


def read(settings):
    consumer = Consumer({**client, "group.id": "reader", "enable.auto.commit": False, **settings})
    consumer.assign([TopicPartition("queue", 0, 0)])
    assert consumer.poll(30) is not None
    began = time.monotonic()
    for _ in range(RECORDS - 1):
        assert consumer.poll(30) is not None
    took_s = time.monotonic() - began
    consumer.close()
    print(f"{took_s:5.2f} s with {settings}")
    return took_s


small = {"queued.min.messages": 1000}
paused_s = read(small)
short_s = read({**small, "fetch.queue.backoff.ms": 5})
assert paused_s > 2 and paused_s > 3 * short_s
PY
