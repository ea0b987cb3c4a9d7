"""What every client of a cluster outside Faust shares, on a real Kafka: polling, and making topics."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.clients.cluster import offset_ranges, partition_counts
from streams.clients.connection import admin_client, idempotent_producer, reading_consumer
from streams.clients.records import Place, poll_records
from streams.clients.topic_admin import grow_topic, make_topics
from streams.errors import KafkaUnavailable
from tests.support.workers import poll_until

pytestmark = pytest.mark.kafka

TAKEN_S = 0.5  # as long as the name stays taken


@pytest.fixture
def config(kafka: str) -> dict[str, str]:
    return {"bootstrap.servers": kafka}


@pytest.fixture
def admin(config: dict[str, str]) -> AdminClient:
    return admin_client(config)


@pytest.fixture
def consumer(config: dict[str, str]) -> Iterator[Consumer]:
    with closing(reading_consumer(config, "test")) as consumer:
        yield consumer


@pytest.fixture
def topic() -> str:
    return f"clients-{uuid.uuid4().hex[:8]}"


def test_records_are_told_from_ends(config: dict[str, str], admin: AdminClient, consumer: Consumer, topic: str) -> None:
    """Aborted records are not handed out, and the end is behind them and their marker."""
    assert make_topics(admin, consumer, [NewTopic(topic, 2, 1)]) == {}
    producer = idempotent_producer(config)
    for number in range(3):
        producer.produce(topic, b"%d" % number, partition=1)
    assert producer.flush(10) == 0
    aborted = Producer({**config, "transactional.id": topic})
    aborted.init_transactions(30)
    aborted.begin_transaction()
    aborted.produce(topic, b"aborted", partition=1)
    assert aborted.flush(10) == 0
    aborted.abort_transaction(10)
    consumer.assign([TopicPartition(topic, number, 0) for number in (0, 1)])
    found: list[tuple[int | None, bytes | None]] = []
    ends: dict[Place, int] = {}

    def at_ends() -> bool:
        messages, told = poll_records(consumer, 0.1, 2)
        found.extend((message.partition(), message.value()) for message in messages)
        ends.update(told)
        return ends == {(topic, 0): 0, (topic, 1): 5}

    poll_until(at_ends, 10, "both ends")
    assert found == [(1, b"0"), (1, b"1"), (1, b"2")]


def test_an_error_of_a_partition_is_raised_with_its_place(
    config: dict[str, str], admin: AdminClient, consumer: Consumer, topic: str
) -> None:
    """A reader that passed it over would wait for records that never come."""
    assert make_topics(admin, consumer, [NewTopic(topic, 1, 1)]) == {}
    with closing(reading_consumer(config, "test", **{"auto.offset.reset": "error"})) as lost:
        lost.assign([TopicPartition(topic, 0, 100)])
        with pytest.raises(KafkaUnavailable, match=rf"{topic}\[0\]: .*out of range"):
            poll_until(lambda: poll_records(lost, 0.1, 10)[0], 10, "an error")


def test_a_taken_name_is_refused_and_can_be_waited_for(admin: AdminClient, consumer: Consumer, topic: str) -> None:
    """A topic that exists is the caller's to judge; a name that is being deleted is free in a moment."""
    new = NewTopic(topic, 1, 1)
    assert make_topics(admin, consumer, [new]) == {}
    refused = make_topics(admin, consumer, [new, NewTopic(f"{topic}-other", 1, 1)])
    assert {name: error.code() for name, error in refused.items()} == {topic: KafkaError.TOPIC_ALREADY_EXISTS}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make_topics, admin, consumer, [NewTopic(topic, 3, 1)], taken_s_max=30.0)
        with pytest.raises(TimeoutError):
            waiting.result(TAKEN_S)
        admin.delete_topics([topic])[topic].result(30)
        assert waiting.result(30) == {}
    assert partition_counts(admin)[topic] == 3


def test_a_topic_grows_and_does_not_shrink(admin: AdminClient, consumer: Consumer, topic: str) -> None:
    """The refusal comes back, so that the caller can look for what another worker did."""
    assert make_topics(admin, consumer, [NewTopic(topic, 2, 1)]) == {}
    assert grow_topic(admin, topic, 4, 10.0) is None
    poll_until(lambda: partition_counts(admin)[topic] == 4, 10, "four partitions")
    assert len(offset_ranges(consumer, {topic: 4})) == 4  # though this client has known two
    refused = grow_topic(admin, topic, 3, 10.0)
    assert refused is not None and refused.code() == KafkaError.INVALID_PARTITIONS
