"""Processes by pid and start time, so that a reused pid is not mistaken for them; ports and their holders."""

from __future__ import annotations

import os
import random
import shlex
import socket
from contextlib import suppress
from dataclasses import dataclass

import psutil

from streams.errors import KafkaUnavailable

# Below the ephemeral range of Linux (32768) and macOS (49152): a client that retries a dead broker's port within that
# range can be given the very port as its own end, connect to itself and keep the broker from coming back.
PORTS = range(20_000, 32_768)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process by pid and start.

    Attributes:
        pid: as the system numbers it.
        started_s: seconds from the machine's boot to the start of the process: steps of the clock do not change it.
    """

    pid: int
    started_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Name a process that is alive.

        Raises:
            psutil.NoSuchProcess: it is not.
        """
        boot_s = psutil.boot_time()
        return cls(pid, round(psutil.Process(pid).create_time() - boot_s, 2))

    def is_alive(self) -> bool:
        """Whether this very process runs; a zombie, or another one under its pid, does not count."""
        try:
            same = abs(ProcessId.of(self.pid).started_s - self.started_s) < 1.0
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: int) -> None:
        """Send a signal to this very process, or to none."""
        if self.is_alive():
            with suppress(ProcessLookupError):  # it may end in between, as the signal asks
                os.kill(self.pid, number)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port."""
    with socket.socket() as probe:
        # As Java does: a port whose old connections are in TIME_WAIT can be listened on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that nothing listens on.

    Raises:
        KafkaUnavailable: too few are free.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port_is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise KafkaUnavailable(
        f"ports {PORTS.start} to {PORTS.stop - 1}: expected {count} free ones, got {len(found)}; end a program"
    )


def port_holder(port: int) -> str:
    """Return the process that listens on a port of this machine, in words for an error message."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS tells root alone
        return "another process"
    holders = {
        connection.pid
        for connection in connections
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
    }
    for pid in holders:
        if pid is not None:
            try:
                process = psutil.Process(pid)
                command = shlex.join(process.cmdline())
                return f"{process.name()} (pid {pid}: {command if len(command) <= 80 else command[:77] + '...'})"
            except psutil.Error:
                return f"pid {pid}"
    return "a process of another user" if holders else "a process that does not listen"
