"""ReplicaFile: the checkpoint log of one partition as a file of this machine, so that a restore reads the log's tail only.

The file holds the log's records in columns, as they were read, a frame after the other; once most of it is superseded it
is written anew with one record for each key. A line names the format and the topic's id at the cluster; a frame is

    checksum u64, records u32, 0 u32, bytes of keys u64, of payloads u64, next_offset i64, known_ms i64 |
    size of each key u32, of each payload i32 (-1: none) | keys | payloads

little-endian, the checksum XXH3 of what follows it in the frame. Frames with next_offset 0 count together with the one that
ends them. `known_ms`: what stands in the log from next_offset on was appended after this moment of this machine's clock.

The file saves time and decides nothing. Where it is missing, damaged, of a topic that was made anew, or so old that the
log may have dropped tombstones which the file has not seen, the log is read from its beginning.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from streams.state.replica import Replica

assert sys.byteorder == "little", "sizes are written as they lie in memory"

logger = logging.getLogger(__name__)

FORMAT = "streams checkpoint log 1"
FRAME = struct.Struct("<QIIQQqq")
CHECKSUM_BYTES = 8
# A frame is made, and read, in a few calls that each hold the interpreter: a millisecond for so many records.
FRAME_RECORDS_MAX = 2_048
# Written anew once so much is superseded, and as much again as the file had then.
SUPERSEDED_BYTES_MIN = 8 * 1024 * 1024
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Frame:
    """Consecutive records of the log, encoded."""

    records: int
    key_bytes: int
    next_offset: int
    known_ms: int
    body: bytes

    @classmethod
    def read(cls, file: BinaryIO) -> Frame | None:
        """Return the next frame; None, and the file stands where it stood, if the next one is not whole."""
        begin = file.tell()
        head = file.read(FRAME.size)
        if len(head) == FRAME.size:
            checksum, records, _, key_bytes, payload_bytes, next_offset, known_ms = FRAME.unpack(head)
            size = 8 * records + key_bytes + payload_bytes
            if size <= os.fstat(file.fileno()).st_size - file.tell():
                body = file.read(size)
                if checksum == checksum_of(head, body):
                    return cls(records, key_bytes, next_offset, known_ms, body)
        file.seek(begin)
        return None

    def columns(self) -> tuple[list[bytes], list[bytes | None]]:
        """Return keys and payloads."""
        at = 4 * self.records
        key_sizes = np.frombuffer(self.body, np.uint32, self.records)
        sizes = np.frombuffer(self.body, np.int32, self.records, at)
        payloads: list[bytes | None] = [*cut(self.body, 2 * at + self.key_bytes, np.maximum(sizes, 0))]
        for place in np.flatnonzero(sizes < 0).tolist():
            payloads[place] = None
        return cut(self.body, 2 * at, key_sizes), payloads


def cut(body: bytes, begin: int, sizes: NDArray[Any]) -> list[bytes]:
    """Return consecutive parts of `body` from `begin` on."""
    ends = (begin + np.cumsum(sizes, dtype=np.int64)).tolist()
    return [body[first:end] for first, end in pairwise([begin, *ends])]


def encode(keys: Sequence[bytes], payloads: Sequence[bytes | None], next_offset: int, known_ms: int) -> bytes:
    """Return records as a frame."""
    key_sizes = np.array(list(map(len, keys)), np.uint32)
    sizes = np.array([-1 if payload is None else len(payload) for payload in payloads], np.int32)
    body = b"".join([key_sizes.tobytes(), sizes.tobytes(), *keys, *filter(None, payloads)])
    key_bytes, payload_bytes = int(key_sizes.sum()), int(np.maximum(sizes, 0).sum())
    fields = (len(keys), 0, key_bytes, payload_bytes, next_offset, known_ms)
    return FRAME.pack(checksum_of(FRAME.pack(0, *fields), body), *fields) + body


def checksum_of(head: bytes, body: bytes) -> int:
    """Return the checksum of a frame; the one in its head is not read."""
    digest = xxhash.xxh3_64(head[CHECKSUM_BYTES:])
    digest.update(body)
    return digest.intdigest()


@dataclass(slots=True)
class Extent:
    """How far a file is whole, and what it includes."""

    length: int = 0
    first_length: int = 0  # up to the first frame that counts: all of it when it was last written anew
    next_offset: int = 0
    known_ms: int = 0


class ReplicaFile:
    """One file. Any process may `read`; the rest is for the one process that has it open.

    Args:
        path: of the file; its lock is beside it.
        topic_id: of the topic at the cluster.
        age_ms_max: a file that knows of nothing later is not used, unless nothing came since.
        clock_ms: tells the present, ms since the epoch.
    """

    def __init__(self, path: Path, topic_id: str, age_ms_max: int, clock_ms: Callable[[], int]) -> None:
        self.path, self._age_ms_max, self._clock_ms = path, age_ms_max, clock_ms
        self._head = f"{FORMAT} {topic_id}\n".encode()
        self._lock: int | None = None
        self._file: BinaryIO | None = None
        self._extent = Extent()

    @property
    def next_offset(self) -> int:
        """Where to read on in the log."""
        return self._extent.next_offset

    @property
    def known_ms(self) -> int:
        """See the module; 0 until the file has been brought to the log's end once."""
        return self._extent.known_ms

    def read(self, end: Callable[[], int]) -> Replica:
        """Return what the file says of the log; a copy that says nothing where it is not to be used.

        Args:
            end: tells where the log ends; asked behind the file, which may grow meanwhile.
        """
        replica = Replica()

        def take(frame: Frame) -> None:
            replica.apply(*frame.columns(), frame.next_offset)

        try:
            if not self.path.stat().st_size:
                return replica
            self._refuse(self._scan(take), end())
        except FileNotFoundError:
            return replica
        except (OSError, _Unusable) as exc:
            logger.warning("%s: not used, the log is read from its beginning: %s", self.path, exc)
            return Replica()
        return replica

    def _scan(self, take: Callable[[Frame], object]) -> Extent:
        """Take each frame up to the first that is not whole."""
        extent = Extent()
        with os.fdopen(open_private(self.path, os.O_RDONLY), "rb") as file:
            if file.readline(len(self._head)) != self._head:
                raise _Unusable(f"expected {self._head.decode().strip()!r}, got another format or a topic made anew")
            while (frame := Frame.read(file)) is not None:
                take(frame)
                extent.next_offset, extent.known_ms = frame.next_offset, frame.known_ms
                extent.length = file.tell()
                extent.first_length = extent.first_length or (extent.length if frame.next_offset else 0)
            if rest := os.fstat(file.fileno()).st_size - file.tell():
                logger.info("%s: %d bytes at its end are not whole, and not used", self.path, rest)
        return extent

    def _refuse(self, extent: Extent, end: int) -> None:
        age_ms = self._clock_ms() - extent.known_ms
        if not extent.next_offset:
            raise _Unusable("it holds nothing that is whole")
        if not extent.known_ms:
            raise _Unusable("it was never brought to the log's end")
        if extent.next_offset > end:
            raise _Unusable(f"it goes to {extent.next_offset}, and the log to {end} only")
        if extent.next_offset < end and abs(age_ms) > self._age_ms_max:
            raise _Unusable(
                f"its age is {age_ms / 1000:.0f} s; after {self._age_ms_max / 1000:.0f} s the log may have dropped "
                "tombstones that it has not seen"
            )

    def open(self) -> bool:
        """Take the file, to be checked and continued; False where another process has it.

        Raises:
            OSError: the folder or the file cannot be written.
        """
        make_private(self.path.parent)
        self._lock = open_private(self.path.with_suffix(".lock"))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however that ends
            self._file = os.fdopen(open_private(self.path), "r+b", buffering=0)
            self._extent = self._scan(lambda frame: None)
        except BlockingIOError:
            self.close()
            return False
        except OSError:
            self.close()
            raise
        except _Unusable:
            self._extent = Extent()
        return True

    def is_there(self) -> bool:
        """Tell whether the file that was opened still is the one of this path: an operator may have deleted it."""
        assert self._file is not None
        try:
            return self.path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def check(self, end: int) -> None:
        """Begin anew if the file cannot be continued in a log that ends at `end`.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            self._refuse(self._extent, end)
        except _Unusable as exc:
            self._begin(str(exc))

    def _begin(self, reason: str) -> None:
        if self._extent.next_offset:
            logger.warning("%s: begun anew: %s", self.path, reason)
        self._extent = Extent()
        assert self._file is not None
        self._file.truncate(0)
        self._write(self._head)

    def append(self, keys: Sequence[bytes], payloads: Sequence[bytes | None], next_offset: int, known_ms: int) -> None:
        """Add the log's records from `self.next_offset` to `next_offset`.

        Raises:
            OSError: they cannot be written; the file is as it was.
        """
        self._write(encode(keys, payloads, next_offset, known_ms))
        extent = self._extent
        extent.next_offset, extent.known_ms = next_offset, known_ms
        extent.first_length = extent.first_length or extent.length

    def _write(self, data: bytes) -> None:
        file, extent, left = self._file, self._extent, memoryview(data)
        assert file is not None
        try:
            file.seek(extent.length)
            while left:
                left = left[file.write(left) :]
        except OSError:
            with suppress(OSError):  # what is not whole is passed over anyway
                file.truncate(extent.length)
            raise
        extent.length += len(data)

    def write_anew(self, go_on: Callable[[], bool]) -> None:
        """Leave out what is superseded, if that is worth it; give up where `go_on`, asked once a frame, says no.

        Raises:
            OSError: the new file cannot be written; the old one is as it was.
        """
        if self._extent.length < 2 * self._extent.first_length + SUPERSEDED_BYTES_MIN:
            return
        replica = Replica()

        def take(frame: Frame) -> None:
            if not go_on():
                raise _GivenUp
            replica.apply(*frame.columns(), frame.next_offset)

        new = self.path.with_suffix(".new")
        try:
            if self._scan(take).next_offset != self.next_offset:
                return self._begin("it is damaged")
            with os.fdopen(open_private(new), "r+b") as file:
                file.truncate(0)
                file.write(self._head)
                for keys, payloads in replica.drained(FRAME_RECORDS_MAX):
                    file.write(encode(keys, payloads, 0, self.known_ms))
                    if not go_on():
                        raise _GivenUp
                file.write(encode([], [], self.next_offset, self.known_ms))
                file.flush()
                os.fsync(file.fileno())
                length = file.tell()
            new.replace(self.path)
        except _GivenUp:
            return
        finally:
            new.unlink(missing_ok=True)
        self._extent = Extent(length, length, self.next_offset, self.known_ms)
        assert self._file is not None
        self._file.close()
        self._file = os.fdopen(open_private(self.path), "r+b", buffering=0)

    def close(self) -> None:
        """Let others have the file."""
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            os.close(self._lock)
        self._file = self._lock = None


class _Unusable(Exception):
    """Why a file is not used."""


class _GivenUp(Exception):
    """The writer has something better to do."""


def make_private(folder: Path) -> None:
    """Make a folder that only this user may enter, or take one that is this user's; its parents are as the user has them.

    Raises:
        OSError: it cannot be made, or is a link, another user's, or no folder.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_own(descriptor, folder)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def open_private(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Return a descriptor of a file that only this user may read or write: keys are card numbers, rows decide.

    One that others may read becomes private; what others could write is not believed: it is emptied, or not read.

    Raises:
        OSError: it is a link, has another name beside this one, is another user's, or no file; read only, others could
            write it.
    """
    # Without O_NONBLOCK the call would wait for the other end of a pipe that stands there.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        found = _require_own(descriptor, path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(errno.EEXIST, "expected a file with one name, got another kind; delete it", str(path))
        if found.st_mode & WRITABLE_BY_OTHERS:
            if flags == os.O_RDONLY:
                raise OSError(errno.EPERM, "expected a file that others cannot write", str(path))
            os.ftruncate(descriptor, 0)
        if found.st_mode & OPEN_TO_OTHERS:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(descriptor: int, path: Path) -> os.stat_result:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"expected this user's own, got one of user {found.st_uid}; delete it", str(path))
    return found
