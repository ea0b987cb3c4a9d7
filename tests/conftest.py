"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from streams.kafka import EmbeddedKafka


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that need a broker."""
    config.addinivalue_line(
        "markers", "kafka: talks to a real Apache Kafka, embedded unless STREAMS_TEST_BOOTSTRAP_SERVERS names one"
    )


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Kafka with one broker, the same one for the whole session: use topics and groups of your own."""
    given = os.environ.get("STREAMS_TEST_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as embedded:
        yield embedded.bootstrap_servers
