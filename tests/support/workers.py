"""Real worker processes under test, and the records they read and write."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.clients.topic_admin import create_topics
from streams.processes.identity import free_ports
from streams.processes.launcher import worker_command, worker_environment
from streams.settings import load_settings
from tests.support.forked import ForkedProcess

READY_S_MAX = 120.0
COUNT_S_MAX = 60.0
FAUST_AT = 3  # where the arguments of faust begin in the command of a worker
_READS_COMMITTED = {
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
}


def poll_until(condition: Callable[[], Any], seconds_max: float, what: str) -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"expected {what} within {seconds_max:.0f} s")


class Process(Protocol):
    """What tests need of a worker's process."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...


@dataclass
class WorkerProcess:
    """One `faust -A streams worker`."""

    process: Process
    port: int
    log: Path

    def get(self, page: str) -> tuple[int, bytes]:
        """Return status and body of a page; 0 where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read()
        except OSError:
            return 0, b""

    def wait_until_ready(self) -> WorkerProcess:
        def ready() -> bool:
            assert self.process.poll() is None, f"the worker ended:\n{self.log.read_text()[-3000:]}"
            return self.get("/ready")[0] == 200

        poll_until(ready, READY_S_MAX, "a ready worker")
        return self

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_until_refused(self, seconds_max: float = READY_S_MAX) -> str:
        """Return the last line of a worker that ends by itself with exit code 1."""
        code = self.process.wait(seconds_max)
        text = self.log.read_text()
        assert code == 1, f"expected exit code 1, got {code}:\n{text[-3000:]}"
        return text.splitlines()[-1]

    def stop(self, seconds_max: float = 10.0) -> float:
        """End it by SIGTERM; return how long that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds_max)
        assert code == 0, f"expected exit code 0, got {code}:\n{self.log.read_text()[-3000:]}"
        return time.monotonic() - began


@dataclass
class Counted:
    """How many records of a topic were read, and which partitions have not been read to their end since their last one."""

    consumer: Consumer
    behind: set[int]
    count: int = 0


