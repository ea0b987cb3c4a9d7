"""A reader of the log whose leader goes away, on a real Kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.clients.log_reader import LogReader
from streams.kafka import EmbeddedKafka

pytestmark = pytest.mark.kafka

BUSY_SHARE_MAX = 0.3  # of a core; a client without a pause between two attempts to connect takes more than one


def with_records(config: Mapping[str, str], replicas: int) -> LogReader:
    """Return a reader that knows the ends of `log`: a topic of two partitions, with three records in the second."""
    admin = AdminClient(dict(config))
    admin.create_topics([NewTopic("log", 2, replicas)])["log"].result(30)
    producer = Producer({**config, "acks": "all"})
    for _ in range(3):
        producer.produce("log", b"value", partition=1)
    assert producer.flush(30) == 0
    reader = LogReader(config, "test")
    assert reader.ends("log", [0, 1]) == {0: 0, 1: 3}
    return reader


def test_ends_are_told_after_a_restart_of_the_leader(tmp_path: Path) -> None:
    """The leader dies between two questions and comes back with another epoch, which the client has to learn."""
    with EmbeddedKafka(tmp_path) as kafka, ThreadPoolExecutor(1) as pool:
        reader = with_records({"bootstrap.servers": kafka.bootstrap_servers, "log_level": "0"}, 1)
        kafka.kill_broker(1)
        asked = pool.submit(reader.ends, "log", [1])
        kafka.restart_broker(1)
        assert asked.result(60) == {1: 3}


@pytest.mark.alone
def test_ends_are_asked_for_without_hurry_while_a_leader_is_dead(tmp_path: Path) -> None:
    """The others name the dead leader until the controller misses it: no core is used up by attempts to reach it."""
    with EmbeddedKafka(tmp_path, brokers=3) as kafka:
        config = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": "0"}
        reader = with_records(config, 3)
        kafka.kill_broker(AdminClient(config).list_topics("log", 30).topics["log"].partitions[1].leader)
        began_s, used_s = time.monotonic(), time.process_time()
        assert reader.ends("log", [1]) == {1: 3}
        used_s, took_s = time.process_time() - used_s, time.monotonic() - began_s
        assert used_s < BUSY_SHARE_MAX * max(took_s, 1.0), f"{used_s:.1f} s of a core in {took_s:.1f} s"
