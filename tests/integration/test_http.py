"""A worker's HTTP: which pages there are, who may do more than read, and where it listens."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from tests.support.workers import Bench, WorkerProcess

pytestmark = pytest.mark.kafka

TOKEN = "token-c90e34"
OURS = ("/live", "/ready", "/metrics")
FAUSTS = (
    "/assignment/",
    "/graph/",
    "/performance/",
    "/router/",
    "/router/topics",
    "/table/",
    "/table/t/",
    "/table/t/k/",
)
WRITES = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture
def worker(bench: Bench) -> Iterator[WorkerProcess]:
    yield bench.start(0, http_token=TOKEN).wait_until_ready()
    assert TOKEN not in bench.workers[0].log.read_text()


def status(worker: WorkerProcess, method: str, page: str, token: str | None = None, body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    headers = {} if token is None else {"Authorization": token}
    try:
        connection.request(method, page, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_worker_shows_its_own_pages_and_lets_nobody_write(worker: WorkerProcess) -> None:
    """Our three pages and Faust's bare index answer; every method but GET and HEAD needs the token, on any path."""
    assert {page: status(worker, "GET", page) for page in OURS} == dict.fromkeys(OURS, 200)
    assert status(worker, "HEAD", "/live") == 200
    assert worker.get("/") == (200, b'{"status":"OK"}')
    assert {page: status(worker, "GET", page) for page in FAUSTS} == dict.fromkeys(FAUSTS, 404)
    for method in WRITES:
        for page in ("/live", "/", "/nowhere"):
            for token in (
                None,
                "",
                TOKEN,
                "Bearer",
                "Bearer ",
                f"Bearer {TOKEN}x",
                f"Bearer {TOKEN[:-1]}",
                "Bearer \xff",
            ):
                assert status(worker, method, page, token) == 403, (method, page, token)
    # With the token a method comes through, to pages that have no use for it.
    assert status(worker, "POST", "/live", f"Bearer {TOKEN}") == 405
    assert status(worker, "POST", "/nowhere", f"Bearer {TOKEN}") == 404
    # No page reads a body, so none is taken.
    assert status(worker, "GET", "/live", body=b"x" * 100) == 413
    assert status(worker, "POST", "/live", f"Bearer {TOKEN}", body=b"x" * 1_000_000) == 413
    # Nor a header beyond 8 KiB.
    assert status(worker, "GET", "/live", "x" * 10_000) == 400
    # It listens on the one address that it was told.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", worker.port), timeout=5)


def test_without_a_token_nobody_writes(bench: Bench) -> None:
    """An empty http_token is no password that a client could send."""
    worker = bench.start(0).wait_until_ready()
    for token in (None, "", "Bearer", "Bearer ", "Bearer  "):
        assert status(worker, "POST", "/live", token) == 403, token
