"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from streams.kafka import EmbeddedKafka


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a test starts can be interrupted, also where a shell runs pytest in the background and so ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Kafka with one broker, the same one for the whole session: use topics and groups of your own."""
    given = os.environ.get("STREAMS_TEST_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as embedded:
        yield embedded.bootstrap_servers
