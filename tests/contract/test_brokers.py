"""What correctness hangs on, as a client of Kafka meets it: of the embedded broker, and of the simulated one in its place.

Each behaviour is one function, called with clients of either. Where it fails for one of the two, the simulation proves
something about another broker than the one that runs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

import confluent_kafka
import pytest
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from greenlet import GreenletExit

from streams.transport.ownership.group_member import GroupMember
from tests.simulation import clients as simulated
from tests.simulation.broker import Broker, Place, Refused
from tests.simulation.scheduler import Clock, Process, Scheduler, Signal, Thread, current_process

CALL_S = 20.0
SEEDS = range(8)  # of the simulated broker: answers come in another order with each


class Cluster(Protocol):
    """A cluster with two topics of one partition, and clients of it."""

    log: str
    input: str
    group: str

    def producer(self, transactional_id: str | None, timeout_s: float = 60.0) -> Any: ...

    def consumer(self, isolation: str = "read_committed") -> Any: ...

    def joined(self) -> GroupMember:
        """Return the only member of the group, in its present generation; it stays one."""
        ...

    def sleep(self, seconds: float) -> None: ...


class RealCluster:
    """The embedded Kafka, with topics and a group of a test's own."""

    def __init__(self, servers: str) -> None:
        name = uuid.uuid4().hex[:8]
        self.log, self.input, self.group = f"log-{name}", f"input-{name}", f"group-{name}"
        self._config = {"bootstrap.servers": servers, "log_level": 0}
        self._open: list[Any] = []
        admin = AdminClient(self._config)
        for each in admin.create_topics([NewTopic(topic, 1, 1) for topic in (self.log, self.input)]).values():
            each.result(30)

    def producer(self, transactional_id: str | None, timeout_s: float = 60.0) -> Any:
        named = {} if transactional_id is None else {"transactional.id": f"{self.group}-{transactional_id}"}
        timeout = {"transaction.timeout.ms": int(timeout_s * 1000)} if named else {}
        return confluent_kafka.Producer({**self._config, **named, **timeout, "linger.ms": 0})

    def consumer(self, isolation: str = "read_committed") -> Any:
        config = {"group.id": self.group, "isolation.level": isolation, "enable.auto.commit": False}
        consumer = confluent_kafka.Consumer({**self._config, **config, "enable.partition.eof": True})
        self._open.append(consumer)
        return consumer

    def joined(self) -> GroupMember:
        consumer = self.consumer()
        consumer.subscribe([self.input])
        until(self, lambda: consumer.poll(0.1) is not None or consumer.assignment())
        generation, member, instance = simulated.read_member(consumer.consumer_group_metadata())
        return GroupMember(self.group, generation, member, instance)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        for consumer in self._open:
            consumer.close()


class Unobserved:
    """No observer of visible records."""

    def visible(self, place: Place, key: bytes | None, value: bytes | None) -> None: ...

    def offset_committed(self, place: Place, offset: int) -> None: ...


class SimulatedCluster:
    """The simulated broker. For the thread in which a behaviour runs."""

    log, input, group = "log", "input", "group"

    def __init__(self) -> None:
        self._broker = simulated.cluster().broker

    def producer(self, transactional_id: str | None, timeout_s: float = 60.0) -> Any:
        return simulated.Producer({"transactional.id": transactional_id, "transaction.timeout.ms": timeout_s * 1000})

    def consumer(self, isolation: str = "read_committed") -> Any:
        return simulated.Consumer({"isolation.level": isolation})

    def joined(self) -> GroupMember:
        answer: list[Any] = []
        came = Signal()

        def joined(result: Any) -> None:
            answer.append(result)
            came.notify()

        join = lambda: self._broker.join("", "client", None, joined)  # noqa: E731
        self._broker.request(current_process(), join, lambda _: None)
        while not answer:
            came.wait()
        assert not isinstance(answer[0], Refused)
        member, generation, _ = answer[0]
        return GroupMember(self.group, generation, member)

    def sleep(self, seconds: float) -> None:
        Clock.sleep(seconds)


def simulate(seed: int, behaviour: Callable[[Cluster], None]) -> None:
    """Run a behaviour in a thread of a world with this seed, and raise what it raises."""
    scheduler = Scheduler(f"brokers/{seed}")
    broker = Broker({SimulatedCluster.log: 1, SimulatedCluster.input: 1}, 600.0, Unobserved())
    broker.assigned = [(SimulatedCluster.input, 0)]
    simulated.Cluster.current = simulated.Cluster(broker)
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            behaviour(SimulatedCluster())
        except GreenletExit:
            raise
        except BaseException as exc:  # noqa: BLE001 - it is raised in the test's own thread
            ended.append(exc)
        else:
            ended.append(None)

    Thread(Process("client"), run)
    try:
        assert scheduler.run(lambda: bool(ended), 600.0), "the behaviour came to no end"
    finally:
        scheduler.close()
    if ended[0] is not None:
        raise ended[0]


