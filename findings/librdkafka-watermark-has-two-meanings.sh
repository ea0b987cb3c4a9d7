#!/usr/bin/env bash
# Versions: confluent-kafka 2.16.1 (librdkafka 2.16), Apache Kafka 4.3.1
# Question: what is the high end of `Consumer.get_watermark_offsets` while a transaction is open?
# Guess: the log's end, or for a read_committed consumer the last stable offset; `cached=True` saves the request only.
# Happens: asked of the broker, a read_committed consumer gets the last stable offset; cached, the log's end. The two
#   differ for as long as the transaction is open, for one consumer at one moment.
# Here: "read up to the end" must mean what the reader can reach. By the cached end it waits for the foreign
#   transaction; by the asked one it is done.
# Live with it: ask (`get_watermark_offsets` without cache, or `offsets_for_times`) with the isolation of the reader.
# Source: seen here
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1

"$python" - <<'PY'
import os

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

client = {"bootstrap.servers": os.environ["BOOTSTRAP"]}
admin = AdminClient(client)
admin.create_topics([NewTopic("ends", 1, 1)])["ends"].result(20)
plain = Producer(client)
plain.produce("ends", b"before")
plain.flush()
writer = Producer({**client, "transactional.id": "writer"})
writer.init_transactions(30)
writer.begin_transaction()
writer.produce("ends", b"open")
writer.flush()
plain.produce("ends", b"behind")
plain.flush()
place = TopicPartition("ends", 0, 0)
seen = {}
for isolation in ("read_committed", "read_uncommitted"):
    consumer = Consumer({**client, "group.id": "reader", "isolation.level": isolation})
    consumer.assign([place])
    assert consumer.poll(30).value() == b"before"
    asked = consumer.get_watermark_offsets(place)[1]
    cached = consumer.get_watermark_offsets(place, cached=True)[1]
    consumer.close()
    seen[isolation] = asked, cached
    print(f"{isolation}: asked {asked}, cached {cached}")
writer.abort_transaction()
assert seen == {"read_committed": (1, 3), "read_uncommitted": (3, 3)}
PY
