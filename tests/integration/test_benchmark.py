"""The benchmark harness on a real Kafka, with a system under test that is known to misbehave."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import NewTopic

from streams.benchmark import BenchmarkError, Launch, System, engine, run_latency, run_throughput
from streams.benchmark.cluster import LOG_APPEND_TIME, fresh_topics, remove_topics
from streams.benchmark.engine import new_run
from streams.benchmark.traffic import make_payments, preload

pytestmark = pytest.mark.kafka

# Echoes ids, except that it never answers what ends in 13 and answers twice what ends in 4200.
FAULTY = """
import sys, time
from confluent_kafka import Consumer, Producer
bootstrap, source, sink = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": source, "auto.offset.reset": "earliest"})
producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
consumer.subscribe([source])
while True:
    for message in consumer.consume(200, 0.01):
        value = message.value()
        identity = value[value.index(b":") + 2 : value.index(b",") - 1]
        for _ in range(0 if identity.endswith(b"13") else 2 if identity.endswith(b"4200") else 1):
            producer.produce(sink, b'{"transaction_id":"' + identity + b'"}')
        producer.poll(0)
    producer.flush()
"""


@pytest.fixture(autouse=True)
def short_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faulty system never answers everything: what is missing counts as lost after 3 s instead of 30."""
    monkeypatch.setattr(engine, "STALL_S_MAX", 3.0)


@pytest.fixture
def run() -> str:
    return new_run()


@pytest.fixture
def topics(kafka: str, run: str) -> Iterator[list[str]]:
    names = [f"bench-{run}-in", f"bench-{run}-out"]
    config = {"bootstrap.servers": kafka}
    fresh_topics(config, [NewTopic(name, 2, 1, config=LOG_APPEND_TIME) for name in names], replace=False)
    yield names
    remove_topics(config, names)


def system(kafka: str, topics: list[str], script: str = FAULTY) -> System:
    return System("faulty", [Launch((sys.executable, "-c", script, kafka, *topics), {})], *topics, versions={})


def test_throughput_counts_what_a_faulty_system_loses_and_repeats(kafka: str, run: str, topics: list[str]) -> None:
    """200 of 20,000 ids end in 13 and two in 4200: exactly these are reported."""
    row = run_throughput(system(kafka, topics), {"bootstrap.servers": kafka}, run, 20_000)
    assert (row["lost"], row["repeated"], row["foreign"]) == (200, 2, 0)
    assert row["events_per_second"] > 1_000
    assert row["clock"] == "log-append"


def test_latency_counts_what_a_faulty_system_loses_and_repeats(kafka: str, run: str, topics: list[str]) -> None:
    """Ids 0 to 4,999, warm-up included: 50 end in 13, one in 4200."""
    config = {"bootstrap.servers": kafka}
    row = run_latency(system(kafka, topics), config, run, rate=1_000, seconds=2, warm_up_s=1)
    assert (row["lost"], row["repeated"], row["foreign"]) == (50, 1, 0)
    assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]


def test_a_system_that_ends_is_reported_with_its_last_words(kafka: str, run: str, topics: list[str]) -> None:
    """A crash at start is an error that quotes the log, not a wait until the time is up."""
    crashing = system(kafka, topics, script="raise SystemExit('no such model')")
    with pytest.raises(BenchmarkError, match="no such model"):
        run_throughput(crashing, {"bootstrap.servers": kafka}, run, 1_000)


def test_topics_that_hold_records_are_refused_unless_replacing(kafka: str, run: str, topics: list[str]) -> None:
    """Existing records are deleted, or mixed with the benchmark's, only on request."""
    config = {"bootstrap.servers": kafka}
    preload(config, topics[0], make_payments(10, run))
    again = [NewTopic(topics[0], 2, 1)]
    with pytest.raises(BenchmarkError, match=r"10 records.*--recreate-topics"):
        fresh_topics(config, again, replace=False)
    fresh_topics(config, again, replace=True)
    fresh_topics(config, again, replace=False)
