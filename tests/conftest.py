"""Fixtures of all tests."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.kafka import EmbeddedKafka

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 << 30


def pytest_configure() -> None:
    """Have temporary folders, and with them the brokers' logs, in memory where there is room.

    A shared disk may hold a write up for half a minute, and a broker with it: no test is about that. A folder that is
    named in PYTEST_DEBUG_TEMPROOT is used in any case.
    """
    if not MEMORY.is_dir() or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:  # brokers unpack libraries next to their logs
        return
    if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


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
