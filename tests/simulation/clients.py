"""Clients: librdkafka's, as far as `streams.transport` uses them, before the simulated broker.

What is kept of librdkafka: calls block for as long as they are told to; a time-out says nothing about the request, and the
same call made again waits for the same answer; an error of the group makes the transaction abortable, and nothing but an
abort is accepted then; a fenced producer is fatally so; records are sent in the order of each partition, later than
`produce`, and their reports are handed out by `poll`; the queue has an end.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import faust.transport.consumer
import pytest
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition

import streams.clients.connection
import streams.clients.hang_watch
import streams.clients.log_reader
import streams.engine.device
import streams.engine.pipeline
import streams.state.checkpointer
import streams.state.table
import streams.state.writer
import streams.transport.consumer
import streams.transport.flow
import streams.transport.on_loop
import streams.transport.outputs.producer
import streams.transport.outputs.transactions
import streams.transport.ownership.leftovers
import streams.transport.ownership.ownership
import streams.transport.record_batch
from tests.simulation.broker import Answer, Broker, Entry, Place, Refused
from tests.simulation.scheduler import Clock, Lock, Pool, Scheduler, Signal, current_process

SENT_AT_ONCE_MAX = 4  # records of one produce request
RETRY_S = 0.05


@dataclass
class Cluster:
    """What a client finds under its bootstrap servers, and how often its calls fail."""

    broker: Broker
    queue_records_max: int = 1000
    retriable_errors: float = 0.0  # a call fails, could be made again
    abortable_errors: float = 0.0  # a call of a transaction fails, and the transaction with it
    slow_runs: float = 0.0  # a micro-batch takes longer than a drain
    delivery_errors: float = 0.0  # a record is reported as not delivered; half of those are nevertheless there

    current: Any = None

    @staticmethod
    def happens(chance: float) -> bool:
        return chance > 0 and Scheduler.current.random.random() < chance


def cluster() -> Cluster:
    found: Cluster = Cluster.current
    return found


def error(name: str, *, retriable: bool = False, fatal: bool = False, abort: bool = False) -> KafkaException:
    """Return librdkafka's exception for an error."""
    return KafkaException(KafkaError(getattr(KafkaError, name), f"simulated {name}", fatal, retriable, abort))


class Message:
    """A record that was read, or sent, or the end of a partition."""

    def __init__(self, place: Place, offset: int, entry: Entry | None, failure: KafkaError | None = None) -> None:
        self._place, self._offset, self._entry, self._error = place, offset, entry, failure

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return self._error

    def key(self) -> bytes | None:
        return None if self._entry is None else self._entry.key

    def value(self) -> bytes | None:
        return None if self._entry is None else self._entry.value

    def headers(self) -> None:
        """No client sends any."""

    def timestamp(self) -> tuple[int, int]:
        return 1, 0 if self._entry is None else self._entry.timestamp


Report = Callable[[KafkaError | None, Message], None]
Queued = tuple[Entry, Report | None]


