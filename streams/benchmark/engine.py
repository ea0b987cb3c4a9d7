"""Runs of a benchmark: start a system, feed it, watch its output topic, count by id, report one row."""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streams.benchmark.cluster import Kafka, read_outputs, reader
from streams.benchmark.statistics import (
    BenchmarkError,
    Tally,
    events_per_second,
    percentiles_ms,
    tally,
    tally_seen,
)
from streams.benchmark.traffic import CARDS, Payments, make_payments, preload, receive, send_open_loop
from streams.clients.cluster import offset_ranges, require_topics
from streams.processes.launcher import Launched

START_S_MAX = 180.0  # a JVM, a Python worker and torch start one after the other, on a machine that may be busy
STALL_S_MAX = 30.0  # longer than a rebalance or a restart; outputs missing after such a silence count as lost
SETTLE_S = 1.0  # quiet time after the last expected output, in which a repeat would show
STOP_S_MAX = 15.0
POLL_S = 0.1
LATENCY_WARM_UP = 2_000  # payments answered before the clock starts: connections, caches and first batches are warm
LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Launch:
    """One process of a system under test; `environment` is added to the environment of this process."""

    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class System:
    """The system under test: its processes, the topics that it reads and writes, the versions of its parts."""

    name: str
    launches: Sequence[Launch]
    input_topic: str
    output_topic: str
    versions: Mapping[str, str]


@dataclass(slots=True)
class _Progress:
    """Records in the output topic over time, as the harness saw them."""

    times_ms: list[float] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)


def new_run() -> str:
    """Return a prefix for the ids, topics and groups of one run."""
    return uuid.uuid4().hex[:8]


def run_throughput(system: System, kafka: Kafka, run: str, events: int, cards: int = CARDS) -> dict[str, Any]:
    """Return the row of one throughput run on topics that are empty.

    Args:
        system: the system to start.
        kafka: connection settings.
        run: prefix of the ids.
        events: payments to preload.
        cards: cards that pay.

    Raises:
        BenchmarkError: the system ended or never answered, or outputs carry no usable time.
    """
    preload(kafka, system.input_topic, make_payments(events, run, cards=cards))
    with _running(system) as processes:
        begin = time.monotonic()
        progress = _wait_for_outputs(kafka, system, processes, events)
        seconds = time.monotonic() - begin
    outputs = read_outputs(kafka, system.output_topic, run)
    if outputs.log_append_time:
        rate = events_per_second(outputs.times_ms)
    else:
        # Another program made the output topic without log-append timestamps: use end offsets, seen every POLL_S.
        rate = events_per_second(np.array(progress.times_ms), np.diff(progress.totals, prepend=0))
    return _row(
        system,
        tally(outputs.positions, events),
        mode="throughput",
        events=events,
        seconds=round(seconds, 3),
        events_per_second=round(rate, 1),
        clock="log-append" if outputs.log_append_time else "end-offsets",
    )


def run_latency(
    system: System, kafka: Kafka, run: str, rate: float, seconds: float, warm_up_s: float = 5.0, cards: int = CARDS
) -> dict[str, Any]:
    """Return the row of one latency run on topics that are empty.

    Args:
        system: the system to start.
        kafka: connection settings.
        run: prefix of the ids.
        rate: payments/s, sent whether they are answered or not.
        seconds: measured time.
        warm_up_s: seconds under load that are not measured.
        cards: cards that pay.

    Raises:
        BenchmarkError: the system ended or never answered.
    """
    first = LATENCY_WARM_UP + int(rate * warm_up_s)
    count = first + int(rate * seconds)
    payments = make_payments(count, run, cards=cards)
    warm_up = Payments(payments.keys[:LATENCY_WARM_UP], payments.values[:LATENCY_WARM_UP])
    preload(kafka, system.input_topic, warm_up)
    with _running(system) as processes, tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        _wait_for_outputs(kafka, system, processes, LATENCY_WARM_UP)
        sent_file, received_file, seen_file = (Path(folder, name) for name in ("sent", "received", "seen"))
        for file, length in ((sent_file, count), (received_file, count), (seen_file, count + 1)):
            np.memmap(file, np.int64, "w+", shape=(length,)).flush()
        spawn = multiprocessing.get_context("spawn")
        sender_ready, receiver_ready, go, stop = (spawn.Event() for _ in range(4))
        sender = spawn.Process(
            target=send_open_loop,
            args=(
                dict(kafka),
                system.input_topic,
                count,
                LATENCY_WARM_UP,
                run,
                rate,
                cards,
                sent_file,
                sender_ready,
                go,
            ),
            daemon=True,
        )
        receiver = spawn.Process(
            target=receive,
            args=(dict(kafka), system.output_topic, count, run, received_file, seen_file, receiver_ready, stop),
            daemon=True,
        )
        try:
            sender.start()
            receiver.start()
            for name, ready in (("sender", sender_ready), ("receiver", receiver_ready)):
                if not ready.wait(60):
                    raise BenchmarkError(f"{name}: expected to be ready within 60 s; the machine is too busy")
            go.set()
            sender.join((count - LATENCY_WARM_UP) / rate * 2 + 60)
            if sender.exitcode != 0:
                raise BenchmarkError(
                    f"sender: expected to send {rate:g}/s, ended with {sender.exitcode}; lower the rate"
                )
            _wait_for_outputs(kafka, system, processes, count)
            stop.set()
            receiver.join(30)
        finally:
            for process in (sender, receiver):
                if process.is_alive():
                    process.kill()
        sent, received = np.fromfile(sent_file, np.int64), np.fromfile(received_file, np.int64)
        seen = np.fromfile(seen_file, np.int64)
    p50, p99, p999 = percentiles_ms(sent[first:], received[first:])
    return _row(
        system,
        tally_seen(seen[:count], int(seen[count])),
        mode="latency",
        events=count - first,
        seconds=seconds,
        rate=rate,
        p50_ms=round(p50, 3),
        p99_ms=round(p99, 3),
        p999_ms=round(p999, 3),
        # Lateness of the generator itself: beyond a few ms the run measured the machine, not the system.
        generator_late_p99_ms=round(_lateness_ms(sent[first:], rate), 3),
        events_per_second=round(_achieved_rate(received[first:]), 1),
    )


