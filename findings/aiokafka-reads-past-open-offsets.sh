#!/usr/bin/env bash
# Versions: aiokafka 0.14.0, confluent-kafka 2.16.1 (librdkafka 2.16), Apache Kafka 4.3.1
# Question: which committed offset does a client see while a transaction that carries offsets of the group is open?
# Guess: none yet; a read_committed client waits for the end of the transaction, as Java's does since KIP-447.
# Happens: librdkafka waits (here until its time-out). aiokafka answers with the older offset at once, whatever its
#   isolation level. Once the transaction has committed, both say the new one.
# Here: a worker that takes a partition over between a commit and its markers would begin at the older offset, and
#   decide again what is decided already.
# Live with it: ask for committed offsets by librdkafka before a take-over, and have the former owner's transaction ended first.
# Source: seen here; the flag that is missing is require_stable of OffsetFetch, version 7 (KIP-447)
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1 aiokafka==0.14.0

"$python" - <<'PY'
import asyncio
import os
import time

import aiokafka
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = os.environ["BOOTSTRAP"]
client = {"bootstrap.servers": address}
admin = AdminClient(client)
admin.create_topics([NewTopic("input", 1, 1)])["input"].result(20)
consumer = Consumer({**client, "group.id": "workers", "enable.auto.commit": False})
consumer.assign([TopicPartition("input", 0, 0)])
consumer.commit(offsets=[TopicPartition("input", 0, 1)], asynchronous=False)


def of_librdkafka():
    try:
        return consumer.committed([TopicPartition("input", 0)], timeout=3)[0].offset
    except KafkaException as exc:
        return exc.args[0].name()


async def of_aiokafka():
    other = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=address, group_id="workers", enable_auto_commit=False, isolation_level="read_committed"
    )
    await other.start()
    place = aiokafka.TopicPartition("input", 0)
    other.assign([place])
    offset = await other.committed(place)
    await other.stop()
    return offset


writer = Producer({**client, "transactional.id": "writer"})
writer.init_transactions(30)
writer.begin_transaction()
writer.send_offsets_to_transaction([TopicPartition("input", 0, 3)], consumer.consumer_group_metadata())
opened = asyncio.run(of_aiokafka()), of_librdkafka()
writer.commit_transaction()
deadline_s = time.monotonic() + 20
while (ended := (asyncio.run(of_aiokafka()), of_librdkafka())) != (3, 3) and time.monotonic() < deadline_s:
    time.sleep(0.1)
print(f"while the transaction is open: aiokafka {opened[0]}, librdkafka {opened[1]}")
print(f"after its commit: aiokafka {ended[0]}, librdkafka {ended[1]}")
assert opened == (1, "_TIMED_OUT") and ended == (3, 3)
PY
