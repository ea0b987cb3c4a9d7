"""Sending events in order at a chosen pace, and each payment's label when the clock of the events reaches its delay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import orjson

from streams.clients.event_producer import Delivery
from streams.contract.topics import Topic
from streams.replaying.event_files import Slice

# Labels that fall due within a slice go out before its payments; larger slices cost fewer waits for the broker.
SLICE_RECORDS_MAX: Final = 8_192
# A paced slice holds what fell due in a tick: short against the latencies that people look at, long against a wake-up.
TICK_S: Final = 0.005
# Workers count labels by the hour: with a shorter delay, smaller steps would cost much and change nothing.
LABELLED_SPAN_MS_MIN: Final = 3_600_000


class Pace:
    """Tells how many of the next events may go now.

    Args:
        rate: events per second; None: as fast as they can.
        speedup: seconds of event time per second; None: event time does not matter.
        history_until: events before this time (ms) are history: they go at once, the others not before `begin`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        speedup: float | None = None,
        history_until: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert rate is None or speedup is None, "the command line allows one of them"
        self._rate = rate
        self.speedup = speedup
        self._history_until = history_until
        self.history_over = history_until is None
        self._clock = clock
        self._started: float | None = None
        self._last_taken = 0.0
        self._first_event_time = 0
        self._last_event_time = 0
        self._taken = 0

    def begin(self) -> None:
        """Start the clock for what comes after the history."""
        self._history_until = None

    def take(self, event_time: np.ndarray) -> int:
        """Return how many of the events at these times (int64[B], ascending) may go; they count as gone."""
        if not len(event_time):
            return 0
        if self._history_until is not None:
            history = int(np.searchsorted(event_time, self._history_until))
            self.history_over = not history
            return history
        now = self._clock()
        if self._started is None:
            self._started, self._first_event_time = now, int(event_time[0])
        elapsed = now - self._started
        count = len(event_time)
        if self._rate is not None:
            # The first goes at once; one that is late goes with the next tick, so that the mean rate holds.
            count = min(count, int(elapsed * self._rate) + 1 - self._taken)
        elif self.speedup is not None:
            reached = self._first_event_time + elapsed * 1000.0 * self.speedup
            count = int(np.searchsorted(event_time, reached, side="right"))
        count = max(count, 0)
        self._taken += count
        if count:
            self._last_taken, self._last_event_time = now, int(event_time[count - 1])
        return count

    def speedup_reached(self) -> float | None:
        """Return seconds of event time per second from the first event to the last so far; None where none has passed."""
        if self._started is None or self._last_taken <= self._started:
            return None
        return (self._last_event_time - self._first_event_time) / 1000.0 / (self._last_taken - self._started)


class DelayedLabels:
    """Labels of payments already sent, held back until event time has moved on by the delay.

    Args:
        delay_ms: event time between a payment and its label.
        step_ms: labels fall due together for each such step of event time.
    """

    def __init__(self, delay_ms: int, step_ms: int = 1) -> None:
        self._delay_ms, self._step_ms = delay_ms, step_ms
        # Payments that span less than it can go together: no label of one falls due before another.
        self.span_ms = max(delay_ms, LABELLED_SPAN_MS_MIN)
        self._held: deque[tuple[np.ndarray, list[bytes], list[bytes]]] = deque()

    def hold(self, payments: Slice) -> None:
        """Keep the labels of these payments; those without a label have none to publish."""
        labels = payments.labels
        assert labels is not None
        kept = [i for i, label in enumerate(labels) if label is not None]
        if not kept:
            return
        columns: dict[str, list[Any]] = {
            name: [payments.fields[name][i] for i in kept]
            for name in ("transaction_id", "event_time", "card_id", "terminal_id")
        }
        columns["is_fraud"] = [labels[i] for i in kept]
        self._held.append((payments.event_time[kept], keys_of(columns["card_id"]), encode(columns)))

    def due(self, event_time: int) -> tuple[list[bytes], list[bytes]]:
        """Return keys and values of the labels whose payment is at least the delay older than `event_time`."""
        keys: list[bytes] = []
        values: list[bytes] = []
        event_time -= event_time % self._step_ms
        while self._held:
            times, held_keys, held_values = self._held[0]
            count = int(np.searchsorted(times, event_time - self._delay_ms, side="right"))
            keys += held_keys[:count]
            values += held_values[:count]
            if count < len(times):
                if count:
                    self._held[0] = (times[count:], held_keys[count:], held_values[count:])
                break
            self._held.popleft()
        return keys, values

    def rest(self) -> tuple[list[bytes], list[bytes]]:
        """Return the labels that never fell due."""
        keys = [key for _, held, _ in self._held for key in held]
        values = [value for _, _, held in self._held for value in held]
        self._held.clear()
        return keys, values


