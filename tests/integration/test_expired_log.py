"""A quiet partition whose records have all expired, and a worker that begins there."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams.contract.topics import DECISIONS, TRANSACTIONS
from streams.worker.standstill import STANDSTILL_S
from tests.support.traffic import payments
from tests.support.workers import Bench

pytestmark = pytest.mark.kafka


@pytest.mark.settings(stall_s_max=15)
def test_what_has_expired_is_not_waited_for(bench: Bench) -> None:
    """A new application starts on topics where nothing is left: it is ready, stays so, and decides what comes."""
    records, _ = payments(60, seed=5)
    bench.produce_json(TRANSACTIONS.name, "card_id", records[:50])
    admin = AdminClient(bench.client)
    partitions = admin.list_topics(TRANSACTIONS.name).topics[TRANSACTIONS.name].partitions
    ends = [TopicPartition(TRANSACTIONS.name, number, -1) for number in partitions]
    for expired in admin.delete_records(ends).values():
        expired.result(30)
    worker = bench.start(0).wait_until_ready()
    until = time.monotonic() + STANDSTILL_S + 15
    while time.monotonic() < until:
        assert worker.get("/ready")[0] == 200
        time.sleep(1.0)
    bench.produce_json(TRANSACTIONS.name, "card_id", records[50:])
    bench.wait_for(DECISIONS.name, 10)
