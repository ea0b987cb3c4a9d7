"""Broker: logs, transactions, groups, as far as a client can tell them from Apache Kafka.

Requests take their time on the way there and on the way back, arrive although the sender has died, and wait while the
broker is down. What a request does is done at once when it arrives.

What is kept of Kafka, since correctness hangs on it:
- A read_committed reader sees records below the last stable offset: the first offset of the oldest open transaction. What
  lies below it is seen even where its own transaction reaches beyond.
- The end of a transaction is decided first; the markers that let readers see it are written one by one afterwards.
- Offsets of a transaction are pending until then, and unstable for those who ask.
- A new producer of a transactional id ends the transaction of the former one and fences it, by epoch.
- Offsets are taken from members of the present generation only.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tests.simulation.scheduler import Process, Scheduler, Signal

Place = tuple[str, int]  # topic and partition
Connection = deque[
    tuple[Callable[[], Any], Callable[[Any], None]]
]  # requests on their way, with who is told the answer

ANSWER_S = 0.001  # average of one way, when nothing is wrong
SLOW_ANSWERS = 0.02
SLOW_ANSWER_S = 0.3
LATER_S = 0.01  # how long a client waits before it asks again
REBALANCE_S_MAX = 3.0


class Refused(Exception):
    """The broker's answer is an error, by the name that librdkafka has for it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Later(Exception):
    """The broker's answer is one after which a client asks again by itself."""


class Observer(Protocol):
    """Is told what happens, in the order in which it takes effect."""

    def visible(self, place: Place, key: bytes | None, value: bytes | None) -> None: ...

    def offset_committed(self, place: Place, offset: int) -> None: ...