class Replay:
    """One stream of events on its way to `topic`: keyed, in order, at its pace, with its labels.

    Args:
        slices: events; ascending in event time where labels or a speed-up are asked for.
        topic: transactions or clickstream.
        delivery: producer of events and labels.
        pace: when they may go.
        label_delay_ms: delay of the labels in event time; None publishes none.
        label_step_ms: labels go together for each such step of event time. Each time the sender waits for the broker:
            at thousands of times the clock's pace, steps of an hour (by which workers count) leave two waits a second.
        sending: called with each slice just before it is sent.
    """

    def __init__(
        self,
        slices: Iterable[Slice],
        topic: Topic,
        delivery: Delivery,
        pace: Pace,
        *,
        label_delay_ms: int | None = None,
        label_step_ms: int = 1,
        sending: Callable[[Slice], None] | None = None,
    ) -> None:
        assert topic.key is not None
        self.topic = topic
        self.pace = pace
        self.events = 0
        self.labels = 0
        self.event_time = 0
        self._slices = iter(slices)
        self._current: Slice | None = None
        self._start = 0
        self._key = topic.key
        self._delivery = delivery
        self._held = DelayedLabels(label_delay_ms, label_step_ms) if label_delay_ms is not None else None
        self._sending = sending

    def advance(self) -> int | None:
        """Send what is due, at most SLICE_RECORDS_MAX and, with labels, less event time than their delay.

        Returns:
            How many; None when no event is left.

        Raises:
            DeliveryFailed: a label was not confirmed: the payments that need it must not go.
        """
        if self._current is None or self._start == len(self._current):
            self._current, self._start = next(self._slices, None), 0
            if self._current is None:
                return None
        upcoming = self._current.event_time[self._start : self._start + SLICE_RECORDS_MAX]
        if self._held is not None and len(upcoming):
            upcoming = upcoming[: int(np.searchsorted(upcoming, upcoming[0] + self._held.span_ms))]
        count = self.pace.take(upcoming)
        if not count:
            return 0
        events = self._current.part(self._start, self._start + count)
        self._start += count
        self.event_time = max(self.event_time, int(events.event_time[-1]))
        if self._held is not None:
            # Confirmed first: a worker that reads a payment can already read every label due at that time.
            self._send_labels(self._held.due(self.event_time))
            self._held.hold(events)
        if self._sending is not None:
            self._sending(events)
        self._delivery.send(self.topic.name, keys_of(events.fields[self._key]), encode(events.fields))
        self.events += count
        return count

    def finish(self) -> None:
        """Send the labels that never fell due."""
        if self._held is not None:
            self._send_labels(self._held.rest())

    def _send_labels(self, due: tuple[list[bytes], list[bytes]]) -> None:
        keys, values = due
        if values:
            self._delivery.send(self._delivery.topics.labels.name, keys, values)
            self._delivery.flush()
            self.labels += len(values)


def run(
    replays: Sequence[Replay],
    delivery: Delivery,
    *,
    tick: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Advance every replay in turn until each has ended, then wait for the broker's confirmations.

    Args:
        replays: streams that share `delivery`.
        delivery: producer of them all.
        tick: called after each turn.
        sleep: waits that many seconds; called when nothing was due.

    Raises:
        DeliveryFailed: a record was not confirmed.
    """
    running = list(replays)
    while running:
        sent = 0
        for replay in tuple(running):
            count = replay.advance()
            if count is None:
                running.remove(replay)
            else:
                sent += count
        tick()
        if running and not sent:
            delivery.poll()
            sleep(TICK_S)
    for replay in replays:
        replay.finish()
    delivery.flush()


def encode(columns: dict[str, list[Any]]) -> list[bytes]:
    """Return one JSON object a row; fields that are absent in a row (None) are left out."""
    names = list(columns)
    dumps = orjson.dumps
    if any(None in values for values in columns.values()):
        return [
            dumps({name: value for name, value in zip(names, row, strict=True) if value is not None})
            for row in zip(*columns.values(), strict=True)
        ]
    return [dumps(dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def keys_of(ids: Sequence[str | None]) -> list[bytes]:
    """Return the Kafka keys of these identifiers."""
    return [b"" if value is None else value.encode() for value in ids]
