"""LabelLog: every worker follows all labels, because terminals are not partitioned with the transactions.

Terminal features look at labels of payments at least 7 days old, cut at whole hours (`models.features.terminals`), and
labels count as a set: neither their order nor how far the follower has read beyond the cut changes a feature. What
matters is that nothing below the cut is missing, so `wait_for` reads up to the log's end once for each new hour of
event time. With labels in the log before the payments that may see them, features do not depend on the number of
partitions or workers, live or in a replay at any speed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features.terminals import LABEL_GRANULARITY_MS, TerminalHistory
from streams.clients.log_reader import LogReader
from streams.contract.topics import MISSING
from streams.errors import KafkaUnavailable

# Without a single label for so long, though some are missing, it is a broker's failure and not a delay: the worker stops.
SILENCE_S_MAX = 120.0

# Terminals whose labels no payment can see any more leave memory this often; looking costs microseconds for each thousand.
EVICT_EVERY_S = 60.0

HOURS_KEPT_MAX = 100_000

Apply = Callable[[TerminalHistory, Sequence[bytes | None], Sequence[int]], None]


class LabelLog:
    """Terminal history as of the labels read so far, kept current by a thread of its own.

    Args:
        topic: the labels' topic.
        apply: decodes labels, with their timestamps, into the history; invalid ones are not its business.
        reader: reads the labels, used by the following thread alone.
        ends: tells where the log ends, used by the thread that calls `wait_for`.
        failed: called with the error that ended the following.

    Raises:
        KafkaUnavailable: the topic does not exist.
    """

    def __init__(
        self, topic: str, apply: Apply, reader: LogReader, ends: LogReader, failed: Callable[[Exception], None]
    ) -> None:
        self.topic, self._apply, self._reader, self._ends, self._failed = topic, apply, reader, ends, failed
        self.history = TerminalHistory()
        self.lock = threading.Lock()  # held while the history is read or written
        self._positions = dict.fromkeys(reader.partitions(topic), 0)
        if not self._positions:
            raise KafkaUnavailable(f"topic {topic} {MISSING}")
        self._moved = threading.Condition()
        self._complete_hours: set[int] = set()
        self._stopping = False
        self._error: Exception | None = None
        self.wait_s = 0.0
        self._thread = threading.Thread(target=self._follow, name="labels", daemon=True)

    def start(self) -> None:
        """Read from the beginning, return when the end is reached, go on following.

        Raises:
            KafkaUnavailable: the end cannot be reached.
        """
        self._reader.follow(self.topic, self._positions)
        self._thread.start()
        self._catch_up()

    def _follow(self) -> None:
        try:
            evicted_at = time.monotonic()
            while not self._stopping:
                messages, ends = self._reader.poll(0.1)
                if messages:
                    with self.lock:
                        self._apply(self.history, [m.value() for m in messages], [m.timestamp()[1] for m in messages])
                        if time.monotonic() - evicted_at > EVICT_EVERY_S:
                            self.history.evict()
                            evicted_at = time.monotonic()
                self._note(messages, ends)
        except Exception as exc:  # noqa: BLE001 - a dead follower would silently freeze features: the worker must stop
            with self._moved:
                self._error = exc
                self._moved.notify_all()
            self._failed(exc)
        finally:
            self._reader.close()

    def _note(self, messages: Sequence[Any], ends: dict[int, int]) -> None:
        with self._moved:
            before = dict(self._positions)
            for message in messages:
                self._positions[message.partition()] = message.offset() + 1
            for number, end in ends.items():
                self._positions[number] = max(self._positions[number], end)
            if self._positions != before:
                self._moved.notify_all()

    def is_complete(self, event_times: NDArray[np.int64]) -> bool:
        """Tell whether `wait_for` would return at once."""
        return hours_of(event_times) <= self._complete_hours

    def wait_for(self, event_times: NDArray[np.int64]) -> None:
        """Return when every label is included that was in the log before the first payment of each of these hours.

        Args:
            event_times: int64[B] of payments, ms since the epoch.

        Raises:
            KafkaUnavailable: the follower failed or does not get there.
        """
        if self.is_complete(event_times):
            return
        hours = hours_of(event_times)
        self._catch_up()
        if len(self._complete_hours) > HOURS_KEPT_MAX:
            self._complete_hours.clear()  # costs one more look at the log's end for each hour that comes again
        self._complete_hours |= hours

    def _catch_up(self) -> None:
        began = time.monotonic()
        ends = self._ends.ends(self.topic, list(self._positions))
        with self._moved:
            heard_at = time.monotonic()
            while not self._reached(ends) and time.monotonic() - heard_at < SILENCE_S_MAX:
                if self._moved.wait(SILENCE_S_MAX):
                    heard_at = time.monotonic()
        if self._error is not None:
            raise KafkaUnavailable(f"{self.topic}: no labels: {self._error}") from self._error
        if not self._reached(ends):
            raise KafkaUnavailable(f"{self.topic}: expected labels up to {ends}, got {self._positions}")
        self.wait_s += time.monotonic() - began

    def _reached(self, ends: dict[int, int]) -> bool:
        return self._error is not None or all(self._positions[number] >= end for number, end in ends.items())

    def close(self) -> None:
        self._stopping = True
        with self._moved:
            self._error = self._error or KafkaUnavailable(f"{self.topic}: the worker stops")
            self._moved.notify_all()
        if self._thread.is_alive():
            self._thread.join()


def hours_of(event_times: NDArray[np.int64]) -> set[int]:
    """Return the distinct hours of times in ms since the epoch."""
    return set(np.unique(event_times // LABEL_GRANULARITY_MS).tolist())
