#!/usr/bin/env bash
# Versions: confluent-kafka 2.16.1, Apache Kafka 4.3.1
# Question: what does `AdminClient(settings).create_topics([topic])["name"].result()` do, in one line?
# Guess: it makes the topic; a future keeps alive what it waits for.
# Happens: the future fails with _DESTROY, "Handle is terminating": the client is the last thing that nobody holds, and its
#   end takes the request along. With the client in a variable the same line works.
# Here: helpers that make a client, ask and return the futures would fail, or not, by who holds what.
# Live with it: give the client a name that lives until the last result.
# Source: seen here
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/kafka.sh" confluent-kafka==2.16.1

"$python" - <<'PY'
import os

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

client = {"bootstrap.servers": os.environ["BOOTSTRAP"]}
try:
    AdminClient(client).create_topics([NewTopic("one-line", 1, 1)])["one-line"].result(20)
    in_one_line = "made"
except KafkaException as exc:
    in_one_line = exc.args[0].name()
admin = AdminClient(client)
held = admin.create_topics([NewTopic("held", 1, 1)])["held"].result(20)
print(f"client not held: {in_one_line}; client held: {'made' if held is None else held}")
assert in_one_line == "_DESTROY" and held is None
PY
