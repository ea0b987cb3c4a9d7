"""Keep one process, a broker or a worker, alive exactly as long as its owner wants it.

Runs by path, as `python -I -S supervisor.py OWNER GRACE_S COMMAND...`, with the standard library alone. It starts the
command, writes the child's pid as one line on stdout, and waits for the first of:

- the child ends: exit with its code;
- SIGTERM, SIGINT or SIGHUP: stop the child, SIGKILL after GRACE_S seconds;
- OWNER is not 0 and its process has ended in any way: the same.

The supervisor's own end by SIGKILL takes the child along on Linux (PR_SET_PDEATHSIG), so no order of deaths leaves a
process behind. PR_SET_PDEATHSIG alone is not enough: it follows the *thread* that started the child, not the process.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

# The pipe shows the owner's end at once, unless a forked child of the owner holds it; then the parent's pid shows it.
OWNER_CHECK_S = 1.0

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_supervisor() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _wake(_signal: int, _frame: FrameType | None) -> None:
    """Let the wake-up descriptor carry the signal's number; a handler must exist for that."""


def _listen() -> int:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _wake)
    signal.set_wakeup_fd(writer)
    return reader


def _stop(child: subprocess.Popen[bytes], grace_s: float) -> None:
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGCONT)  # a stopped process would not see the SIGTERM
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def supervise(owner: int, grace_s: float, command: list[str]) -> int:
    """Run the command until it ends or is no longer wanted.

    Args:
        owner: pid whose end stops the child, with a pipe from it as stdin; 0: only a signal stops it.
        grace_s: time that the child has after SIGTERM, seconds.
        command: program and arguments.

    Returns:
        The child's exit code, 128 + N after signal N.
    """
    signals = _listen()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        preexec_fn=_die_with_supervisor,  # safe with the one thread that runs here
    )
    os.write(1, b"%d\n" % child.pid)
    os.dup2(2, 1)
    watched = [signals, 0] if owner else [signals]
    started_s = time.monotonic()
    while child.poll() is None:
        ready, _, _ = select.select(watched, (), (), OWNER_CHECK_S if owner else None)
        wanted = not owner or (os.getppid() == owner and 0 not in ready)
        if signals in ready and not set(os.read(signals, 64)) <= {signal.SIGCHLD}:
            wanted = False
        if not wanted:
            _stop(child, grace_s)
    code = child.returncode
    print(f"supervisor: the process ended with {code} after {time.monotonic() - started_s:.1f} s", file=sys.stderr)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
