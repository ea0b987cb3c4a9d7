"""The launcher: what it starts is gone when it says so, and its output is kept."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from streams.processes.launcher import Launched, worker_environment

# The child ignores SIGTERM if told so, and leaves a grandchild behind that nothing but the group's end stops.
SCRIPT = """
import os, pathlib, signal, subprocess, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("begun", os.environ["GREETING"], flush=True)
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {left.pid}")
time.sleep(60)
"""


def _pids(file: Path) -> list[int]:
    deadline = time.monotonic() + 20.0
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, "the child did not begin"
        time.sleep(0.02)
    return [int(pid) for pid in file.read_text().split()]


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("kind", "code"), [("willing", 128 + 15), ("stubborn", 128 + 9)])
def test_a_launched_process_ends_with_all_that_it_started(kind: str, code: int, tmp_path: Path) -> None:
    """SIGTERM first, SIGKILL after the time that it was given; what it left behind goes too."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "pids"), kind]
    launched = Launched(command, {"GREETING": "hello"}, tmp_path / "log", stop_s_max=0.5)
    child, left = _pids(tmp_path / "pids")
    assert launched.poll() is None
    launched.terminate()
    assert launched.wait() == code
    assert _is_gone(child)
    deadline = time.monotonic() + 5.0
    while not _is_gone(left):
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.02)
    assert "begun hello" in launched.last_lines(10)


def test_workers_of_one_machine_share_neither_port_nor_name(tmp_path: Path) -> None:
    """The application adds the slot to the port: the port asked for is the one that it listens on."""
    environment = worker_environment(3, 20_103, tmp_path)
    assert environment["STREAMS_HTTP_PORT"] == "20100" and environment["STREAMS_WORKER_SLOT"] == "3"
    assert environment["STREAMS_HTTP_HOST"] == "127.0.0.1"
