"""Whose a partition is, as real brokers keep it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka import TopicPartition as RdTopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.errors import KafkaUnavailable
from streams.transport.ownership.coordinator import TransactionCoordinator
from streams.transport.ownership.leftovers import Leftovers
from streams.transport.ownership.ownership import Ownership, as_metadata, owner_in
from streams.worker.application import Application

pytestmark = pytest.mark.kafka
FOREIGN = "Ж" * 37  # without a NUL, what lies behind it is read too


async def commit(servers: str, topic: str, metadata: list[str]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=topic, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(len(metadata))])
        await consumer.commit(
            {TopicPartition(topic, number): OffsetAndMetadata(7, text) for number, text in enumerate(metadata)}
        )
    finally:
        await consumer.stop()


def test_an_owner_is_read_as_it_was_claimed_and_foreign_words_do_no_harm(kafka: str) -> None:
    """librdkafka hands metadata over without its length."""
    owners = [f"fraud-{'x' * number}" for number in range(16, 20)]
    topic, count = "owned", len(owners) + 2
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, count, 1)])[topic].result()
    asyncio.run(commit(kafka, topic, [as_metadata(owner) for owner in owners] + [FOREIGN] * 2))
    config = {"bootstrap.servers": kafka}
    ownership = Ownership(
        config, topic, "me", {}, Leftovers(config, topic, [], [topic], TransactionCoordinator(kafka, {}))
    )
    taken = ownership.take([RdTopicPartition(topic, number) for number in range(count)])
    assert [tp.offset for tp in taken] == [7] * count
    found = ownership._offsets([RdTopicPartition(topic, number) for number in range(count)], stable=False)
    assert [owner_in(tp) for tp in found[: len(owners)]] == owners
    assert all(owner_in(tp) in ("", *owners) or owner_in(tp).startswith(FOREIGN) for tp in found[len(owners) :])


def test_a_worker_that_cannot_take_over_stops() -> None:
    """aiokafka would log the error and go on without ever fetching."""
    stopped: list[BaseException] = []

    async def refused(partitions: object) -> None:
        raise KafkaUnavailable("no answer")

    application = SimpleNamespace(worker=SimpleNamespace(take_over=refused, stop_with=stopped.append))
    with pytest.raises(KafkaUnavailable):
        asyncio.run(Application.take_over(application, []))  # type: ignore[arg-type]
    assert [str(exc) for exc in stopped] == ["no answer"]