class Producer:
    """In place of `confluent_kafka.Producer`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._process, self._cluster, self._broker = current_process(), cluster(), cluster().broker
        self._id: str | None = config.get("transactional.id")
        self._timeout_s = config.get("transaction.timeout.ms", 60_000) / 1000.0
        self._epoch: int | None = None
        self._in_transaction = False
        self._failure: KafkaException | None = None  # of the transaction; it can only be aborted
        self._fatal: KafkaException | None = None
        self._queues: dict[Place, deque[Queued]] = {}
        self._sending: set[Place] = set()
        self._queued = 0
        self._reports: deque[tuple[Report, KafkaError | None, Message]] = deque()
        self._sent = Signal()
        self._call: tuple[str, Answer] | None = None  # what is under way, though its caller may have given up

    # ---- records

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int = -1, on_delivery: Report | None = None
    ) -> None:
        Scheduler.current.step()
        if self._queued + len(self._reports) >= self._cluster.queue_records_max:
            raise BufferError("Local: Queue full")
        self._raise_if_failed()
        if self._id is not None and not self._in_transaction:
            raise error("_STATE")
        place = (topic, self._broker.partition_of(topic, key) if partition < 0 else partition)
        self._queues.setdefault(place, deque()).append((Entry(key, value, 0), on_delivery))
        self._queued += 1
        self._send_soon(place)

    def _send_soon(self, place: Place) -> None:
        if place not in self._sending:
            self._sending.add(place)
            self._process.after(self._broker.one_way_s(), lambda: self._send(place))

    def _send(self, place: Place) -> None:
        queue = self._queues[place]
        if not queue or self._failure or self._fatal:
            self._sending.discard(place)
            return
        batch = [queue.popleft() for _ in range(min(len(queue), SENT_AT_ONCE_MAX))]
        entries = [entry for entry, _ in batch]
        lost, reported = False, Cluster.happens(self._cluster.delivery_errors)
        if reported:
            lost = Scheduler.current.random.random() < 0.5

        def apply() -> None:
            if lost:
                return
            if self._id is None:
                for entry in entries:
                    self._broker.append(place, entry)
            else:
                assert self._epoch is not None
                self._broker.append_in_transaction(self._id, self._epoch, place, entries)

        def answered(result: Any) -> None:
            self._process.perform(lambda: self._answered(place, batch, "_MSG_TIMED_OUT" if reported else result))

        self._broker.request(self._process, apply, answered)

    def _answered(self, place: Place, batch: Sequence[Queued], result: Any) -> None:
        name = result.name if isinstance(result, Refused) else result
        failure = None if name is None else error(name, abort=True)
        if failure is not None and self._id is not None:
            self._failure = self._failure or failure
        self._queued -= len(batch)
        for entry, report in batch:
            if report is not None:
                found = None if failure is None else failure.args[0]
                self._reports.append((report, found, Message(place, -1, entry, found)))
        self._sending.discard(place)
        self._sent.notify()
        if self._queues[place]:
            self._send_soon(place)

    def poll(self, timeout: float = 0.0) -> int:
        count = 0
        if timeout and not self._reports:
            Scheduler.current.step()
            self._sent.wait(timeout)
        while self._reports:
            report, failure, message = self._reports.popleft()
            report(failure, message)
            count += 1
        return count

    def flush(self, timeout: float) -> int:
        deadline = Scheduler.current.now + timeout
        while (self._queued or self._reports) and Scheduler.current.now < deadline:
            self.poll(deadline - Scheduler.current.now)
        return self._queued + len(self._reports)

    def _purge(self) -> None:
        for queue in self._queues.values():
            self._queued -= len(queue)
            queue.clear()

    # ---- transactions

    def _raise_if_failed(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if self._failure is not None:
            raise self._failure

    def _ask(self, name: str, apply: Callable[[], Any], timeout: float) -> Any:
        """Return the answer; a caller that calls again after a time-out waits for the same one."""
        Scheduler.current.step()
        if self._call is not None and self._call[0] != name:
            raise error("_CONFLICT")
        if self._call is None:
            if Cluster.happens(self._cluster.retriable_errors):
                raise error("COORDINATOR_LOAD_IN_PROGRESS", retriable=True)
            self._call = (name, Answer(self._broker, self._process, apply))
        try:
            result = self._call[1].wait(timeout)
        except TimeoutError:
            raise error("_TIMED_OUT", retriable=True) from None
        except Refused as exc:
            self._call = None
            if exc.name == "_FENCED":
                self._fatal = error("_FENCED", fatal=True)
                raise self._fatal from None
            self._failure = error(exc.name, abort=True)
            raise self._failure from None
        self._call = None
        return result

    def init_transactions(self, timeout: float) -> None:
        assert self._id is not None
        id = self._id
        self._epoch = self._ask("init", lambda: self._broker.init_producer(id, self._timeout_s), timeout)

    def begin_transaction(self) -> None:
        self._raise_if_failed()
        if self._epoch is None or self._in_transaction:
            raise error("_STATE")
        self._in_transaction = True

    def send_offsets_to_transaction(self, offsets: Sequence[TopicPartition], member: bytes, timeout: float) -> None:
        self._raise_if_failed()
        if not self._in_transaction:
            raise error("_STATE")
        if Cluster.happens(self._cluster.abortable_errors):
            self._failure = error("GROUP_AUTHORIZATION_FAILED", abort=True)
            raise self._failure
        id, epoch = self._id, self._epoch
        assert id is not None and epoch is not None
        generation, name, instance = read_member(member)
        wanted = {(tp.topic, tp.partition): (tp.offset, f"{tp.metadata}\0" if tp.metadata else "") for tp in offsets}
        self._ask("offsets", lambda: self._broker.add_offsets(id, epoch, wanted, generation, name, instance), timeout)

    def commit_transaction(self, timeout: float) -> None:
        deadline = Scheduler.current.now + timeout
        while self._queued and self._failure is None and self._fatal is None:
            if Scheduler.current.now >= deadline:
                raise error("_TIMED_OUT", retriable=True)
            self._sent.wait(deadline - Scheduler.current.now)
        if self._call is None:
            self._raise_if_failed()
        if not self._in_transaction:
            raise error("_STATE")
        if self._call is None and Cluster.happens(self._cluster.abortable_errors):
            self._failure = error("_MSG_TIMED_OUT", abort=True)
            raise self._failure
        self._end("commit", deadline - Scheduler.current.now)

    def abort_transaction(self, timeout: float) -> None:
        if self._fatal is not None:
            raise self._fatal
        if not self._in_transaction:
            raise error("_STATE")
        self._purge()
        deadline = Scheduler.current.now + timeout
        while self._queued:
            if Scheduler.current.now >= deadline:
                raise error("_TIMED_OUT", retriable=True)
            self._sent.wait(deadline - Scheduler.current.now)
        self._end("abort", deadline - Scheduler.current.now)

    def _end(self, result: str, timeout: float) -> None:
        id, epoch = self._id, self._epoch
        assert id is not None and epoch is not None
        self._ask(result, lambda: self._broker.end_transaction(id, epoch, result), timeout)
        self._in_transaction, self._failure = False, None


def read_member(metadata: bytes) -> tuple[int, str, str | None]:
    """Return generation, member id and instance id of librdkafka's serialised group metadata."""
    assert metadata.startswith(b"CGMDv2:")
    (generation,) = struct.unpack("=i", metadata[7:11])
    _, member, tail = metadata[11:].split(b"\0", 2)
    return generation, member.decode(), None if tail == b"\1" else tail[1:-1].decode()


