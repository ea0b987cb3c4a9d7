"""Checkpoint files: what a restore takes from one is what the log says, or nothing."""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.state import replica_file
from streams.state.replica import MARKER, ROW, Replica
from streams.state.replica_file import ReplicaFile

HOUR_MS = 3_600_000
Log = list[tuple[bytes, bytes | None]]
LOG: Log = [
    (ROW + b"a", b"1"),
    (ROW + b"b", b"1"),
    (MARKER, b"{1}"),
    (ROW + b"a", None),
    (MARKER, b"{2}"),
    (ROW + b"c", b"1"),
]


class Clock:
    """The present, as a test sets it."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


def file_at(path: Path, clock: Clock, topic_id: str = "id") -> ReplicaFile:
    return ReplicaFile(path, topic_id, 12 * HOUR_MS, clock)


def opened(path: Path, clock: Clock, end: int = 9, topic_id: str = "id") -> ReplicaFile:
    file = file_at(path, clock, topic_id)
    assert file.open()
    file.check(end)
    return file


def read(path: Path, clock: Clock, end: int = 9, topic_id: str = "id") -> Replica:
    return file_at(path, clock, topic_id).read(lambda: end)


def add(file: ReplicaFile, log: Log, stop: int, clock: Clock) -> None:
    """Bring a file from where it is to `stop`."""
    part = log[file.next_offset : stop]
    file.append([key for key, _ in part], [payload for _, payload in part], stop, clock())


def read_on(replica: Replica, log: Log) -> Replica:
    """Read the tail of the log, as a restore does."""
    part = log[replica.next_offset :]
    replica.apply([key for key, _ in part], [payload for _, payload in part], len(log))
    return replica


def content(replica: Replica) -> tuple[object, ...]:
    return replica.rows, replica.behind, replica.marker, replica.next_offset


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written(tmp_path: Path, clock: Clock) -> Path:
    """A file of two frames: the log up to its first marker, and the rest."""
    path = tmp_path / "state" / "0.log"
    file = opened(path, clock)
    add(file, LOG, 3, clock)
    add(file, LOG, len(LOG), clock)
    file.close()
    return path


def never() -> bool:
    return True


records = st.tuples(
    st.sampled_from([ROW + b"a", ROW + b"b", ROW + b"0\xff", ROW, MARKER, b"x", b""]),
    st.sampled_from([None, b"", b"1", b"2" * 50]),
)


@settings(max_examples=300, deadline=None)
@given(
    log=st.lists(records, max_size=40),
    steps=st.lists(
        st.tuples(st.sampled_from(["append", "anew", "again", "torn", "begun"]), st.integers(1, 9)), max_size=12
    ),
)
def test_a_file_and_the_tail_are_the_log_from_its_beginning(
    tmp_path_factory: pytest.TempPathFactory, log: Log, steps: list[tuple[str, int]]
) -> None:
    """With any log, and a file cut, written anew, torn or given up at any place: same rows, same marker."""
    path, clock = tmp_path_factory.mktemp("file") / "0.log", Clock()
    file = opened(path, clock, len(log))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica_file, "SUPERSEDED_BYTES_MIN", -(10**9))
        patch.setattr(replica_file, "FRAME_RECORDS_MAX", 2)
        for step, count in steps:
            if step == "append":
                add(file, log, min(len(log), file.next_offset + count), clock)
            elif step == "anew":
                file.write_anew(never)
            elif step == "begun":
                asked = iter([True] * count)
                file.write_anew(lambda asked=asked: next(asked, False))  # type: ignore[misc]
            else:
                file.close()
                if step == "torn":
                    path.write_bytes(path.read_bytes()[:-count])
                file = opened(path, clock, len(log))
    file.close()
    whole = read_on(Replica(), log)
    assert content(read_on(read(path, clock, len(log)), log)) == content(whole)
    assert not path.with_suffix(".new").exists()


def test_a_file_spares_reading_what_it_holds(written: Path, clock: Clock) -> None:
    """Records whose marker has not come are in it, too."""
    replica = read(written, clock, len(LOG))
    assert content(replica) == ({b"b": b"1"}, {b"c": b"1"}, b"{2}", len(LOG))


def test_a_file_is_for_its_owner_alone(written: Path) -> None:
    """Its keys are those of cards."""
    assert {path.stat().st_mode & 0o777 for path in written.parent.iterdir()} == {0o600}
    assert written.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_and_file_that_others_may_read_become_private(written: Path, clock: Clock) -> None:
    """Those of an earlier release: they are used."""
    written.chmod(0o644)
    written.parent.chmod(0o755)
    opened(written, clock, len(LOG)).close()
    assert {path.stat().st_mode & 0o777 for path in (written.parent, written)} == {0o700, 0o600}
    assert read(written, clock, len(LOG)).next_offset == len(LOG)


def test_what_others_could_write_is_not_believed(written: Path, clock: Clock) -> None:
    """Rows of such a file could be anybody's: it is not read, and begun anew where this process keeps it."""
    written.chmod(0o666)
    assert read(written, clock, len(LOG)).next_offset == 0
    file = opened(written, clock, len(LOG))
    assert file.next_offset == 0
    file.close()
    assert written.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["0.log", "0.lock"])
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_is_neither_written_through_nor_read(written: Path, clock: Clock, place: str, link: str) -> None:
    """It may lead to a file of the user's that has nothing to do with this."""
    path = written.parent / place
    other = path.rename(written.parent.parent / "other")
    before = other.read_bytes()
    getattr(path, link)(other)
    with pytest.raises(OSError):
        file_at(written, clock).open()
    if place == "0.log":
        assert read(written, clock, len(LOG)).next_offset == 0
    assert other.read_bytes() == before


