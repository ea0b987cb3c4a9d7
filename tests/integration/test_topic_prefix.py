"""Two applications share a broker: each has its prefix, and sees its own records alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.traffic import clicks, payments
from tests.support.workers import Bench

pytestmark = pytest.mark.kafka


@pytest.fixture
def shops(kafka: str, tmp_path: Path) -> Iterator[tuple[Bench, Bench]]:
    """Two applications on one broker."""
    benches = []
    for name in ("east", "west"):
        (tmp_path / name).mkdir()
        benches.append(Bench(kafka, tmp_path / name, f"prefix-{name}", topic_prefix=f"{name}."))
        benches[-1].create_topics()
    try:
        yield benches[0], benches[1]
    finally:
        for bench in benches:
            bench.close()


def test_applications_with_prefixes_share_a_broker(shops: tuple[Bench, Bench]) -> None:
    """Decisions, slates and dead letters of each are answers to its own input, and name its own topics."""
    east, west = shops
    sent, shown = payments(300)[0], clicks(200)
    for bench, part in ((east, slice(0, 100)), (west, slice(100, 300))):
        topics = bench.settings.topics
        bench.produce_json(topics.transactions.name, "card_id", sent[part])
        bench.produce_json(topics.clickstream.name, "session_id", shown[: 80 if bench is east else 120])
        bench.produce(topics.transactions.name, [b"not json"], [b"card-1"])
    for slot, bench in enumerate(shops):
        bench.start(slot).wait_until_ready()
    for bench, part, slates in ((east, slice(0, 100), 80), (west, slice(100, 300), 120)):
        topics = bench.settings.topics
        bench.wait_for(topics.decisions.name, len(sent[part]))
        bench.wait_for(topics.recommendations.name, slates)
        bench.wait_for(topics.dead_letters.name, 1)
        decided = sorted(each["transaction_id"] for each in bench.read_json(topics.decisions.name))
        assert decided == sorted(each["transaction_id"] for each in sent[part])
        assert len(bench.read_json(topics.recommendations.name)) == slates
        (letter,) = bench.read_json(topics.dead_letters.name)
        assert letter["topic"] == topics.transactions.name
    for bench in shops:
        assert all(worker.stop() < 10.0 for worker in bench.workers)