class Bench:
    """A cluster with fresh topics, an application id of its own, and the workers started on it."""

    def __init__(self, servers: str, folder: Path, application_id: str, **settings: Any) -> None:
        self.servers, self.folder, self.application_id = servers, folder, application_id
        self.environment = {f"STREAMS_{key.upper()}": str(value) for key, value in settings.items()}
        self.settings = load_settings(env=self.environment, bootstrap_servers=servers, application_id=application_id)
        self.client = self.settings.librdkafka()
        self.workers: list[WorkerProcess] = []
        self._counted: dict[str, Counted] = {}

    def create_topics(self) -> None:
        create_topics(AdminClient(self.client), self.settings)

    def start(
        self,
        slot: int | None,
        level: str = "info",
        *,
        interpreter: bool = False,
        prepare: Callable[[], None] | None = None,
        **settings: Any,
    ) -> WorkerProcess:
        """Start a worker, with a slot or without one; it is killed with the test, however that ends.

        Args:
            slot: its setting `worker_slot`; None leaves it out.
            level: of its log.
            interpreter: start a new interpreter, as users do, instead of forking a warm one.
            prepare: called in the forked worker before it begins.
            settings: of this worker alone.
        """
        port = free_ports(1)[0]
        log = self.folder / f"{self.application_id}-{slot}.log"
        command, environment = worker_command(level), self.environment_of(slot, port, settings)
        process: Process
        if interpreter:
            assert prepare is None, "nothing can be called in an interpreter of its own"
            with log.open("ab") as output:
                # Not `Launched`: tests signal the worker itself, and a supervisor would stand between.
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=self.folder)
        else:
            process = ForkedProcess(command[FAUST_AT:], environment, self.folder, log, prepare)
        worker = WorkerProcess(process, port, log)
        self.workers.append(worker)
        return worker

    def environment_of(self, slot: int | None, port: int, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment of a worker: this process's own settings must not reach it."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("STREAMS_")},
            **worker_environment(slot, port, self.folder),
            "STREAMS_BOOTSTRAP_SERVERS": self.servers,
            "STREAMS_APPLICATION_ID": self.application_id,
            **self.environment,
            **{f"STREAMS_{key.upper()}": str(value) for key, value in settings.items()},
        }

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        for counted in self._counted.values():
            counted.consumer.close()

    def produce(self, topic: str, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> None:
        """Send records and wait until the broker holds all of them."""
        producer = Producer(
            {**self.client, "partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 5}
        )
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed.append(error)

        for value, key in zip(values, keys, strict=True):
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.05)
        assert producer.flush(60) == 0 and not failed, failed

    def produce_json(self, topic: str, key: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Send JSON records keyed by one of their fields."""
        self.produce(topic, [orjson.dumps(r) for r in records], [str(r[key]).encode() for r in records])

    def read(self, topic: str) -> list[Any]:
        """Return all records of a topic as of now, a partition after the other."""
        return list(read_topic(self.client, topic))

    def read_json(self, topic: str) -> list[dict[str, Any]]:
        """Return all JSON values of a topic as of now."""
        return [orjson.loads(message.value()) for message in self.read(topic)]

    def wait_for(self, topic: str, count: int, seconds_max: float = 120.0) -> None:
        """Return when a topic holds at least `count` records."""

        def there() -> bool:
            for worker in self.workers:
                code = worker.process.poll()
                assert code in (None, 0, -signal.SIGKILL), (
                    f"a worker ended with {code}:\n{worker.log.read_text()[-3000:]}"
                )
            self._count_more(topic)  # a part at a time: where records keep coming there is no end to wait for
            return self._counted[topic].count >= count

        poll_until(there, seconds_max, f"{count} records in {topic}")

    def count(self, topic: str) -> int:
        """Return how many records of a topic are committed: offsets would count the marks of transactions, too."""
        deadline, ended = time.monotonic() + COUNT_S_MAX, self._count_more(topic)
        while self._counted[topic].behind - ended:
            assert time.monotonic() < deadline, f"{topic}: expected to read its end within {COUNT_S_MAX:.0f} s"
            ended |= self._count_more(topic)
        return self._counted[topic].count

    def _count_more(self, topic: str) -> set[int]:
        """Read what has come; return the partitions whose end was reached on the way."""
        counted = self._counted.get(topic)
        if counted is None:
            consumer = Consumer(_READS_COMMITTED | self.client | {"group.id": "count", "enable.partition.eof": True})
            numbers = set(consumer.list_topics(topic, 10).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
            counted = self._counted[topic] = Counted(consumer, numbers)
        ended: set[int] = set()
        for message in counted.consumer.consume(10_000, 0.2):
            error = message.error()
            if error is None:
                counted.count += 1
                counted.behind.add(message.partition())
            elif error.code() == KafkaError._PARTITION_EOF:
                counted.behind.discard(message.partition())
                ended.add(message.partition())
        return ended


def delete_topics(client: Mapping[str, str], seconds_max: float = 30.0) -> None:
    """Delete every topic but the cluster's own; return when the cluster no longer shows any."""
    admin = AdminClient({**client, "log_level": "0"})

    def gone() -> bool:
        names = [name for name in admin.list_topics(timeout=30).topics if not name.startswith("__")]
        for future in (admin.delete_topics(names, operation_timeout=30) if names else {}).values():
            with contextlib.suppress(KafkaException):  # on its way since the last turn
                future.result()
        return not names

    poll_until(gone, seconds_max, "no topics")


def read_topic(client: Mapping[str, str], topic: str) -> Iterator[Any]:
    """Yield the committed records of a topic as of now, a partition after the other."""
    deadline = time.monotonic() + COUNT_S_MAX
    with contextlib.closing(
        Consumer(_READS_COMMITTED | client | {"group.id": "read", "enable.partition.eof": True})
    ) as consumer:
        for number in sorted(consumer.list_topics(topic, 10).topics[topic].partitions):
            consumer.assign([TopicPartition(topic, number, 0)])
            at_end = False
            while not at_end:
                assert time.monotonic() < deadline, f"{topic}: expected to read its end within {COUNT_S_MAX:.0f} s"
                for message in consumer.consume(5_000, 0.2):
                    error = message.error()
                    if error is None:
                        yield message
                    else:
                        assert error.code() == KafkaError._PARTITION_EOF, error
                        at_end = True
