"""The transport with real brokers: ordinary topics and tables, headers, codecs, gaps in the log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.workers import poll_until, read_topic

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


@pytest.fixture
def servers(empty_kafka: str) -> str:
    """A broker with the application's topics, all of them new."""
    names = {"orders": 2, "totals": 2, "probe": 1, "seen": 1}
    admin = AdminClient({"bootstrap.servers": empty_kafka})
    for future in admin.create_topics([NewTopic(name, count, 1) for name, count in names.items()]).values():
        future.result()
    return empty_kafka


@contextmanager
def application(servers: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the ordinary application, whose id is the folder's name.

    Without a web server, whose port another process may have: `web_enabled=False` of the application does not turn it off.
    """
    with (folder / "app.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "tests.support.ordinary_app", "worker", "-l", "info", "--without-web"],
            cwd=ROOT, env={**os.environ, "SERVERS": servers, "APPLICATION": folder.name, "PYTHONPATH": str(ROOT)},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def produce(servers: str, topic: str, records: list[tuple[bytes, bytes]], **config: Any) -> None:
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", **config})
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0


def totals(servers: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for message in read_topic({"bootstrap.servers": servers}, "totals"):
        value = orjson.loads(message.value())
        found[value["customer"]] = max(value["total"], found.get(value["customer"], 0.0))
    return found


def committed(servers: str, application_id: str, topic: str, partitions: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": application_id})
    try:
        return [tp.offset for tp in consumer.committed([TopicPartition(topic, p) for p in range(partitions)], 10)]
    finally:
        consumer.close()


def test_ordinary_topics_and_tables_keep_working(servers: str, tmp_path: Path) -> None:
    """A per-record agent with a table counts each order once, commits behind itself, and its table survives kill -9."""
    orders = [(f"c{i % 7}".encode(), orjson.dumps({"customer": f"c{i % 7}", "amount": 1.0})) for i in range(700)]
    with application(servers, tmp_path):
        produce(servers, "orders", orders)
        poll_until(lambda: totals(servers) == {f"c{i}": 100.0 for i in range(7)}, 60, "all totals")
        poll_until(lambda: sum(committed(servers, tmp_path.name, "orders", 2)) == 700, 20, "all offsets committed")
    with application(servers, tmp_path):
        produce(servers, "orders", orders[:7])
        poll_until(lambda: totals(servers) == {f"c{i}": 101.0 for i in range(7)}, 60, "the table restored")


def seen(servers: str) -> list[dict[str, Any]]:
    return [orjson.loads(message.value()) for message in read_topic({"bootstrap.servers": servers}, "seen")]


def test_every_codec_is_readable_with_headers_and_timestamps(servers: str, tmp_path: Path) -> None:
    """Records come with their offset, key, value, timestamp and headers, under every codec."""
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer({"bootstrap.servers": servers, "compression.type": codec})
        for i in range(50):
            timestamp, header = 1_700_000_000_000 + i, f"{codec} {i}"
            producer.produce("probe", f"{codec} {i}", f"key {i}", timestamp=timestamp, headers=[("h", header.encode())])
            expected.append(
                {
                    "offset": len(expected),
                    "key": f"key {i}",
                    "value": f"{codec} {i}",
                    "timestamp": timestamp,
                    "headers": [["h", header]],
                }
            )
        assert producer.flush(30) == 0
    with application(servers, tmp_path):
        poll_until(lambda: len(seen(servers)) >= len(expected), 60, f"{len(expected)} records")
    assert seen(servers) == expected


def test_aborted_records_and_markers_are_passed_over_and_committed(servers: str, tmp_path: Path) -> None:
    """A log of transactions, some aborted: committed records come once, in order, and the offset passes every hole."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "gaps"})
    producer.init_transactions(30)
    expected = []
    for number in range(30):
        producer.begin_transaction()
        for i in range(10):
            producer.produce("probe", f"{number}/{i}", "k")
        if number % 5 == 4:
            producer.flush(10)  # so that aborted records really stand in the log
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
            expected += [f"{number}/{i}" for i in range(10)]
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "end"})
    end = consumer.get_watermark_offsets(TopicPartition("probe", 0), 10)[1]
    consumer.close()
    assert end == 30 * 11
    with application(servers, tmp_path):
        poll_until(lambda: len(seen(servers)) >= len(expected), 60, "the committed records")
        poll_until(lambda: committed(servers, tmp_path.name, "probe", 1) == [end], 20, f"offset {end} committed")
    assert [record["value"] for record in seen(servers)] == expected