class Entry(NamedTuple):
    """A record, or a marker (no key, no value)."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    is_marker: bool = False


@dataclass(slots=True)
class Log:
    """One partition."""

    entries: list[Entry] = field(default_factory=list)
    aborted: set[int] = field(default_factory=set)
    open: dict[str, list[int]] = field(default_factory=dict)  # transactional id and its offsets here

    @property
    def stable_end(self) -> int:
        return min((offsets[0] for offsets in self.open.values()), default=len(self.entries))

    def read(self, first: int, count_max: int) -> tuple[list[tuple[int, Entry]], int]:
        """Return committed records from `first` on, with their offsets, and the position to read next."""
        found: list[tuple[int, Entry]] = []
        end = self.stable_end
        position = first
        while position < end and len(found) < count_max:
            entry = self.entries[position]
            if not entry.is_marker and position not in self.aborted:
                found.append((position, entry))
            position += 1
        return found, position


@dataclass(slots=True)
class Transaction:
    """What the coordinator knows of a transactional id."""

    id: str
    timeout_s: float
    epoch: int = 0
    number: int = 0  # of transactions begun, so that a time-out knows its own
    state: str = "empty"  # ongoing, commit, abort: the latter two until all markers are written
    places: set[Place] = field(default_factory=set)
    offsets: dict[Place, tuple[int, str, int]] = field(default_factory=dict)  # offset, metadata, order
    ends_left: int = 0
    began: float = 0.0


@dataclass(slots=True)
class Member:
    """A member of the group."""

    id: str
    client_id: str
    instance_id: str | None
    heard_at: float
    joined: Callable[[Any], None] | None = None  # answers the join that waits


class Broker:
    """One cluster with one group.

    Args:
        topics: number of partitions of each.
        session_s: a member that is not heard for so long is taken out of the group.
        observer: told of what becomes visible.
    """

    def __init__(self, topics: Mapping[str, int], session_s: float, observer: Observer) -> None:
        self._scheduler = Scheduler.current
        self.topics = dict(topics)
        self.logs: dict[Place, Log] = {(topic, n): Log() for topic, count in topics.items() for n in range(count)}
        self.transactions: dict[str, Transaction] = {}
        self.committed: dict[Place, tuple[int, str, int]] = {}
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.assignments: dict[str, list[Place]] = {}
        self.is_rebalancing = False
        self.assigned: list[Place] = []  # what the group shares out
        self.down_until = 0.0
        self.slow_answers = SLOW_ANSWERS
        self._order = 0
        self._session_s, self._observer = session_s, observer
        self._member_number = 0

    # ---- requests

    def one_way_s(self) -> float:
        random = self._scheduler.random
        return random.expovariate(1.0 / (SLOW_ANSWER_S if random.random() < self.slow_answers else ANSWER_S))

    def request(
        self,
        process: Process,
        apply: Callable[[], Any],
        answered: Callable[[Any], None],
        connection: Connection | None = None,
    ) -> None:
        """Send a request; `answered` is given what `apply` returns, or the Refused that it raises.

        Requests of one connection are done in the order in which they were sent.
        """
        process.count_request()
        waiting: Connection = deque() if connection is None else connection
        waiting.append((apply, answered))
        process.perform(lambda: self._scheduler.after(self.one_way_s(), lambda: self._arrive(waiting)))

    def _arrive(self, waiting: Connection) -> None:
        down_s = self.down_until - self._scheduler.now
        if down_s > 0:
            self._scheduler.after(down_s + self.one_way_s(), lambda: self._arrive(waiting))
            return
        apply, answered = waiting.popleft()
        try:
            result = apply()
        except Refused as exc:
            result = exc
        except Later:
            waiting.appendleft((apply, answered))
            self._scheduler.after(LATER_S, lambda: self._arrive(waiting))
            return
        self._scheduler.after(self.one_way_s(), lambda: answered(result))

    def ask(self, process: Process, apply: Callable[[], Any], seconds: float) -> Any:
        """Return the answer to a request, in a simulated thread.

        Raises:
            Refused: by the broker.
            TimeoutError: no answer yet; the request may have been done, or be done later.
        """
        return Answer(self, process, apply).wait(seconds)

    # ---- logs

    def append(self, place: Place, entry: Entry) -> None:
        """Append a record outside of any transaction."""
        self.logs[place].entries.append(entry)
        self._observer.visible(place, entry.key, entry.value)

    def partition_of(self, topic: str, key: bytes | None) -> int:
        return zlib.crc32(key or b"") % self.topics[topic]

    # ---- transactions

    def init_producer(self, id: str, timeout_s: float) -> int:
        """Return the epoch of a new producer, which fences the former."""
        transaction = self.transactions.setdefault(id, Transaction(id, timeout_s))
        if transaction.state == "ongoing":
            transaction.epoch += 1
            self._decide(transaction, "abort")
        if transaction.state != "empty":
            raise Later
        transaction.timeout_s = timeout_s
        transaction.epoch += 1
        return transaction.epoch

    def is_committing(self, id: str) -> bool:
        """Tell whether the transaction of an id is being committed."""
        return id in self.transactions and self.transactions[id].state == "commit"

    def _current(self, id: str, epoch: int) -> Transaction:
        transaction = self.transactions[id]
        if epoch != transaction.epoch:
            raise Refused("_FENCED")
        return transaction

    def _joined(self, id: str, epoch: int) -> Transaction:
        transaction = self._current(id, epoch)
        if transaction.state in ("commit", "abort"):
            raise Later
        if transaction.state == "empty":
            transaction.state, transaction.began = "ongoing", self._scheduler.now
            transaction.number += 1
            number = transaction.number
            self._scheduler.after(transaction.timeout_s, lambda: self._time_out(transaction, number))
        return transaction

    def _time_out(self, transaction: Transaction, number: int) -> None:
        if transaction.state == "ongoing" and transaction.number == number:
            transaction.epoch += 1
            self._decide(transaction, "abort")

    def append_in_transaction(self, id: str, epoch: int, place: Place, entries: list[Entry]) -> None:
        transaction = self._joined(id, epoch)
        transaction.places.add(place)
        log = self.logs[place]
        for entry in entries:
            log.open.setdefault(id, []).append(len(log.entries))
            log.entries.append(entry)

    def add_offsets(
        self,
        id: str,
        epoch: int,
        offsets: Mapping[Place, tuple[int, str]],
        generation: int,
        member: str,
        instance: str | None,
    ) -> None:
        """Have offsets committed with the transaction, if they come from a member of the present generation."""
        transaction = self._joined(id, epoch)
        self._check_member(member, instance, generation)
        for place, (offset, metadata) in offsets.items():
            self._order += 1
            transaction.offsets[place] = (offset, metadata, self._order)

    def end_transaction(self, id: str, epoch: int, result: str) -> None:
        transaction = self._current(id, epoch)
        if transaction.state == "ongoing":
            self._decide(transaction, result)
        elif transaction.state not in ("empty", result):
            raise Refused("INVALID_TXN_STATE")

    def _decide(self, transaction: Transaction, result: str) -> None:
        transaction.state = result
        if result == "commit":
            for place in sorted(transaction.places):
                log = self.logs[place]
                for offset in log.open.get(transaction.id, ()):
                    self._observer.visible(place, log.entries[offset].key, log.entries[offset].value)
            for place, found in transaction.offsets.items():
                self._observer.offset_committed(place, found[0])
        ends: list[Callable[[], None]] = [
            lambda place=place: self._mark(transaction, place) for place in sorted(transaction.places)
        ]  # type: ignore[misc]
        if transaction.offsets:
            ends.append(lambda: self._apply_offsets(transaction))
        transaction.ends_left = len(ends)
        for end in ends:
            self._scheduler.after(self.one_way_s(), lambda end=end: self._end_one(transaction, end))  # type: ignore[misc]
        if not ends:
            transaction.state = "empty"

    def _end_one(self, transaction: Transaction, end: Callable[[], None]) -> None:
        end()
        transaction.ends_left -= 1
        if transaction.ends_left == 0:
            transaction.state = "empty"
            transaction.places.clear()
            transaction.offsets.clear()

    def _mark(self, transaction: Transaction, place: Place) -> None:
        log = self.logs[place]
        offsets = log.open.pop(transaction.id, [])
        if transaction.state == "abort":
            log.aborted.update(offsets)
        log.entries.append(Entry(None, None, 0, is_marker=True))

    def _apply_offsets(self, transaction: Transaction) -> None:
        if transaction.state == "commit":
            for place, found in transaction.offsets.items():
                self._set_offset(place, found)

    def _set_offset(self, place: Place, found: tuple[int, str, int]) -> None:
        if place not in self.committed or self.committed[place][2] < found[2]:
            self.committed[place] = found

    # ---- group

    def _check_member(self, member: str, instance: str | None, generation: int) -> None:
        if instance is not None and any(m.instance_id == instance and m.id != member for m in self.members.values()):
            raise Refused("FENCED_INSTANCE_ID")
        if member not in self.members:
            raise Refused("UNKNOWN_MEMBER_ID")
        if generation != self.generation:
            raise Refused("ILLEGAL_GENERATION")

    def commit_offsets(
        self, offsets: Mapping[Place, tuple[int, str]], generation: int, member: str, instance: str | None
    ) -> None:
        self._check_member(member, instance, generation)
        for place, (offset, metadata) in offsets.items():
            self._order += 1
            self._observer.offset_committed(place, offset)
            self._set_offset(place, (offset, metadata, self._order))

    def fetch_offsets(self, places: list[Place], stable: bool) -> dict[Place, tuple[int, str] | Refused]:
        """Return the committed offset, -1001 where there is none, and metadata of each partition."""
        pending = {place for t in self.transactions.values() if t.state != "empty" for place in t.offsets}
        found: dict[Place, tuple[int, str] | Refused] = {}
        for place in places:
            if stable and place in pending:
                found[place] = Refused("UNSTABLE_OFFSET_COMMIT")
            else:
                found[place] = self.committed.get(place, (-1001, "", 0))[:2]
        return found

    def heartbeat(self, member: str, instance: str | None, generation: int) -> None:
        self._check_member(member, instance, generation)
        self.members[member].heard_at = self._scheduler.now
        if self.is_rebalancing:
            raise Refused("REBALANCE_IN_PROGRESS")

    def join(self, member: str, client_id: str, instance: str | None, joined: Callable[[Any], None]) -> None:
        """Have `joined` called with member id, generation and partitions once the group is complete."""
        if member and member not in self.members:
            joined(Refused("UNKNOWN_MEMBER_ID"))
            return
        if not member:
            self._member_number += 1
            member = f"{client_id}/{self._member_number}"
            former = next((m for m in self.members.values() if instance and m.instance_id == instance), None)
            if former is not None:
                del self.members[former.id]
            self.members[member] = Member(member, client_id, instance, self._scheduler.now)
            self._watch(member)
        self.members[member].heard_at = self._scheduler.now
        self.members[member].joined = joined
        self._begin_rebalance()
        self._complete_if_all_joined()

    def leave(self, member: str) -> None:
        if self.members.pop(member, None) is not None:
            self._begin_rebalance()
            self._complete_if_all_joined()

    def _watch(self, member: str) -> None:
        known = self.members.get(member)
        if known is None:
            return
        left = known.heard_at + self._session_s - self._scheduler.now
        if left <= 0 and known.joined is None:
            self.leave(member)
        else:
            self._scheduler.after(max(left, 0.01), lambda: self._watch(member))

    def _begin_rebalance(self) -> None:
        if not self.is_rebalancing:
            self.is_rebalancing = True
            generation = self.generation
            self._scheduler.after(REBALANCE_S_MAX, lambda: self._complete(generation))

    def _complete_if_all_joined(self) -> None:
        if all(member.joined is not None for member in self.members.values()):
            # A moment for others who want to join too.
            generation = self.generation
            self._scheduler.after(0.01, lambda: self._complete(generation, only_if_all=True))

    def _complete(self, generation: int, only_if_all: bool = False) -> None:
        waiting = {id: member for id, member in self.members.items() if member.joined is not None}
        if (
            generation != self.generation
            or not self.is_rebalancing
            or (only_if_all and len(waiting) < len(self.members))
        ):
            return
        self.members = waiting
        self.generation += 1
        self.is_rebalancing = False
        places = list(self.assigned)
        self._scheduler.random.shuffle(places)
        ids = sorted(waiting)
        self.assignments = {id: sorted(places[n :: len(ids)]) for n, id in enumerate(ids)}
        for id, member in waiting.items():
            joined, member.joined, member.heard_at = member.joined, None, self._scheduler.now
            assert joined is not None
            joined((id, self.generation, self.assignments[id]))


class Answer:
    """The answer to a request, waited for in a simulated thread, more than once if need be."""

    def __init__(self, broker: Broker, process: Process, apply: Callable[[], Any]) -> None:
        self._signal, self._result, self._is_here = Signal(), None, False
        broker.request(process, apply, self._set)

    def _set(self, result: Any) -> None:
        self._result, self._is_here = result, True
        self._signal.notify()

    def wait(self, seconds: float) -> Any:
        """Return the answer.

        Raises:
            Refused: by the broker.
            TimeoutError: it is not here yet.
        """
        deadline = Scheduler.current.now + seconds
        while not self._is_here:
            left = deadline - Scheduler.current.now
            if left <= 0:
                raise TimeoutError
            self._signal.wait(left)
        if isinstance(self._result, Refused):
            raise self._result
        return self._result
