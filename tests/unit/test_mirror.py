"""Mirror: files follow the logs of the partitions that are wanted, and say where they cannot."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import streams.state.mirror
from streams.errors import KafkaUnavailable
from streams.state.mirror import Mirror
from streams.state.replica import MARKER, ROW, Replica
from tests.support.workers import poll_until

DAY_MS = 86_400_000


class Logs:
    """A reader of topics that are lists, each with a hole at its end, as the mark of a transaction leaves one."""

    def __init__(self, **logs: list[tuple[bytes, bytes | None]]) -> None:
        self.logs = logs
        self.read_from: list[tuple[str, int, int]] = []
        self.down = self.closed = False
        self.breaks_at = 1_000
        self.held = threading.Event()
        self.held.set()

    def topic_id(self, topic: str) -> str:
        return f"id of {topic}"

    def tombstones_kept_ms(self, topic: str) -> int:
        return DAY_MS

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        if self.down:
            raise KafkaUnavailable("nobody answers")
        return {number: len(self.logs[topic]) + bool(self.logs[topic]) for number in partitions}

    def read(self, topic: str, partition: int, first: int, stop: int) -> Iterator[list[Any]]:
        self.read_from.append((topic, partition, first))
        self.held.wait()
        for offset, (key, value) in list(enumerate(self.logs[topic]))[first:stop]:
            if offset == self.breaks_at:
                raise KafkaUnavailable("nobody answers any more")
            yield [SimpleNamespace(key=lambda k=key: k, value=lambda v=value: v, offset=lambda o=offset: o)]

    def interrupt(self) -> None:
        self.held.set()

    def close(self) -> None:
        self.closed = True


Read = Callable[[int, int], Replica]


def reads(one: Mirror, topic: str) -> Read:
    """Return what reads the file of a partition whose log ends there."""
    read = one.add(topic)
    return lambda number, end: read(number, lambda: end)


def checkpoint(number: int) -> list[tuple[bytes, bytes | None]]:
    return [(ROW + b"%d" % number, b"1"), (MARKER, b"{}")]


def mirror(folder: Path, logs: Logs, interval_s: float = 0.01, failed: Callable[[], object] = lambda: None) -> Mirror:
    return Mirror(folder, logs, interval_s, failed)  # type: ignore[arg-type]


def test_files_follow_the_partitions_that_are_wanted(tmp_path: Path) -> None:
    """Each round reads on where the file ends; a file that is not wanted any more can be kept by another worker."""
    logs = Logs(cards=checkpoint(1), clicks=[])
    others = Logs(**logs.logs)
    first, second = mirror(tmp_path, logs), mirror(tmp_path, others)
    read, read_second = reads(first, "cards"), reads(second, "cards")
    first.add("clicks")
    first.start(), second.start()
    first.follow([("cards", 0), ("cards", 2), ("clicks", 0)])
    poll_until(lambda: read(0, 3).next_offset == read(2, 3).next_offset == 3, 10, "files")
    assert read(0, 3).rows == {b"1": b"1"} and read(1, 3).next_offset == 0
    logs.logs["cards"] += [(b"", b""), *checkpoint(2)]
    poll_until(lambda: read(0, 6).next_offset == 6, 10, "the file to follow")
    assert read(0, 6).rows == {b"1": b"1", b"2": b"1"}
    assert {place for place in logs.read_from if place[1] == 0} == {("cards", 0, 0), ("cards", 0, 3)}
    second.follow([("cards", 0)])
    first.follow([("cards", 2)])
    logs.logs["cards"] += [(b"", b""), *checkpoint(3)]
    poll_until(lambda: read_second(0, 9).next_offset == 9, 10, "another's file")
    first.close(), second.close()
    assert others.read_from[-1] == ("cards", 0, 6) and logs.closed


def test_what_is_written_last_is_in_the_file(tmp_path: Path) -> None:
    """A worker's last checkpoint comes behind the last round of its time."""
    logs = Logs(cards=checkpoint(1))
    one = mirror(tmp_path, logs, interval_s=1_000.0)
    read = reads(one, "cards")
    one.follow([("cards", 0)])
    one.start()
    assert read(0, 3).next_offset == 0
    one.close()
    assert read(0, 3).next_offset == 3


