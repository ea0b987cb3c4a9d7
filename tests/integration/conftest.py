"""Fixtures of tests with a broker whose topics have the project's names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.kafka import EmbeddedKafka
from tests.support.workers import Bench, delete_topics


@pytest.fixture
def empty_kafka(embedded: EmbeddedKafka) -> str:
    """Address of a broker without topics. Groups and transactional ids of earlier tests are still there: use others."""
    delete_topics({"bootstrap.servers": embedded.bootstrap_servers})
    return embedded.bootstrap_servers


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A fresh cluster with the project's topics; `@pytest.mark.settings(key=value)` sets workers' settings.

    A broker of the test's own, since topics have fixed names.
    """
    marker = request.node.get_closest_marker("settings")
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        bench = Bench(kafka.bootstrap_servers, tmp_path, "test", **(marker.kwargs if marker else {}))
        bench.create_topics()
        try:
            yield bench
        finally:
            bench.close()
