"""The label log: complete, or the worker knows why not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streams.errors import KafkaUnavailable
from streams.state import label_log
from streams.state.label_log import LabelLog

HOUR_MS = 3_600_000


class Reader:
    """Follows what a test puts: offsets of labels, or an error."""

    def __init__(self, partitions: Sequence[int] = (0,)) -> None:
        self._partitions = list(partitions)
        self.coming: queue.Queue[int | Exception] = queue.Queue()
        self.end = 0

    def partitions(self, topic: str) -> list[int]:
        return self._partitions

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        return {0: self.end}

    def follow(self, topic: str, positions: Any) -> None:
        assert positions == {0: 0}

    def poll(self, timeout_s: float) -> tuple[list[Any], dict[int, int]]:
        try:
            found = self.coming.get(timeout=0.01)
        except queue.Empty:
            return [], {}
        if isinstance(found, Exception):
            raise found
        message = SimpleNamespace(
            partition=lambda: 0, offset=lambda: found, value=lambda: b"label", timestamp=lambda: (1, 0)
        )
        return [message], {}

    def close(self) -> None:
        return None


def started(reader: Reader, failed: Callable[[Exception], None] = lambda exc: None) -> LabelLog:
    log = LabelLog("labels", lambda history, values, timestamps: None, reader, reader, failed)  # type: ignore[arg-type]
    log.start()
    return log


def hours(*numbers: int) -> Any:
    return np.array(numbers, np.int64) * HOUR_MS


def test_a_missing_topic_is_told_with_what_to_do() -> None:
    """A worker without labels would decide wrongly, quietly."""
    with pytest.raises(
        KafkaUnavailable, match="topic labels is missing, or this user may not see it; run `streams topics create`"
    ):
        LabelLog("labels", lambda *_: None, Reader(()), Reader(()), lambda exc: None)  # type: ignore[arg-type]


def test_each_new_hour_waits_for_the_end_of_the_log() -> None:
    """An hour that is known to be complete does not."""
    reader = Reader()
    log = started(reader)
    reader.end = 2
    waiting = threading.Thread(target=log.wait_for, args=(hours(5),))
    waiting.start()
    reader.coming.put(0)
    waiting.join(0.1)
    assert waiting.is_alive() and not log.is_complete(hours(5))
    reader.coming.put(1)
    waiting.join(10)
    assert log.is_complete(hours(5)) and not log.is_complete(hours(5, 6))
    reader.end = 9
    log.wait_for(hours(5, 5))
    log.close()


def test_the_death_of_the_follower_wakes_who_waits_at_once() -> None:
    """And the worker is told, for its features would stand still."""
    failures: list[Exception] = []
    reader = Reader()
    log = started(reader, failures.append)
    reader.end = 1
    error = KafkaUnavailable("on purpose")
    threading.Timer(0.05, reader.coming.put, [error]).start()
    began = time.monotonic()
    with pytest.raises(KafkaUnavailable, match="no labels: on purpose") as raised:
        log.wait_for(hours(1))
    assert time.monotonic() - began < 10 and raised.value.__cause__ is error
    log.close()
    assert failures == [error]


def test_silence_ends_the_wait_and_progress_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long way to go is no failure, as long as labels come."""
    monkeypatch.setattr(label_log, "SILENCE_S_MAX", 1.5)
    reader = Reader()
    log = started(reader)
    reader.end = 5
    for number in range(5):
        threading.Timer(0.4 * (number + 1), reader.coming.put, [number]).start()
    log.wait_for(hours(1))
    reader.end = 6
    with pytest.raises(KafkaUnavailable):
        log.wait_for(hours(2))
    log.close()
