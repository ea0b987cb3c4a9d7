"""Restarts and take-overs on a real Kafka: what a worker finds on its machine makes them short, and changes no decision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from streams.contract.topics import TRANSACTIONS
from tests.support.oracle import FraudOracle, checkpointed_digests, repeats_of_right_decisions
from tests.support.traffic import payments
from tests.support.workers import Bench, WorkerProcess, poll_until

pytestmark = [pytest.mark.kafka, pytest.mark.settings(checkpoint_interval_s=1, session_timeout_s=6)]
PARTITIONS = 4


def restores(worker: WorkerProcess) -> dict[int, tuple[int, int]]:
    """Return, of each partition whose cards a worker has restored, up to which offset a file went, and the log."""
    pattern = rf"{TRANSACTIONS.name}\[(\d+)\]: restored to .* (\d+) of (\d+) offsets of checkpoints from a file"
    found = re.findall(pattern, worker.log.read_text())
    return {int(number): (int(file), int(end)) for number, file, end in found}


def state_of(bench: Bench) -> str:
    """Return the topic of the cards' checkpoints."""
    return f"{bench.application_id}-card-state"


def files(bench: Bench, folder: Path) -> list[Path]:
    return sorted((folder / f"{bench.application_id}-data" / "checkpoints" / state_of(bench)).glob("*.log"))


def send(bench: Bench, records: Sequence[dict[str, Any]], decisions: int) -> None:
    bench.produce_json("transactions", "card_id", records)
    bench.wait_for("fraud-decisions", decisions)


def wait_until_kept(bench: Bench, folder: Path) -> None:
    """Return when the files hold a checkpoint of every partition: when they have grown, and grow no more."""
    poll_until(
        lambda: {m.partition() for m in bench.read(state_of(bench))} == set(range(PARTITIONS)), 30, "checkpoints"
    )
    sizes: list[list[int]] = []

    def settled() -> bool:
        sizes.append([path.stat().st_size for path in files(bench, folder)])
        return len(sizes[-1]) == PARTITIONS and len(sizes) > 60 and sizes[-1] == sizes[-60]

    poll_until(settled, 60, "files that grow no more")


def assert_exact(bench: Bench, last: WorkerProcess) -> None:
    """Check every decision, and the state that the last worker leaves behind, against a run without an interruption."""
    oracle = FraudOracle(bench.read("transactions"), bench.read("transaction-labels"))
    assert repeats_of_right_decisions(bench.read("fraud-decisions"), oracle) == 0
    assert last.stop() < 10.0
    assert checkpointed_digests(bench.read(state_of(bench))) == oracle.digests


def test_a_killed_worker_restarts_from_what_is_whole_of_its_files(bench: Bench) -> None:
    """kill -9, and the next worker reads the checkpoints' tail; without a file all of them. Decisions are the same."""
    records, labels = payments(9_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    first = bench.start(0).wait_until_ready()
    send(bench, records[:6_000], 6_000)
    wait_until_kept(bench, bench.folder)
    first.kill()
    assert restores(first) == dict.fromkeys(range(PARTITIONS), (0, 0))
    missing, damaged, *whole = files(bench, bench.folder)
    missing.unlink()
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 255
    damaged.write_bytes(data)
    first.log.unlink()
    second = bench.start(0, checkpoint_interval_s=60).wait_until_ready()  # nor are files mended before they are read
    send(bench, records[6_000:], 9_000)
    found = restores(second)
    assert len(found) == PARTITIONS and all(end > 0 for _, end in found.values())
    assert {number for number, (file, end) in found.items() if file == end} == {int(path.stem) for path in whole}
    assert_exact(bench, second)


def test_a_worker_that_was_stopped_restarts_from_files_alone(bench: Bench) -> None:
    """Its last checkpoint is in them: of the log nothing is left to read."""
    records, labels = payments(4_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    first = bench.start(0, checkpoint_interval_s=60).wait_until_ready()
    send(bench, records[:3_000], 3_000)
    first.stop()
    first.log.unlink()
    second = bench.start(0).wait_until_ready()
    send(bench, records[3_000:], 4_000)
    assert [file == end > 0 for file, end in restores(second).values()] == [True] * PARTITIONS
    assert_exact(bench, second)


def test_a_standby_takes_over_from_its_files(bench: Bench) -> None:
    """A worker on another machine, which owned few partitions or none, has what the dead one wrote, but for a tail."""
    records, labels = payments(9_000)
    bench.produce_json("transaction-labels", "card_id", labels)
    folders = [bench.folder / f"machine-{slot}" for slot in range(2)]
    first, second = (bench.start(slot, checkpoint_files="all", state_dir=folder) for slot, folder in enumerate(folders))
    for worker in (first, second):
        worker.wait_until_ready()
    send(bench, records[:6_000], 6_000)
    for folder in folders:
        wait_until_kept(bench, folder)
    before = restores(second)
    assert len(before) < PARTITIONS
    first.kill()
    send(bench, records[6_000:], 9_000)
    taken = {number: found for number, found in restores(second).items() if number not in before}
    assert len(taken) + len(before) == PARTITIONS and all(file > 0 for file, _ in taken.values())
    assert_exact(bench, second)