class Consumer:
    """In place of `confluent_kafka.Consumer`, for readers with positions of their own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._committed = config["isolation.level"] == "read_committed"
        self._process, self._broker = current_process(), cluster().broker
        self._positions: dict[Place, int] = {}
        self._told_end: dict[Place, int] = {}
        self._found: deque[Message] = deque()
        self._assigned = 0
        self._arrived = Signal()
        self._asking = False

    def list_topics(self, topic: str | None = None, timeout: float = 0.0) -> Any:
        topics = self._broker.topics
        return SimpleNamespace(
            topics={name: SimpleNamespace(error=None, partitions=dict.fromkeys(range(n))) for name, n in topics.items()}
        )

    def offsets_for_times(self, asked: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert all(tp.offset == OFFSET_END for tp in asked)
        places = [(tp.topic, tp.partition) for tp in asked]
        try:
            logs = self._broker.logs
            ends = self._broker.ask(
                self._process,
                lambda: [logs[p].stable_end if self._committed else len(logs[p].entries) for p in places],
                timeout,
            )
        except TimeoutError:
            raise error("_TIMED_OUT", retriable=True) from None
        return [TopicPartition(*place, end) for place, end in zip(places, ends, strict=True)]

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.unassign()
        self._positions = {(tp.topic, tp.partition): max(0, tp.offset) for tp in partitions}

    def unassign(self) -> None:
        self._assigned += 1
        self._positions.clear()
        self._told_end.clear()
        self._found.clear()
        self._asking = False

    def _ask(self) -> None:
        assigned, positions = self._assigned, dict(self._positions)
        count_max = Scheduler.current.random.choice((1, 3, 1000))

        def apply() -> list[tuple[Place, list[tuple[int, Entry]], int, int]]:
            return [
                (place, *self._broker.logs[place].read(position, count_max), self._broker.logs[place].stable_end)
                for place, position in positions.items()
            ]

        def answered(result: Any) -> None:
            self._process.perform(lambda: self._answered(assigned, result))

        self._asking = True
        self._broker.request(self._process, apply, answered)

    def _answered(self, assigned: int, found: list[tuple[Place, list[tuple[int, Entry]], int, int]]) -> None:
        if assigned != self._assigned:
            return
        self._asking = False
        for place, records, position, end in found:
            self._found.extend(Message(place, offset, entry) for offset, entry in records)
            self._positions[place] = position
            if position >= end and self._told_end.get(place) != position:
                self._told_end[place] = position
                self._found.append(Message(place, position, None, error("_PARTITION_EOF").args[0]))
        self._arrived.notify()

    def poll(self, timeout: float) -> Message | None:
        deadline = Scheduler.current.now + timeout
        while not self._found:
            if not self._asking:
                self._ask()
            left = deadline - Scheduler.current.now
            if left <= 0:
                return None
            self._arrived.wait(left)
            if not self._found and not self._asking:
                Clock.sleep(min(0.02, max(0.0, deadline - Scheduler.current.now)))
        return self._found.popleft()

    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> list[Any]:
        """As librdkafka: offsets that wait for the end of a transaction are asked for again."""
        places, deadline = [(tp.topic, tp.partition) for tp in partitions], Scheduler.current.now + timeout
        while (left := deadline - Scheduler.current.now) > 0:
            try:
                answer = self._broker.ask(
                    self._process, lambda: self._broker.fetch_offsets(places, self._committed), left
                )
            except TimeoutError:
                break
            if not any(isinstance(found, Refused) for found in answer.values()):
                return [_offset(place, found) for place, found in answer.items()]
            Clock.sleep(min(RETRY_S, left))
        raise error("_TIMED_OUT", retriable=True)

    def consume(self, count_max: int, timeout: float) -> list[Message]:
        return [self._found.popleft() for _ in range(min(count_max, len(self._found)))]

    def close(self) -> None:
        self.unassign()


class Result:
    """In place of a future: asks when it is asked."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask

    def result(self) -> Any:
        return self._ask()


