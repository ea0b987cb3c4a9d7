"""The one launcher: a process under a supervisor, which ends with this process, however this process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from streams.processes import supervisor

# A worker drains within the time that Settings.drain_s_max allows by default, then it is killed.
STOP_S_MAX: Final = 10.0
# Beyond the child's time: a supervisor that does not end by then is killed, and takes the child along.
SUPERVISOR_S_MAX: Final = 5.0


def worker_command(level: str = "info") -> list[str]:
    """Return the command of a worker."""
    return [sys.executable, "-m", "faust", "-A", "streams", "worker", "--loglevel", level]


def worker_environment(slot: int | None, port: int, state_dir: Path) -> dict[str, str]:
    """Return the variables that make a worker one of several on this machine.

    Args:
        slot: its worker_slot; None leaves it unset.
        port: its HTTP port, on loopback alone.
        state_dir: its folder.
    """
    return {
        "STREAMS_WORKER_SLOT": "" if slot is None else str(slot),
        # The application adds the slot.
        "STREAMS_HTTP_PORT": str(port - (slot or 0)),
        "STREAMS_HTTP_HOST": "127.0.0.1",
        "STREAMS_STATE_DIR": str(state_dir),
    }


def is_ready(port: int) -> bool:
    """Tell whether the worker at this port answers /ready with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Launched:
    """A command that runs in a process group of its own, its output in a file.

    Args:
        command: program and arguments.
        environment: added to this process's own.
        log: where stdout and stderr go.
        stop_s_max: time that it has after SIGTERM, seconds; SIGKILL follows.
        cwd: its working folder; None: this process's.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        stop_s_max: float = STOP_S_MAX,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self._stop_s_max = stop_s_max
        supervised = [sys.executable, "-I", "-S", str(supervisor.__file__), str(os.getpid()), str(stop_s_max), *command]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                supervised,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,  # closed by the system with this process, however it ends
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the command, which stops its processes in order
                cwd=cwd,
            )

    def poll(self) -> int | None:
        """Return the exit code, 128 + N after signal N; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> int:
        """Return the exit code once it and all that it started have ended; after `terminate`."""
        try:
            self._process.wait(self._stop_s_max + SUPERVISOR_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()  # takes the child along
        # Children (a JVM, forked workers) outlive a leader that was stopped; they share its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def last_lines(self, count: int) -> list[str]:
        """Return the end of its output."""
        return self.log.read_text(errors="replace").splitlines()[-count:]