def test_a_log_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last round misses is read at the next start."""
    monkeypatch.setattr(streams.state.mirror, "LAST_ROUND_S_MAX", 0.2)
    logs = Logs(cards=checkpoint(1))
    logs.held.clear()
    one = mirror(tmp_path, logs)
    one.add("cards")
    one.follow([("cards", 0)])
    one.start()
    poll_until(lambda: logs.read_from, 10, "a reading that hangs")
    began = time.monotonic()
    one.close()
    assert 0.2 <= time.monotonic() - began < 2.0 and logs.closed


def test_a_cluster_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """Others tell that it is; the files are as good as before."""
    logs = Logs(cards=checkpoint(1))
    logs.down = True
    one = mirror(tmp_path, logs)
    read = reads(one, "cards")
    one.follow([("cards", 0)])
    one.start()
    time.sleep(0.05)
    assert one.failure is None
    logs.down = False
    poll_until(lambda: read(0, 3).next_offset == 3, 10, "a file")
    one.close()


def test_a_file_that_was_not_brought_to_the_end_does_not_count(tmp_path: Path) -> None:
    """What stands behind it may be as old as the log, tombstones that are about to go among it."""
    logs = Logs(cards=checkpoint(1))
    logs.breaks_at = 1
    one = mirror(tmp_path, logs)
    read = reads(one, "cards")
    one.follow([("cards", 0)])
    one.start()
    poll_until(lambda: len(logs.read_from) > 2, 10, "readings that break off")
    assert set(logs.read_from) == {("cards", 0, 0)} and read(0, 3).next_offset == 0
    logs.breaks_at = 1_000
    poll_until(lambda: read(0, 3).next_offset == 3, 10, "a file")
    logs.logs["cards"] += [(b"", b""), *checkpoint(2)]
    logs.breaks_at = 4
    poll_until(lambda: read(0, 6).next_offset == 4, 10, "a file that is continued in part")
    one.close()


def test_a_file_that_cannot_be_written_is_told_until_it_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once in the log, counted each round, and by the reason that /ready gives."""
    logs = Logs(cards=checkpoint(1))
    failures: list[int] = []
    one = mirror(tmp_path / "files", logs, failed=lambda: failures.append(1))
    read = reads(one, "cards")
    (tmp_path / "files").write_text("a file where the folder should be")
    one.follow([("cards", 0), ("cards", 1)])
    one.start()
    poll_until(lambda: len(failures) > 10, 10, "failures")
    assert (one.failure or "").endswith(
        "0.log: not written: Not a directory; make room in state_dir, or delete what stands there"
    )
    assert sum("not written, a restore will read more" in line for line in caplog.messages) == 2
    assert read(0, 3) is not None
    (tmp_path / "files").unlink()
    poll_until(lambda: one.failure is None, 10, "files")
    assert read(0, 3).next_offset == 3
    one.close()


def test_failures_of_partitions_that_went_away_are_forgotten(tmp_path: Path) -> None:
    """A worker is not held unready by what it does not do any more."""
    logs = Logs(cards=checkpoint(1))
    one = mirror(tmp_path / "files", logs)
    one.add("cards")
    (tmp_path / "files").write_text("")
    one.follow([("cards", 0)])
    one.start()
    poll_until(lambda: one.failure, 10, "a failure")
    one.follow([])
    poll_until(lambda: one.failure is None, 10, "no failure")
    one.close()


def test_a_mirror_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    """Files that quietly grow old would be noticed in the worst moment."""
    logs = Logs(cards=[(b"r1", 5)])  # type: ignore[list-item]
    one = mirror(tmp_path, logs)
    one.add("cards")
    one.follow([("cards", 0)])
    one.start()
    poll_until(lambda: one.failure, 10, "a failure")
    assert "not written any more: TypeError" in (one.failure or "")
    one.close()


def test_a_file_that_was_not_continued_for_long_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept may have missed tombstones; one that idled has not."""
    now_ms = 1_700_000_000_000
    monkeypatch.setattr(streams.state.mirror, "clock_ms", lambda: now_ms)
    logs = Logs(cards=checkpoint(1))
    one = mirror(tmp_path, logs)
    read = reads(one, "cards")
    one.follow([("cards", 0)])
    one.start()
    poll_until(lambda: read(0, 3).next_offset == 3, 10, "a file")
    now_ms += 30 * DAY_MS
    renewed = (tmp_path / "cards" / "0.log").stat().st_size
    poll_until(lambda: (tmp_path / "cards" / "0.log").stat().st_size > renewed, 10, "a file that is renewed")
    assert read(0, 9).next_offset == 3
    logs.read_from.clear()
    one.close()
    now_ms += 30 * DAY_MS
    logs.logs["cards"] += [(b"", b""), *checkpoint(2)]
    again = mirror(tmp_path, logs)
    again.add("cards")
    again.follow([("cards", 0)])
    again.start()
    poll_until(lambda: read(0, 6).next_offset == 6, 10, "a file")
    assert logs.read_from == [("cards", 0, 0)]
    again.close()


def test_files_that_are_deleted_are_made_again(tmp_path: Path) -> None:
    """The worker goes on without a stop."""
    logs = Logs(cards=checkpoint(1))
    one = mirror(tmp_path / "files", logs)
    read = reads(one, "cards")
    one.follow([("cards", 0)])
    one.start()
    for _ in range(3):
        poll_until(lambda: read(0, 3).rows, 10, "a file")
        shutil.rmtree(tmp_path / "files", ignore_errors=True)
    poll_until(lambda: read(0, 3).rows, 10, "a file")
    poll_until(lambda: one.failure is None, 10, "no failure")
    one.close()
