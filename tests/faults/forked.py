"""Workers forked from a server that has imported and compiled what takes seconds: a fault test starts dozens of them.

A forked worker runs the same `faust -A streams worker` as any other from there on, and can be sabotaged before it begins.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.sabotage import sabotage

ARGUMENTS = ("-A", "streams", "worker", "-l", "info")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.faults.preload"])


class ForkedProcess:
    """A process of the fork server, with the part of `subprocess.Popen` that tests of workers use."""

    def __init__(self, environment: Mapping[str, str], folder: Path, log: Path, faults: Sequence[str]) -> None:
        arguments = (dict(environment), str(folder), str(log), tuple(faults))
        self._process = _server.Process(target=run_worker, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, -N after signal N; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def run_worker(environment: dict[str, str], folder: str, log: str, faults: Sequence[str]) -> None:
    """Be a worker: what `faust` does on the command line, in an environment and with a log of its own."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sabotage(faults)
    from faust.cli.faust import cli

    sys.argv = ["faust", *ARGUMENTS]
    cli()
