"""Mirror: keeps checkpoint logs as files of this machine, of own partitions or, as a warm standby, of all.

A thread reads on in each log, a round every `interval_s`, and once more at the end, when the last checkpoint is written.
It reads what Kafka holds, also of checkpoints that this very worker wrote: a file is the beginning of the log, of
all its writers, committed or not. A restore (`StateTable`) begins with the file and reads the log's tail.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from streams.clients.log_reader import LogReader
from streams.errors import KafkaUnavailable
from streams.state.replica import Replica
from streams.state.replica_file import ReplicaFile

logger = logging.getLogger(__name__)

# Decisions come first: after each millisecond or so with the interpreter, a few without.
PAUSE_S = 0.003
READ_RECORDS_MAX = 1_024
# A file of an idle partition tells now and then that it still is all there is.
RENEW_MS = 3_600_000
# The last round is for a checkpoint of a few thousand rows; what it misses is read at the next start.
LAST_ROUND_S_MAX = 1.5
# Of the time for which the log keeps tombstones, the share for which a file counts: reading the rest takes its time.
AGE_SHARE_MAX = 0.5

Place = tuple[str, int]  # topic and partition


def clock_ms() -> int:
    return int(time.time() * 1000)


class Mirror:
    """The files of one worker, written by a thread of their own.

    Args:
        folder: of the files; a folder for each topic.
        reader: reads the logs, READ_RECORDS_MAX at a time; used by the thread alone once that has started.
        interval_s: from one round to the next.
        failed: called for each failure to write a file.
    """

    def __init__(self, folder: Path, reader: LogReader, interval_s: float, failed: Callable[[], object]) -> None:
        self._folder, self._reader, self._interval_s, self._failed = folder, reader, interval_s, failed
        self._topics: dict[str, tuple[str, int]] = {}
        self._wanted: frozenset[Place] = frozenset()
        self._files: dict[Place, ReplicaFile] = {}
        self._failures: dict[Place, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def add(self, topic: str) -> Callable[[int, Callable[[], int]], Replica]:
        """Get to know a topic; return what reads its files: `ReplicaFile.read` by partition.

        Raises:
            KafkaUnavailable: no answer.
        """
        self._topics[topic] = self._reader.topic_id(topic), int(self._reader.tombstones_kept_ms(topic) * AGE_SHARE_MAX)
        return partial(self._read, topic)

    def _read(self, topic: str, number: int, end: Callable[[], int]) -> Replica:
        return self._file((topic, number)).read(end)

    def _file(self, place: Place) -> ReplicaFile:
        topic, number = place
        return ReplicaFile(self._folder / topic / f"{number}.log", *self._topics[topic], clock_ms)

    def start(self) -> None:
        self._thread.start()

    def follow(self, places: Iterable[Place]) -> None:
        """Keep these files current from the next round on, and no others."""
        self._wanted = frozenset(places)

    @property
    def failure(self) -> str | None:
        """Why a file is not written; None where all are."""
        return next(iter(self._failures.copy().values()), None)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._interval_s):
                self._round()
            self._round()
        except Exception as exc:  # the thread ends, and says so in `/ready`
            logger.exception("the mirror ends; restores will read more and more")
            self._failures["", 0] = f"checkpoint files are not written any more: {type(exc).__name__}: {exc}"
        finally:
            for file in self._files.values():
                file.close()
            self._reader.close()

    def _round(self) -> None:
        wanted = self._wanted
        for place in self._files.keys() - wanted:
            self._files.pop(place).close()
        for place in self._failures.keys() - wanted:
            del self._failures[place]
        for place in sorted(wanted):
            self._write(place, self._open)
        try:
            for topic in sorted({topic for topic, _ in self._files}):
                known_ms = clock_ms()
                ends = self._reader.ends(topic, [number for each, number in self._files if each == topic])
                for number, end in ends.items():
                    self._write((topic, number), partial(self._bring_up, end=end, known_ms=known_ms))
        except KafkaUnavailable as exc:
            logger.info("checkpoint files are brought forward later: %s", exc)

    def _write(self, place: Place, write: Callable[[Place], None]) -> None:
        """Do something to a file; remember why it fails, until it does not."""
        try:
            write(place)
        except OSError as exc:
            path = self._file(place).path
            if place not in self._failures:
                logger.error("%s: not written, a restore will read more: %s", path, exc.strerror)
            self._failures[place] = (
                f"{path}: not written: {exc.strerror}; make room in state_dir, or delete what stands there"
            )
            self._failed()

    def _open(self, place: Place) -> None:
        if place in self._files and not self._files[place].is_there():
            self._files.pop(place).close()
        if place not in self._files:
            file = self._file(place)
            if file.open():
                self._files[place] = file
            else:
                self._failures.pop(place, None)  # another worker of this machine keeps it

    def _bring_up(self, place: Place, end: int, known_ms: int) -> None:
        """Read what the log has had since, up to `end`, which was its end not before `known_ms`."""
        file = self._files[place]
        if end > 0 and (file.next_offset != end or known_ms - file.known_ms > RENEW_MS):
            file.check(end)
            for messages in self._reader.read(*place, file.next_offset, end):
                keys, payloads = [m.key() or b"" for m in messages], [m.value() for m in messages]
                file.append(keys, payloads, (messages[-1].offset() or 0) + 1, file.known_ms)
                time.sleep(PAUSE_S)
            file.append([], [], end, known_ms)
            file.write_anew(lambda: not self._stopping.wait(PAUSE_S))
        self._failures.pop(place, None)

    def close(self) -> None:
        """Go a last round, not for long, and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(LAST_ROUND_S_MAX)
            self._reader.interrupt()
            self._thread.join(LAST_ROUND_S_MAX)
