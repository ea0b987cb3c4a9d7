"""A worker that is told to stop while no broker answers."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from streams.contract.topics import DECISIONS, TRANSACTIONS
from streams.kafka import EmbeddedKafka
from streams.worker.application import END_S_MAX
from tests.support.traffic import payments
from tests.support.workers import Bench

pytestmark = pytest.mark.kafka

DRAIN_S_MAX = 1.0
CLIENTS_S_MAX = 15.0  # those of Kafka take their time to end without a broker


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_stopping_without_a_broker_ends(tmp_path: Path, guarantee: str) -> None:
    """What was decided and not committed is decided again; waiting for a commit would take as long as the outage."""
    records, _ = payments(200, seed=6)
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        bench = Bench(kafka.bootstrap_servers, tmp_path, "test", guarantee=guarantee, drain_s_max=DRAIN_S_MAX)
        bench.create_topics()
        try:
            worker = bench.start(0).wait_until_ready()
            bench.produce_json(TRANSACTIONS.name, "card_id", records)
            bench.wait_for(DECISIONS.name, 100)
            kafka.kill_broker(1)
            time.sleep(1.0)
            worker.process.send_signal(signal.SIGTERM)
            worker.process.wait(DRAIN_S_MAX + END_S_MAX + CLIENTS_S_MAX)
        finally:
            bench.close()