class AdminClient:
    """In place of `confluent_kafka.admin.AdminClient`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._process, self._broker = current_process(), cluster().broker

    def _call(self, apply: Callable[[], Any], timeout: float) -> Any:
        try:
            return self._broker.ask(self._process, apply, timeout)
        except TimeoutError:
            raise error("_TIMED_OUT", retriable=True) from None

    def describe_consumer_groups(self, groups: Sequence[str], request_timeout: float) -> dict[str, Result]:
        def members() -> Any:
            found = [SimpleNamespace(client_id=member.client_id) for member in self._broker.members.values()]
            return SimpleNamespace(members=found)

        return {group: Result(lambda: self._call(members, request_timeout)) for group in groups}


def _as_read(written: str) -> str:
    """As librdkafka hands metadata over: until the first NUL, which may lie beyond what was written."""
    text, nul, _ = written.partition("\0")
    return text if nul or not text else f"{text} and what lay behind it"


def _offset(place: Place, found: tuple[int, str]) -> Any:
    offset, metadata = found
    return SimpleNamespace(topic=place[0], partition=place[1], offset=offset, metadata=_as_read(metadata), error=None)


@contextmanager
def simulated_world() -> Iterator[pytest.MonkeyPatch]:
    """Put clients, clock, pools and locks of the simulation in the place of the real ones."""
    transport, clients, state, engine = streams.transport, streams.clients, streams.state, streams.engine
    outputs, ownership = transport.outputs, transport.ownership
    with pytest.MonkeyPatch.context() as patch:
        for module in (outputs.producer, state.writer):
            patch.setattr(module, "RdProducer", Producer)
        patch.setattr(clients.connection, "Consumer", Consumer)
        for module in (clients.connection, ownership.ownership):
            patch.setattr(module, "AdminClient", AdminClient)
        for module in (
            transport.consumer, transport.on_loop, transport.flow, transport.record_batch, clients.hang_watch,
            clients.log_reader, outputs.producer, outputs.transactions, ownership.leftovers, ownership.ownership,
            state.checkpointer, state.table, state.writer, engine.pipeline,
        ):  # fmt: skip
            patch.setattr(module, "time", Clock)
        for module in (outputs.transactions, state.checkpointer, engine.device):
            patch.setattr(module, "ThreadPoolExecutor", Pool)
        patch.setattr(outputs.transactions, "threading", SimpleNamespace(Lock=Lock))
        # Its spans are bound to the context of a task, and a task of a killed process is closed from outside.
        patch.setattr(faust.transport.consumer, "traced_from_parent_span", lambda span: lambda call, **_: call)
        yield patch
