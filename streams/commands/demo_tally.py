"""Events and answers of a demo, matched by id."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from confluent_kafka import Message

from streams.commands.rendering import Decoded
from streams.contract.events import DeadLetter, Decision, Recommendation
from streams.contract.topics import Topics
from streams.replaying.event_files import Slice

LATEST: Final = 8
WINDOW_S: Final = 5.0
# A tenth of a millisecond: finer than the clock of a shared machine is honest.
BINS_PER_MS: Final = 10


class Latencies:
    """Counts of latencies in bins of 0.1 ms."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, latency_ms: float) -> None:
        """Count one."""
        self._bins[int(latency_ms * BINS_PER_MS)] += 1

    def percentiles(self, *shares: float) -> list[float | None]:
        """Return the latencies, ms, that these shares of all do not exceed; None without any."""
        total = self._bins.total()
        if not total:
            return [None for _ in shares]
        wanted = sorted(enumerate(shares), key=lambda pair: pair[1])
        found: list[float | None] = [None] * len(shares)
        seen = 0
        for bin_, count in sorted(self._bins.items()):
            seen += count
            while wanted and seen >= wanted[0][1] * total:
                found[wanted.pop(0)[0]] = (bin_ + 1) / BINS_PER_MS
        return found


class Tally:
    """Counts of a demo. Written by the sender and by the thread that reads the outputs.

    Args:
        own: prefix of this demo's ids; events of other producers on the same topics do not count.
        topics: the public topics, as the cluster calls them.
        clock: monotonic seconds.
    """

    def __init__(self, own: tuple[str, str], topics: Topics, clock: Callable[[], float] = time.monotonic) -> None:
        self.topics = topics
        self.lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.repeated = 0
        self.degraded = 0
        self.dead_letters = 0
        self.latencies = Latencies()
        self.held_up: deque[Decision] = deque(maxlen=LATEST)
        self.approved: deque[Decision] = deque(maxlen=LATEST)
        self.recommendations: deque[Recommendation] = deque(maxlen=LATEST)
        self.last_dead_letter: DeadLetter | None = None
        self._own = own
        self._clock = clock
        self._pending: dict[str, float] = {}
        self._recent: deque[tuple[float, float]] = deque()
        self._timed = False
        self._decided = Decoded(msgspec.json.Decoder(Decision).decode, "decisions")
        self._slates = Decoded(msgspec.json.Decoder(Recommendation).decode, "recommendations")
        self._letters = Decoded(msgspec.json.Decoder(DeadLetter).decode, "dead letters")

    @property
    def pending(self) -> int:
        """Events without an answer."""
        return len(self._pending)

    def start_timing(self) -> None:
        """Count latencies of events sent from here on; those of the history measure the backlog."""
        with self.lock:
            self._timed = True

    def sending(self, topic: str, events: Slice) -> None:
        """Note the ids about to be sent to transactions or clickstream."""
        ids = events.fields["transaction_id" if topic == self.topics.transactions.name else "event_id"]
        with self.lock:
            now = self._clock() if self._timed else 0.0
            self._pending.update(dict.fromkeys(ids, now))
            self.sent[topic] += len(ids)

    def receive(self, messages: Iterable[Message]) -> None:
        """Match outputs, just read, with what was sent."""
        now = self._clock()
        with self.lock:
            for message in messages:
                topic = message.topic()
                if topic == self.topics.dead_letters.name:
                    for _, letter in self._letters.of([message]):
                        self.dead_letters += 1
                        self.last_dead_letter = letter
                elif topic == self.topics.decisions.name:
                    for _, decision in self._decided.of([message]):
                        if self._answer(decision.transaction_id, self.topics.transactions.name, now):
                            self.decisions[decision.decision] += 1
                            self.degraded += decision.degraded
                            (self.approved if decision.decision == "approve" else self.held_up).append(decision)
                elif topic == self.topics.recommendations.name:
                    for _, slate in self._slates.of([message]):
                        if self._answer(slate.event_id, self.topics.clickstream.name, now):
                            self.recommendations.append(slate)
                            self.degraded += slate.degraded

    def recent_percentiles(self, *shares: float) -> list[float | None]:
        """Return percentiles, ms, of the last WINDOW_S seconds."""
        oldest = self._clock() - WINDOW_S
        with self.lock:
            while self._recent and self._recent[0][0] < oldest:
                self._recent.popleft()
            latencies = Latencies()
            for _, latency_ms in self._recent:
                latencies.add(latency_ms)
        return latencies.percentiles(*shares)

    def _answer(self, id_: str, topic: str, now: float) -> bool:
        if not id_.startswith(self._own):
            return False
        sent = self._pending.pop(id_, None)
        if sent is None:
            self.repeated += 1
            return False
        self.answered[topic] += 1
        if sent:
            self.latencies.add((now - sent) * 1000.0)
            self._recent.append((now, (now - sent) * 1000.0))
        return True
