"""Worker processes of a command: started together, watched, and gone when the command is gone."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click

from streams.errors import StreamsError
from streams.processes.identity import free_ports
from streams.processes.launcher import Launched, is_ready, worker_command, worker_environment

# The first start compiles kernels and reads torch from a cold disk.
READY_S_MAX: Final = 120.0
READY_POLL_S: Final = 0.1
LOG_LINES_SHOWN: Final = 15
OWN_ERROR: Final = re.compile(r"(?:(?<=^streams: )|(?<=\berrors\.))\w.+")
ANY_ERROR: Final = re.compile(r"\b\w+(Error|Exception|Unavailable): .+")


class WorkerEnded(StreamsError):
    """A worker process ended by itself or never became ready."""


@dataclass
class _Worker:
    slot: int
    port: int
    process: Launched


class WorkerPool:
    """`count` workers of the application, each a process of its own under a supervisor that ends with this process.

    Args:
        count: workers.
        folder: their state and logs.
        environment: added to this process's; settings as STREAMS_* variables.
        first_slot: worker_slot of the first.
        ahead: the cluster does not run yet: the workers import and compile, and begin with `begin`.
    """

    def __init__(
        self,
        count: int,
        folder: Path,
        environment: Mapping[str, str],
        *,
        first_slot: int = 0,
        ahead: bool = False,
    ) -> None:
        self._count = count
        self._folder = folder
        self._environment = dict(environment)
        self._first_slot = first_slot
        self._gate = folder / "begin.json" if ahead else None
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for index, port in enumerate(free_ports(self._count)):
                self._workers.append(self._start(self._first_slot + index, port))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def begin(self, environment: Mapping[str, str]) -> None:
        """Let workers that were started ahead begin, with these variables too: the cluster and its topics are there."""
        assert self._gate is not None, "the workers have begun"
        scratch = self._gate.with_suffix(".new")
        scratch.write_text(json.dumps(dict(environment)))
        scratch.replace(self._gate)

    def wait_until_ready(self) -> None:
        """Return when every worker is ready.

        Raises:
            WorkerEnded: one ended, or was not ready within READY_S_MAX.
        """
        deadline = time.monotonic() + READY_S_MAX
        waiting = list(self._workers)
        while waiting:
            self.check()
            waiting = [worker for worker in waiting if not is_ready(worker.port)]
            if waiting and time.monotonic() > deadline:
                cause = self._show_log(waiting[0])
                raise WorkerEnded(
                    f"worker {waiting[0].slot}: expected a yes of /ready within {READY_S_MAX:.0f} s, got none "
                    f"({cause}); its log is above"
                )
            time.sleep(READY_POLL_S if waiting else 0.0)

    def check(self) -> None:
        """Raise WorkerEnded, with the last lines of its log on stderr, if a worker has ended."""
        for worker in self._workers:
            code = worker.process.poll()
            if code is not None:
                cause = self._show_log(worker)
                raise WorkerEnded(f"worker {worker.slot} ended with exit code {code}: {cause}; its log is above")

    def stop(self) -> None:
        """End every worker: SIGTERM, and SIGKILL by its supervisor after STOP_S_MAX."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.wait()
        self._workers.clear()

    def _start(self, slot: int, port: int) -> _Worker:
        command = worker_command()
        if self._gate is not None:
            command = [sys.executable, "-m", "streams.worker.ahead", str(self._gate)]
        environment = self._environment | worker_environment(slot, port, self._folder / f"worker-{slot}")
        return _Worker(slot, port, Launched(command, environment, self._folder / f"worker-{slot}.log"))

    @staticmethod
    def _show_log(worker: _Worker) -> str:
        """Print the last lines and return the one that tells most: our own error, else the first of any kind."""
        lines = worker.process.log.read_text(errors="replace").splitlines()
        for line in lines[-LOG_LINES_SHOWN:]:
            click.echo(f"  worker {worker.slot}: {line}", err=True)
        for pattern in (OWN_ERROR, ANY_ERROR):
            for line in lines:
                if found := pattern.search(line):
                    return found[0]
        return "no error in its log"
