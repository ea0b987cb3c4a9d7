"""Fixtures of tests with real workers: a broker of their own, since topics have fixed names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.kafka import EmbeddedKafka
from tests.support.workers import Bench


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A fresh cluster with the project's topics; `@pytest.mark.settings(key=value)` sets workers' settings."""
    marker = request.node.get_closest_marker("settings")
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        bench = Bench(kafka.bootstrap_servers, tmp_path, "test", **(marker.kwargs if marker else {}))
        bench.create_topics()
        try:
            yield bench
        finally:
            bench.close()
