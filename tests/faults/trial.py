"""Trial: one fault test. Fresh topics, workers that can be sabotaged, load whose every id is known, a reader, a verdict."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from streams.contract.topics import DECISIONS, LABELS, TRANSACTIONS
from streams.errors import KafkaUnavailable
from tests.faults.checker import Confirmed, Expected, Seen, Verdict, first_decision_after, judge
from tests.faults.sabotage import sabotage
from tests.support.oracle import FraudOracle, checkpointed_digests
from tests.support.traffic import payments
from tests.support.workers import Bench, WorkerProcess, delete_topics, poll_until

# After the last expected decision a second one may still be on its way.
SETTLE_S = 1.0


class Load(threading.Thread):
    """Payments at a steady rate, and what the broker confirmed of them.

    Args:
        servers: address.
        records: payments, sent in this order.
        rate: records a second; 0 is as fast as they go.
        transaction: send all of them in one transaction, which is committed or aborted; None sends without.
    """

    def __init__(
        self,
        servers: str,
        records: Sequence[Mapping[str, Any]],
        rate: float = 0.0,
        transaction: Literal["commit", "abort"] | None = None,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self._records, self._rate, self._transaction = records, rate, transaction
        self._stopped, self._ended = threading.Event(), False
        self.confirmed: dict[str, Confirmed] = {}
        self.refused: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
                "log_level": 0,
                **(
                    {"delivery.timeout.ms": 300_000}
                    if transaction is None
                    else {"delivery.timeout.ms": 50_000, "transactional.id": f"load-{uuid.uuid4()}"}
                ),
            }
        )
        self.start()

    def run(self) -> None:
        if self._transaction is not None:
            self._producer.init_transactions(60)
            self._producer.begin_transaction()
        self._send_all()
        left = self._producer.flush(300)
        if self._transaction == "commit":
            self._producer.commit_transaction(60)
        elif self._transaction == "abort":
            self._producer.abort_transaction(60)
        self._ended = left == 0

    def _send_all(self) -> None:
        began = time.monotonic()
        for number, record in enumerate(self._records):
            if self._stopped.is_set():
                return
            if self._rate:
                while (early := began + number / self._rate - time.monotonic()) > 0:
                    self._producer.poll(min(early, 0.02))
            self._send(record)

    def _send(self, record: Mapping[str, Any]) -> None:
        name = record["transaction_id"]

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                self.confirmed[name] = Confirmed(message.partition(), message.offset(), time.time())
            else:
                self.refused.append(f"{name}: {error.str()}")

        while True:
            try:
                self._producer.produce(
                    TRANSACTIONS.name, orjson.dumps(record), record["card_id"], on_delivery=delivered
                )
                break
            except BufferError:
                self._producer.poll(0.05)
        self._producer.poll(0)

    def stop(self) -> None:
        """Send no more of the records."""
        self._stopped.set()

    def finish(self, seconds_max: float = 300.0) -> dict[str, Confirmed]:
        """Return what was confirmed, once that is everything that was to be sent."""
        self.join(seconds_max)
        assert not self.refused, f"{len(self.refused)} inputs refused: {self.refused[:3]}"
        assert self._ended, "expected an end of the load and an answer to each input: it goes on, or has failed"
        return self.confirmed


class Tail(threading.Thread):
    """A read_committed reader of the decisions, from the beginning, that notes when it met each."""

    def __init__(self, servers: str) -> None:
        super().__init__(name="tail", daemon=True)
        self.seen: list[Seen] = []
        self.ids: set[str] = set()
        self._servers, self._ending = servers, threading.Event()
        self.start()

    def run(self) -> None:
        config = {"group.id": "tail", "isolation.level": "read_committed", "enable.auto.commit": False, "log_level": 0}
        with contextlib.closing(Consumer({**config, "bootstrap.servers": self._servers})) as consumer:
            partitions = consumer.list_topics(DECISIONS.name, 30).topics[DECISIONS.name].partitions
            consumer.assign([TopicPartition(DECISIONS.name, number, 0) for number in partitions])
            while not self._ending.is_set():
                head = consumer.poll(0.1)
                messages = [] if head is None else [head, *consumer.consume(1_000, 0)]
                now = time.time()
                # Errors are brokers that are down: the client goes on by itself, and so does the test.
                met = [Seen.of(message, now) for message in messages if message.error() is None]
                self.seen += met
                self.ids.update(each.input_id for each in met)

    def close(self) -> None:
        self._ending.set()
        self.join(10)


class Trial(Bench):
    """Topics, workers and load of one test.

    Args:
        servers: address of the brokers for the test itself.
        worker_servers: address that workers get, where that is a proxy's.
    """

    def __init__(
        self, servers: str, folder: Path, application_id: str, worker_servers: str | None = None, **settings: Any
    ) -> None:
        super().__init__(servers, folder, application_id, **settings)
        if worker_servers is not None:
            self.environment["STREAMS_BOOTSTRAP_SERVERS"] = worker_servers
        self.admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self._supervised: list[Supervised] = []
        self.loads: list[Load] = []

    def open(self) -> Self:
        """Make the topics anew and begin to read decisions."""
        delete_topics(self.client)
        poll_until(self._topics_made, 30, "the topics")
        self.tail = Tail(self.servers)
        return self

    def _topics_made(self) -> bool:
        with contextlib.suppress(KafkaException, KafkaUnavailable):  # a topic of this name is still being deleted
            self.create_topics()
            return True
        return False

    def close(self) -> None:
        for load in self.loads:
            load.stop()
        for each in self._supervised:
            each.release()
        super().close()
        if hasattr(self, "tail"):
            self.tail.close()

    def configure_topic(self, topic: str, **config: Any) -> None:
        """Set a topic's own settings; None takes one back."""
        entries = [
            ConfigEntry(
                key.replace("_", "."),
                None if value is None else str(value),
                incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
            )
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(30)

    # ---- workers

    def fork(self, slot: int = 0, *faults: str, **settings: Any) -> WorkerProcess:
        """Start a worker in a second or two, with faults of `sabotage` in it."""
        return self.start(slot, prepare=functools.partial(sabotage, faults), **settings)

    def supervise(self, slot: int = 0, *faults: str, lasting: Sequence[str] = (), real: bool = False) -> Supervised:
        """Keep a worker running in a slot, as systemd or Kubernetes would.

        Args:
            faults: one for the first worker, one for the second, ...; those after have none.
            lasting: of every worker.
            real: start new interpreters, as a user would, instead of forking.
        """
        left = iter(faults)

        def start() -> WorkerProcess:
            return self.start(slot, interpreter=True) if real else self.fork(slot, *lasting, *itertools.islice(left, 1))

        supervised = Supervised(start)
        self._supervised.append(supervised)
        return supervised

    # ---- load

    def produce_labels(self, records: int, seed: int = 3, cards: int = 400) -> list[dict[str, Any]]:
        """Send the labels of simulated payments, so that no decision depends on when they come; return the payments."""
        sent, labels = payments(records, seed=seed, cards=cards)
        self.produce_json(LABELS.name, "card_id", labels)
        return sent

    def load(
        self,
        records: Sequence[Mapping[str, Any]],
        rate: float = 0.0,
        transaction: Literal["commit", "abort"] | None = None,
    ) -> Load:
        """Send payments in the background."""
        load = Load(self.servers, records, rate, transaction)
        self.loads.append(load)
        return load

    @property
    def confirmed(self) -> dict[str, Confirmed]:
        """Return every input that the broker has confirmed so far."""
        copies = [dict(load.confirmed) for load in self.loads]  # a load goes on meanwhile
        return {name: each for copy in copies for name, each in copy.items()}

    def wait_for_decisions(self, count: int, seconds_max: float = 120.0) -> None:
        """Return when so many decisions have been read."""
        poll_until(lambda: len(self.tail.seen) >= count, seconds_max, f"{count} decisions")

    def wait_for_more(self, count: int = 1, seconds_max: float = 120.0) -> None:
        """Return when so many more decisions have been read than now."""
        self.wait_for_decisions(len(self.tail.seen) + count, seconds_max)

    def committed(self) -> dict[int, int]:
        """Return the committed offset of each partition of the payments; 0 where there is none.

        A transaction that cannot end, because its outputs are refused, has committed nothing: it is not waited for.
        """
        config = {"group.id": self.application_id, "isolation.level": "read_uncommitted", "log_level": 0}
        with contextlib.closing(Consumer({**config, "bootstrap.servers": self.servers})) as group:
            numbers = group.list_topics(TRANSACTIONS.name, 10).topics[TRANSACTIONS.name].partitions
            asked = [TopicPartition(TRANSACTIONS.name, number) for number in numbers]

            def answered() -> dict[int, int]:
                with contextlib.suppress(KafkaException):  # the coordinator is moving to another broker
                    return {tp.partition: max(0, tp.offset) for tp in group.committed(asked, 10)}
                return {}

            found: dict[int, int] = poll_until(answered, 60, "the committed offsets")
            return found

    def assert_committed_is_decided(self) -> None:
        """Check that no committed offset has passed an input whose decision cannot be read."""
        committed = self.committed()
        passed = {name for name, each in self.confirmed.items() if each.offset < committed[each.partition]}
        poll_until(lambda: passed <= self.tail.ids, 15, "a decision of every input below the committed offsets")

    def latencies(self, names: Iterable[str] | None = None, partitions: Iterable[int] = range(1_000)) -> list[float]:
        """Return the seconds from an input's confirmation to the reader's first sight of its decision."""
        confirmed, wanted = self.confirmed, None if names is None else set(names)
        first: dict[str, float] = {}
        for each in list(self.tail.seen):
            first.setdefault(each.input_id, each.at)
        return [
            max(0.0, first[name] - each.at)
            for name, each in confirmed.items()
            if name in first and (wanted is None or name in wanted) and each.partition in partitions
        ]

    # ---- verdict

    def verdict(
        self,
        seconds_max: float = 120.0,
        *,
        faults: int = 0,
        restarts: Sequence[float] = (),
        excused: frozenset[str] = frozenset(),
        quiet_s_max: float = math.inf,
        degraded: bool = False,
        oracle: Callable[[Sequence[Any], Sequence[Any]], FraudOracle] = FraudOracle,
    ) -> Verdict:
        """Wait until all that was confirmed is decided, or time is up, and judge.

        Args:
            faults: how many were done.
            restarts: when workers were started again, seconds of the wall clock.
            excused: ids that need no decision.
            quiet_s_max: give up once no decision has come for so long, where some are expected to be missing.
            degraded: whether decisions may be without a score, because the model fails.
            oracle: what to expect of the inputs and labels in the log.
        """
        confirmed = {name: each for load in self.loads for name, each in load.finish().items()}
        deadline = time.monotonic() + seconds_max
        heard_at, heard = time.monotonic(), 0
        while time.monotonic() < deadline and not (confirmed.keys() - excused) <= self.tail.ids:
            if len(self.tail.seen) > heard:
                heard_at, heard = time.monotonic(), len(self.tail.seen)
            if heard and time.monotonic() - heard_at > quiet_s_max:
                break
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        self._excused, self._oracle = excused, oracle
        self.oracle = oracle(self.read(TRANSACTIONS.name), self.read(LABELS.name))
        at = {(each.partition, each.offset): each.at for each in self.tail.seen}
        decisions = [Seen.of(m, at.get((m.partition(), m.offset()), float("nan"))) for m in self.read(DECISIONS.name)]
        verdict = judge(confirmed, Expected(self.oracle.scores, self.oracle.places, excused, degraded), decisions)
        verdict.faults = faults
        verdict.first_decision_s = first_decision_after(restarts, decisions)
        return verdict

    def assert_state_is_exact(self, worker: WorkerProcess) -> None:
        """End the last worker and compare the rows that it leaves behind with the oracle's.

        A worker restores a partition when it reads from it: each gets some more payments first.
        """
        self.load(payments(60, seed=77)[0]).finish()
        verdict = self.verdict(60, excused=self._excused, oracle=self._oracle)
        assert verdict.clean, str(verdict)
        assert worker.stop() < 10.0
        assert checkpointed_digests(self.read(f"{self.application_id}-card-state")) == self.oracle.digests


class Supervised(threading.Thread):
    """One slot whose worker is started again whenever it has ended, until released.

    Attributes:
        started: when a worker was started again, seconds of the wall clock.
        codes: exit codes so far.
    """

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._start_worker, self._released = start, threading.Event()
        self._turn = threading.Lock()
        self.started: list[float] = []
        self.codes: list[int] = []
        self.worker = start()
        self.start()

    def run(self) -> None:
        while not self._released.wait(0.05):
            code = self.worker.process.poll()
            if code is None:
                continue
            with self._turn:
                if self._released.is_set():
                    return
                self.codes.append(code)
                self.started.append(time.time())
                self.worker = self._start_worker()

    def kill(self) -> None:
        """kill -9 the present worker; return when it is gone."""
        with self._turn:
            self.worker.kill()

    def release(self) -> WorkerProcess:
        """Start none any more; return the present worker."""
        self._released.set()
        self.join()
        return self.worker


@contextlib.contextmanager
def stopped(worker: WorkerProcess) -> Iterator[None]:
    """Hold a worker by SIGSTOP for the length of the block."""
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)