def commit() -> str:
    """Return the commit of the checkout that this package comes from; "installed" outside a checkout."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "installed"
    return described.stdout.strip()


def versions_of(*distributions: str) -> dict[str, str]:
    """Return the versions of Python and of installed distributions."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in distributions}


def _row(system: System, counts: Tally, **measured: Any) -> dict[str, Any]:
    """Return a row with every key; a value that the mode does not measure is None."""
    row: dict[str, Any] = {"system": system.name, "mode": None}
    row |= dict.fromkeys(("events_per_second", "p50_ms", "p99_ms", "p999_ms"))
    row |= {"lost": counts.lost, "repeated": counts.repeated, "foreign": counts.foreign}
    row |= {"events": None, "rate": None, "seconds": None, "workers": len(system.launches)}
    row |= measured
    return row | {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": dict(system.versions),
        "commit": commit(),
        "command": shlex.join(sys.argv),
    }


def _lateness_ms(sent_ns: np.ndarray[Any, np.dtype[np.int64]], rate: float) -> float:
    """Return the 99th percentile of the sender's delay behind its schedule, in ms; its most punctual call sets the schedule."""
    behind = sent_ns - np.arange(len(sent_ns)) * (1e9 / rate)
    return float(np.percentile(behind - behind.min(), 99) / 1e6)


def _achieved_rate(received_ns: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    arrived = received_ns[received_ns > 0]
    return float((len(arrived) - 1) / (arrived.max() - arrived.min()) * 1e9)


@contextlib.contextmanager
def _running(system: System) -> Iterator[list[Launched]]:
    """Start the processes of a system; end them, and the processes that they started, on exit."""
    with tempfile.TemporaryDirectory(prefix=f"streams-bench-{system.name}-") as folder:
        processes: list[Launched] = []
        try:
            for slot, launch in enumerate(system.launches):
                log = Path(folder, f"{system.name}-{slot}.log")
                processes.append(Launched(launch.command, launch.environment, log, STOP_S_MAX))
            yield processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _tail(process: Launched) -> str:
    return "\n".join(f"    {line[:300]}" for line in process.last_lines(LOG_TAIL_LINES))


def _wait_for_outputs(kafka: Kafka, system: System, processes: Sequence[Launched], expected: int) -> _Progress:
    """Watch the output topic until quiet follows `expected` outputs, or no output comes for STALL_S_MAX."""
    progress = _Progress()
    begin = last_change = time.monotonic()
    total = 0
    with contextlib.closing(reader(kafka)) as consumer:
        counts = require_topics(consumer, [system.output_topic])
        while True:
            for process in processes:
                if (code := process.poll()) is not None:
                    raise BenchmarkError(
                        f"{system.name}: expected to run until all is answered, "
                        f"ended with {code} at {total:,} of {expected:,} outputs:\n{_tail(process)}"
                    )
            now_total = sum(end for _first, end in offset_ranges(consumer, counts).values())
            now = time.monotonic()
            if now_total != total:
                total, last_change = now_total, now
                progress.times_ms.append(now * 1e3)
                progress.totals.append(total)
            quiet = now - last_change
            if total >= expected and quiet >= SETTLE_S:
                return progress
            if total and quiet >= STALL_S_MAX:
                return progress
            if not total and now - begin >= START_S_MAX:
                raise BenchmarkError(
                    f"{system.name}: expected a first output within {START_S_MAX:.0f} s, got none:\n"
                    f"{_tail(processes[0])}"
                )
            time.sleep(POLL_S)