Run = Callable[[Callable[[Cluster], None]], None]


@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.kafka), "simulated"])
def on_broker(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Call a behaviour with a cluster of each kind."""
    if request.param == "simulated":

        def run_simulated(behaviour: Callable[[Cluster], None]) -> None:
            for seed in SEEDS:
                simulate(seed, behaviour)

        yield run_simulated
        return
    with closing(RealCluster(request.getfixturevalue("kafka"))) as cluster:
        yield lambda behaviour: behaviour(cluster)


# ---- words of the behaviours


def until(cluster: Cluster, condition: Callable[[], Any], steps_max: int = 200) -> Any:
    """Return the first true value of a condition that is asked every tenth of a second."""
    for _ in range(steps_max):
        if value := condition():
            return value
        cluster.sleep(0.1)
    raise AssertionError(f"expected {condition} to hold within {steps_max} steps")


def begun(cluster: Cluster, name: str, *values: bytes, timeout_s: float = 60.0) -> Any:
    """Return a producer with an open transaction whose records the broker has."""
    producer = cluster.producer(name, timeout_s)
    producer.init_transactions(CALL_S)
    add(cluster, producer, *values)
    return producer


def add(cluster: Cluster, producer: Any, *values: bytes) -> None:
    """Begin a transaction and write records."""
    producer.begin_transaction()
    for value in values:
        producer.produce(cluster.log, value, b"key", 0)
    assert producer.flush(CALL_S) == 0


def end(cluster: Cluster, isolation: str = "read_committed") -> int:
    """Return the end of the log as a reader is told it."""
    (found,) = cluster.consumer(isolation).offsets_for_times([TopicPartition(cluster.log, 0, OFFSET_END)], CALL_S)
    return int(found.offset)


def read(cluster: Cluster) -> list[tuple[int, bytes]]:
    """Return offset and value of each record that a read_committed reader gets before it is told of the end."""
    consumer = cluster.consumer()
    consumer.assign([TopicPartition(cluster.log, 0, 0)])
    found: list[tuple[int, bytes]] = []
    while True:
        message = until(cluster, lambda: consumer.poll(1.0))
        if message.error() is None:
            found.append((message.offset(), message.value()))
            continue
        assert message.error().code() == KafkaError._PARTITION_EOF
        return found


def committed(cluster: Cluster, seconds: float = CALL_S) -> tuple[int, str]:
    """Return offset and metadata that the group has committed."""
    (found,) = cluster.consumer().committed([TopicPartition(cluster.input, 0)], seconds)
    return found.offset, found.metadata or ""


def place(cluster: Cluster, offset: int, metadata: str = "") -> list[TopicPartition]:
    return [TopicPartition(cluster.input, 0, offset, metadata)]


@contextmanager
def refused(name: str, *, abort: bool = False, fatal: bool = False) -> Iterator[None]:
    """Expect librdkafka's error of this name, and what it says must be done about it."""
    with pytest.raises(KafkaException) as caught:
        yield
    error = caught.value.args[0]
    assert (error.name(), error.txn_requires_abort(), error.fatal()) == (name, abort, fatal), error


# ---- behaviours


def test_committed_records_are_read_and_aborted_ones_never(on_broker: Run) -> None:
    """Each end of a transaction takes one offset of the log, where no record is."""

    def behaviour(cluster: Cluster) -> None:
        producer = begun(cluster, "a", b"1", b"2")
        producer.commit_transaction(CALL_S)
        add(cluster, producer, b"3", b"4")
        producer.abort_transaction(CALL_S)
        add(cluster, producer, b"5")
        producer.commit_transaction(CALL_S)
        until(cluster, lambda: end(cluster) == 8)
        assert end(cluster, "read_uncommitted") == 8
        assert read(cluster) == [(0, b"1"), (1, b"2"), (6, b"5")]

    on_broker(behaviour)


def test_an_open_transaction_holds_readers_up_at_its_first_record(on_broker: Run) -> None:
    """Also where others wrote and committed behind it. What stands before it can be read."""

    def behaviour(cluster: Cluster) -> None:
        first = begun(cluster, "a", b"1")
        first.commit_transaction(CALL_S)
        until(cluster, lambda: end(cluster) == 2)
        add(cluster, first, b"2")
        other = begun(cluster, "b", b"3")
        other.commit_transaction(CALL_S)
        until(cluster, lambda: end(cluster, "read_uncommitted") == 5)
        assert end(cluster) == 2
        assert read(cluster) == [(0, b"1")]
        first.commit_transaction(CALL_S)
        until(cluster, lambda: end(cluster) == 6)
        assert read(cluster) == [(0, b"1"), (2, b"2"), (3, b"3")]

    on_broker(behaviour)


def test_a_new_producer_of_an_id_ends_the_transaction_of_the_former_and_fences_it(on_broker: Run) -> None:
    """Readers get nothing of it; the former producer is told, for good, when it wants to commit."""

    def behaviour(cluster: Cluster) -> None:
        former = begun(cluster, "a", b"1")
        latter = begun(cluster, "a", b"2")
        with refused("_FENCED", fatal=True):
            former.commit_transaction(CALL_S)
        with refused("_FENCED", fatal=True):
            former.abort_transaction(CALL_S)
        latter.commit_transaction(CALL_S)
        until(cluster, lambda: end(cluster) == 4)
        assert read(cluster) == [(2, b"2")]

    on_broker(behaviour)


def test_offsets_come_with_the_transaction_or_not_at_all(on_broker: Run) -> None:
    """With their metadata; while it is open, who asks for stable offsets is not told any."""

    def behaviour(cluster: Cluster) -> None:
        member = cluster.joined().metadata()
        assert committed(cluster)[0] < 0
        producer = begun(cluster, "a", b"1")
        producer.send_offsets_to_transaction(place(cluster, 5, "owner-a"), member, CALL_S)
        with pytest.raises(KafkaException):
            committed(cluster, 1.0)
        producer.commit_transaction(CALL_S)
        assert committed(cluster) == (5, "owner-a")
        add(cluster, producer, b"2")
        producer.send_offsets_to_transaction(place(cluster, 9, "owner-b"), member, CALL_S)
        producer.abort_transaction(CALL_S)
        assert committed(cluster) == (5, "owner-a")

    on_broker(behaviour)


@pytest.mark.parametrize("conflict", ["ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID"])
def test_offsets_of_a_passed_generation_or_a_stranger_are_refused(on_broker: Run, conflict: str) -> None:
    """The transaction can only be aborted then; nothing of it is read or committed, and the next one is good."""

    def behaviour(cluster: Cluster) -> None:
        member = cluster.joined()
        if conflict == "ILLEGAL_GENERATION":
            wrong = GroupMember(cluster.group, member.generation - 1, member.member_id)
        else:
            wrong = GroupMember(cluster.group, member.generation, "stranger")
        producer = begun(cluster, "a", b"1")
        with refused(conflict, abort=True):
            producer.send_offsets_to_transaction(place(cluster, 5), wrong.metadata(), CALL_S)
        with refused(conflict, abort=True):
            producer.commit_transaction(CALL_S)
        producer.abort_transaction(CALL_S)
        assert committed(cluster)[0] < 0
        add(cluster, producer, b"2")
        producer.send_offsets_to_transaction(place(cluster, 7), member.metadata(), CALL_S)
        producer.commit_transaction(CALL_S)
        assert committed(cluster)[0] == 7
        until(cluster, lambda: end(cluster) == 4)
        assert read(cluster) == [(2, b"2")]

    on_broker(behaviour)


def test_a_transaction_that_takes_too_long_is_aborted_by_the_broker(on_broker: Run) -> None:
    """Readers go on without its producer, which is fenced when it comes back."""

    def behaviour(cluster: Cluster) -> None:
        late = begun(cluster, "a", b"1", timeout_s=1.0)
        assert end(cluster) == 0
        until(cluster, lambda: end(cluster) == 2)
        assert read(cluster) == []
        with refused("_FENCED", fatal=True):
            late.commit_transaction(CALL_S)

    on_broker(behaviour)


def test_calls_out_of_order_are_refused_without_asking(on_broker: Run) -> None:
    """No transaction without `init_transactions`, no record, offset or end without a transaction."""

    def behaviour(cluster: Cluster) -> None:
        producer = cluster.producer("a")
        with refused("_STATE"):
            producer.begin_transaction()
        producer.init_transactions(CALL_S)
        for call in (
            lambda: producer.produce(cluster.log, b"1", b"key", 0),
            lambda: producer.send_offsets_to_transaction(
                place(cluster, 1), GroupMember(cluster.group).metadata(), CALL_S
            ),
            lambda: producer.commit_transaction(CALL_S),
            lambda: producer.abort_transaction(CALL_S),
        ):
            with refused("_STATE"):
                call()
        assert end(cluster, "read_uncommitted") == 0

    on_broker(behaviour)
