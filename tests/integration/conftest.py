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
def bench(empty_kafka: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The project's topics, all of them new; `@pytest.mark.settings(key=value)` sets workers' settings.

    The broker is the process's own. Its groups and transactional ids of earlier tests have another application's name.
    """
    marker = request.node.get_closest_marker("settings")
    bench = Bench(empty_kafka, tmp_path, tmp_path.name, **(marker.kwargs if marker else {}))
    bench.create_topics()
    try:
        yield bench
    finally:
        bench.close()