def test_a_folder_that_is_a_link_is_refused(written: Path, clock: Clock) -> None:
    """The folder is the worker's own; a link in place of one of its parents is the user's business."""
    folder = written.parent.rename(written.parent.parent / "elsewhere")
    written.parent.symlink_to(folder)
    with pytest.raises(OSError):
        file_at(written, clock).open()
    written.parent.unlink()
    folder.rename(written.parent)
    parent = written.parent.parent
    (parent.parent / "parent").symlink_to(parent)
    file = file_at(parent.parent / "parent" / "state" / "0.log", clock)
    assert file.open()
    file.close()


Damage = Callable[[Path, Clock], object]


def overwritten(at: int) -> Damage:
    def damage(path: Path, clock: Clock) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return damage


def waited(hours: int) -> Damage:
    def wait(path: Path, clock: Clock) -> None:
        clock.now_ms += hours * HOUR_MS

    return wait


REFUSED: dict[str, tuple[Damage, int, str, str]] = {
    "another format": (overwritten(0), 9, "id", "expected 'streams checkpoint log 1 id', got another format"),
    "a topic made anew": (waited(0), 9, "other", "expected 'streams checkpoint log 1 other', got"),
    "damaged in its first frame": (overwritten(60), 9, "id", "it holds nothing that is whole"),
    "ahead of the log": (waited(0), 5, "id", "it goes to 6, and the log to 5 only"),
    "too old": (waited(13), 9, "id", "its age is 46800 s; after 43200 s the log may have dropped tombstones"),
    "of the future": (waited(-13), 9, "id", "its age is -46800 s"),
    "no file": (lambda path, clock: (path.unlink(), path.mkdir()), 9, "id", "Is a directory"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_may_be_wrong_is_not_used(
    written: Path, clock: Clock, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """One line says why, and the worker that keeps the file begins it anew."""
    damage, end, topic_id, reason = REFUSED[kind]
    damage(written, clock)
    with caplog.at_level(logging.WARNING):
        assert content(read(written, clock, end, topic_id)) == content(Replica())
    (line,) = caplog.messages
    assert line.startswith(f"{written}: not used, the log is read from its beginning: ") and reason in line
    if kind == "no file":
        return
    file = opened(written, clock, end, topic_id)
    assert file.next_offset == 0
    add(file, LOG, 5, clock)
    file.close()
    assert read(written, clock, 5, topic_id).rows == {b"b": b"1"}


def test_no_file_is_no_reason_for_a_line(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The first start of a worker is nothing special."""
    assert content(read(tmp_path / "0.log", clock)) == content(Replica())
    assert not caplog.messages


def test_an_old_file_is_used_where_nothing_came_since(written: Path, clock: Clock) -> None:
    """There is no tombstone that it could have missed."""
    clock.now_ms += 1_000 * HOUR_MS
    assert read(written, clock, len(LOG)).next_offset == len(LOG)


@pytest.mark.parametrize("damage", [overwritten(-1), lambda path, _: path.write_bytes(path.read_bytes()[:-1])])
def test_what_comes_before_a_damage_is_used(written: Path, clock: Clock, damage: Damage) -> None:
    """The tail begins earlier then; the worker that keeps the file goes on from there."""
    damage(written, clock)
    assert content(read(written, clock)) == ({b"a": b"1", b"b": b"1"}, {}, b"{1}", 3)
    file = opened(written, clock)
    assert file.next_offset == 3
    add(file, LOG, len(LOG), clock)
    file.close()
    assert content(read(written, clock)) == content(read_on(Replica(), LOG))


def test_a_file_that_was_never_brought_to_the_end_is_not_used(tmp_path: Path, clock: Clock) -> None:
    """The age of the tombstones behind it is unknown."""
    file = opened(tmp_path / "0.log", clock)
    file.append([ROW + b"a"], [b"1"], 1, file.known_ms)
    assert read(tmp_path / "0.log", clock).next_offset == 0


def test_a_damage_that_is_met_when_the_file_is_written_anew_begins_it_anew(
    written: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that cannot be read any more must not be left out as if they were superseded."""
    monkeypatch.setattr(replica_file, "SUPERSEDED_BYTES_MIN", -(10**9))
    file = opened(written, clock)
    overwritten(-1)(written, clock)
    file.write_anew(never)
    assert file.next_offset == 0
    file.close()
    assert content(read(written, clock)) == content(Replica())


def test_a_file_is_written_anew_once_half_of_it_is_superseded(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it stays within a few times its rows, and each row is written a few times only."""
    monkeypatch.setattr(replica_file, "SUPERSEDED_BYTES_MIN", 1_000)
    path, log, sizes = tmp_path / "0.log", Log(), []
    file = opened(path, clock, 10_000)
    for _ in range(200):
        log += [(ROW + b"key", b"x" * 100), (MARKER, b"{}")]
        add(file, log, len(log), clock)
        file.write_anew(never)
        sizes.append(path.stat().st_size)
    assert max(sizes) < 2_000 and sum(after < before for before, after in pairwise(sizes)) < 30
    assert read(path, clock, 10_000).next_offset == 400


def test_one_process_keeps_a_file(written: Path, clock: Clock) -> None:
    """Another may read it meanwhile, and keep it afterwards."""
    first, second = file_at(written, clock), file_at(written, clock)
    assert first.open() and not second.open()
    assert read(written, clock).next_offset == len(LOG)
    first.close()
    assert second.open()
    second.close()


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Have the system write no file beyond a size, for the length of the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_the_file_as_it_was(
    written: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a frame fits, the rest does not: what was there can be read, and continued once there is room."""
    monkeypatch.setattr(replica_file, "SUPERSEDED_BYTES_MIN", -(10**9))
    file, before = opened(written, clock), written.read_bytes()
    with full_at(len(before) + 40):
        with pytest.raises(OSError, match=r"File too large") as raised:
            file.append([ROW + b"d"], [b"1" * 100], 7, clock())
        assert raised.value.errno == errno.EFBIG and file.next_offset == len(LOG)
    with full_at(40), pytest.raises(OSError, match="File too large"):
        file.write_anew(never)
    assert written.read_bytes() == before and not written.with_suffix(".new").exists()
    file.append([ROW + b"d"], [b"1"], 7, clock())
    file.close()
    assert read(written, clock, 7).behind == {b"c": b"1", b"d": b"1"}


def test_a_file_that_cannot_be_begun_can_be_begun_later(tmp_path: Path, clock: Clock) -> None:
    """Nothing of the failure is left, the lock neither."""
    path = tmp_path / "0.log"
    path.mkdir()
    file = file_at(path, clock)
    with pytest.raises(IsADirectoryError):
        file.open()
    path.rmdir()
    assert file.open()
    with full_at(0), pytest.raises(OSError, match="File too large"):
        file.check(9)
    file.check(9)
    add(file, LOG, 5, clock)
    assert read(path, clock).rows == {b"b": b"1"}
