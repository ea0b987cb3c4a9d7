"""The embedded Kafka's view of processes and ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streams.processes.identity import PORTS, ProcessId, free_ports, port_holder, port_is_free


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that would sleep for a minute."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_by_pid_and_start(sleeper: subprocess.Popen[bytes]) -> None:
    """A running process is alive, one that ended is not, even before its parent collects it."""
    named = ProcessId.of(sleeper.pid)
    assert named.is_alive()
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not named.is_alive()


def test_a_reused_pid_is_neither_alive_nor_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    """Another process under the recorded pid is left alone."""
    named = ProcessId.of(sleeper.pid)
    earlier = ProcessId(named.pid, named.started_s - 5.0)
    assert not earlier.is_alive()
    earlier.signal(signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)


def test_free_ports_are_distinct_and_outside_the_ephemeral_range() -> None:
    """A client that retries a dead broker can never be given the broker's port as its own."""
    ports = free_ports(6)
    assert len(set(ports)) == 6
    assert all(port in PORTS and port_is_free(port) for port in ports)


def test_a_taken_port_names_its_holder() -> None:
    """The holder of a port is told by program and pid."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not port_is_free(port)
        assert f"(pid {os.getpid()}: " in port_holder(port)
        assert "python" in port_holder(port)
