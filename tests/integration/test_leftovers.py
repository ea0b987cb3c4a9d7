"""A transaction that the broker holds for ended while its partitions still wait, on a real Kafka."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.clients.log_reader import LogReader
from streams.kafka import EmbeddedKafka
from streams.transport.ownership.coordinator import TransactionCoordinator
from streams.transport.ownership.group_member import GroupMember
from streams.transport.ownership.leftovers import Leftovers
from streams.transport.ownership.ownership import Ownership, state_writer_id
from tests.support.workers import poll_until

pytestmark = pytest.mark.kafka

GROUP, OUTPUT, STATE, INPUT = "group", "output", "state", "input"
TIMEOUT_S = 5.0


def create(config: dict[str, str], *topics: str) -> None:
    admin = AdminClient(config)
    for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics]).values():
        made.result(30)


def send(producer: Producer, topic: str, value: str, offset: int) -> None:
    """Begin a transaction with a record and an offset, and leave it open."""
    producer.begin_transaction()
    producer.produce(topic, value, "key", 0)
    assert producer.flush(10) == 0
    producer.send_offsets_to_transaction([TopicPartition(INPUT, 0, offset)], GroupMember(GROUP).metadata(), 10)


def values(config: dict[str, str], topic: str) -> list[bytes]:
    """Return what a read_committed reader gets."""
    with closing(LogReader(config, "test")) as reader:
        records = reader.read(topic, 0, 0, reader.ends(topic, [0])[0])
        return [message.value() or b"" for messages in records for message in messages]


@contextmanager
def member_of_group(config: dict[str, str]) -> Iterator[None]:
    """Keep another worker in the group: offsets without a member's name are no matter of course then."""
    with closing(Consumer({**config, "group.id": GROUP})) as consumer:
        consumer.subscribe([INPUT])
        poll_until(lambda: consumer.poll(0.1) is not None or consumer.assignment(), 30, "an assignment")
        yield


def owner_of(config: dict[str, str]) -> Ownership:
    coordinator = TransactionCoordinator(config["bootstrap.servers"], {})
    return Ownership(config, GROUP, "worker", {}, Leftovers(config, GROUP, [OUTPUT, STATE], [INPUT], coordinator))


def without_last_batch(log: Path) -> None:
    """Cut a partition's log as a crash does that comes before its last append."""
    data, begin, end = log.read_bytes(), 0, 0
    while end < len(data):
        begin, end = (
            end,
            end + 12 + int.from_bytes(data[end + 8 : end + 12]),
        )  # base offset, then the length of the rest
    os.truncate(log, begin)


def test_what_a_broker_forgot_to_abort_stays_aborted(tmp_path: Path) -> None:
    """The only broker is killed in a transaction, which times out meanwhile; the next commit must not carry it along."""
    with EmbeddedKafka(tmp_path) as kafka:
        config = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": "0"}
        create(config, OUTPUT, STATE, INPUT)
        timeout = {"transaction.timeout.ms": int(TIMEOUT_S * 1000)}
        writers = {OUTPUT: "worker", STATE: state_writer_id("worker")}
        producers = {
            topic: Producer({**config, **timeout, "transactional.id": name}) for topic, name in writers.items()
        }
        for topic, producer in producers.items():
            producer.init_transactions(30)
            send(producer, topic, "committed", 1)
            producer.commit_transaction(10)
            send(producer, topic, "aborted", 2)
        kafka.kill_broker(1)
        time.sleep(TIMEOUT_S + 1.0)
        kafka.restart_broker(1)
        ownership = owner_of(config)
        with member_of_group(config):
            ownership.fence("worker")
        (place,) = ownership._offsets([TopicPartition(INPUT, 0)], stable=True)
        assert place.offset == 1
        for topic, name in writers.items():
            producer = Producer({**config, "transactional.id": name})
            producer.init_transactions(30)
            send(producer, topic, "next", 3)
            producer.commit_transaction(10)
            poll_until(lambda topic=topic: len(values(config, topic)) > 1, 10, "the last commit to be visible")
            assert values(config, topic) == [b"committed", b"next"]


@pytest.mark.parametrize("unmarked", [OUTPUT, "__consumer_offsets"])
def test_a_commit_that_reached_a_part_of_its_partitions_reaches_the_others(tmp_path: Path, unmarked: str) -> None:
    """Aborted, the record would be lost where its offset is committed, or decided twice where the offset is not."""
    with EmbeddedKafka(tmp_path) as kafka:
        config = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": "0"}
        create(config, OUTPUT, STATE, INPUT)
        producer = Producer({**config, "transactional.id": "worker"})
        producer.init_transactions(30)
        for offset, value in enumerate(["first", "second"], 1):
            send(producer, OUTPUT, value, offset)
            producer.commit_transaction(10)
        poll_until(lambda: len(values(config, OUTPUT)) > 1, 10, "the last commit to be visible")
        kafka.kill_broker(1)
        for topic in (unmarked, "__transaction_state"):  # the latter says that the commit is complete
            (log,) = [path for path in kafka.folder.glob(f"broker-1/data/{topic}-*/0*.log") if path.stat().st_size]
            without_last_batch(log)
        kafka.restart_broker(1)
        ownership = owner_of(config)
        ownership.fence("worker")
        poll_until(lambda: values(config, OUTPUT) == [b"first", b"second"], 10, "what was committed to be visible")
        (place,) = ownership._offsets([TopicPartition(INPUT, 0)], stable=True)
        assert place.offset == 2


def test_nothing_is_written_where_nothing_hangs(tmp_path: Path) -> None:
    """A worker that starts leaves no trace in the topics of a cluster that is in order, beside open transactions of others."""
    with EmbeddedKafka(tmp_path) as kafka:
        config = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": "0"}
        create(config, OUTPUT, INPUT)
        ownership = owner_of(config)
        ownership.fence("worker")
        with closing(LogReader(config, "test", isolation="read_uncommitted")) as reader:
            assert reader.ends(OUTPUT, [0]) == {0: 0}
            other = Producer({**config, "transactional.id": "other"})
            other.init_transactions(30)
            send(other, OUTPUT, "of another", 1)
            ownership.fence("worker")
            other.commit_transaction(10)
            poll_until(lambda: values(config, OUTPUT) == [b"of another"], 10, "the commit to be visible")
