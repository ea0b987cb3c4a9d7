"""Workers forked from a server that has imported and compiled what takes seconds: the tests start a hundred of them.

A forked worker runs the same `faust -A streams worker` as any other from there on, and can be sabotaged before it begins.
The real command, in an interpreter of its own, starts in 1-2 s more of a core's time (`Bench.start(..., interpreter=True)`).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.support.preload"])


class ForkedProcess:
    """A process of the fork server, with the part of `subprocess.Popen` that tests of workers use.

    Args:
        arguments: what comes behind `faust` on the command line.
        environment: all of its environment.
        folder: where it runs.
        log: file that its output is appended to.
        prepare: called in the process before anything else.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        given = (tuple(arguments), dict(environment), str(folder), str(log), prepare)
        self._process = _server.Process(target=run_worker, args=given, daemon=True)
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


def run_worker(
    arguments: Sequence[str],
    environment: dict[str, str],
    folder: str,
    log: str,
    prepare: Callable[[], None] | None,
) -> None:
    """Be a worker: what `faust` does on the command line, in an environment and with a log of its own."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if prepare is not None:
        prepare()
    from faust.cli.faust import cli

    sys.argv = ["faust", *arguments]
    cli()
