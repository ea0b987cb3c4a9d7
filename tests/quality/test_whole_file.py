"""Every public payment through real Kafka: the features and scores of an uninterrupted offline run, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.kafka import EmbeddedKafka
from tests.support.oracle import FraudOracle, checkpointed_digests, repeats_of_right_decisions
from tests.support.workers import Bench

PAYMENTS = Path(__file__).parents[3] / "shared" / "data" / "fraud" / "transactions.parquet"
COUNT = 1_504_628
STREAMS = (sys.executable, "-c", "from streams.commands import main; main()")
COLUMNS = "transaction_id=tx_id,event_time=ts,card_id=customer,terminal_id=terminal"

pytestmark = [
    pytest.mark.quality,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not PAYMENTS.is_file(), reason=f"public data not at hand: {PAYMENTS}"),
]


@pytest.mark.parametrize(("partitions", "workers"), [(1, 1), (5, 2)])
def test_the_stream_gives_what_offline_gives(tmp_path: Path, partitions: int, workers: int) -> None:
    """A kill -9 and a restart in the middle, labels 7 days late: one decision each, state and scores equal bit for bit."""
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        bench = Bench(kafka.bootstrap_servers, tmp_path, "whole", partitions=partitions)
        bench.create_topics()
        for slot in range(workers):
            bench.start(slot)
        for worker in bench.workers:
            worker.wait_until_ready()
        sending = subprocess.Popen(
            [*STREAMS, "produce", PAYMENTS, "--columns", COLUMNS, "--labels", "fraud"],
            env={**os.environ, "STREAMS_BOOTSTRAP_SERVERS": kafka.bootstrap_servers},
        )
        try:
            bench.wait_for("fraud-decisions", COUNT // 3, 600)
            bench.workers[0].kill()
            restarted = bench.start(0).wait_until_ready()
            bench.wait_for("fraud-decisions", 2 * COUNT // 3, 600)
            restarted.stop()
            bench.start(0)
            bench.wait_for("fraud-decisions", COUNT, 600)
            assert sending.wait(60) == 0
            oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))
            assert len(oracle.scores) == COUNT
            assert repeats_of_right_decisions(bench.read("fraud-decisions"), oracle) == 0
            for worker in bench.workers:
                if worker.process.poll() is None:
                    worker.stop()
            assert checkpointed_digests(bench.read("whole-card-state")) == oracle.digests
        finally:
            sending.kill()
            bench.close()
