"""Fixtures of tests with real workers: fresh topics on the broker that all of a process's tests share."""

from __future__ import annotations

import uuid
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
    """The project's topics, fresh; an application of its own; `@pytest.mark.settings(key=value)` sets workers' settings."""
    marker = request.node.get_closest_marker("settings")
    bench = Bench(empty_kafka, tmp_path, f"test-{uuid.uuid4().hex[:8]}", **(marker.kwargs if marker else {}))
    bench.create_topics()
    try:
        yield bench
    finally:
        bench.close()
