"""The embedded Kafka: what it serves, what it keeps, and that it never stays behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.errors import KafkaUnavailable, SettingsError
from streams.kafka import EmbeddedKafka, running
from streams.processes.identity import ProcessId

pytestmark = pytest.mark.kafka

COMMAND = (sys.executable, "-c", "from streams.commands import main; main(prog_name='streams')", "kafka")

# A program that runs an embedded Kafka until it is told, or made, to end; with a forked child that outlives it.
OWNER = """
import os, sys, time
from streams.kafka import EmbeddedKafka
with EmbeddedKafka(sys.argv[1]) as kafka:
    child = os.fork()
    if child == 0:
        os.closerange(1, 3)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def wait_until(condition: Callable[[], bool], deadline_s: float = 15.0) -> None:
    """Return when the condition holds; fail when it does not within the deadline."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "not within the deadline"
        time.sleep(0.05)


def create_topic(address: str, name: str, replicas: int = 1) -> None:
    """Create a topic of one partition."""
    new = NewTopic(name, num_partitions=1, replication_factor=replicas)
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([new])[name].result(10)


def produce(address: str, topic: str, values: list[bytes], **settings: str) -> None:
    """Produce values and wait until the broker has confirmed each."""
    failed: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": address, "acks": "all", "message.timeout.ms": 20_000, **settings})
    for value in values:
        producer.produce(
            topic, value, partition=0, on_delivery=lambda error, _: failed.append(error) if error else None
        )
    assert producer.flush(25) == 0
    assert failed == []


def consume(address: str, topic: str, count: int) -> list[bytes | None]:
    """Return the first values of a topic's only partition."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=15)]
    finally:
        consumer.close()


def processes(embedded: EmbeddedKafka) -> list[ProcessId]:
    """Return the supervisors and brokers that the folder's record names."""
    cluster = embedded.status()
    assert cluster is not None
    return [one for broker in cluster.brokers for one in (broker.supervisor, broker.java) if one is not None]


def run(state_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `streams kafka ...` with a state directory of its own."""
    environment = {**os.environ, "STREAMS_STATE_DIR": str(state_dir), "STREAMS_BOOTSTRAP_SERVERS": ""}
    return subprocess.run(
        (*COMMAND, *arguments), env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose broker, if any, ends with the test."""
    yield tmp_path
    EmbeddedKafka(tmp_path / "kafka").reset()


def test_data_and_address_survive_a_restart(tmp_path: Path) -> None:
    """What was produced before a stop is consumed after the next start, at the same address."""
    with EmbeddedKafka(tmp_path) as embedded:
        before = embedded.bootstrap_servers
        create_topic(before, "kept")
        produce(before, "kept", [b"1", b"2"])
        ours = processes(embedded)
        assert len(ours) == 2
        assert all(one.is_alive() for one in ours)
    assert not any(one.is_alive() for one in ours)
    with EmbeddedKafka(tmp_path) as embedded:
        assert embedded.bootstrap_servers == before
        assert consume(before, "kept", 2) == [b"1", b"2"]
        with pytest.raises(KafkaUnavailable, match=f"runs already, at {before}"):
            EmbeddedKafka(tmp_path).start()
    with pytest.raises(SettingsError, match="holds data of 1"):
        EmbeddedKafka(tmp_path, brokers=3).start()


def test_a_killed_broker_comes_back_with_what_it_had_confirmed(tmp_path: Path) -> None:
    """After kill -9 the same address serves every confirmed record."""
    with EmbeddedKafka(tmp_path) as embedded:
        create_topic(embedded.bootstrap_servers, "kept")
        produce(embedded.bootstrap_servers, "kept", [b"%d" % number for number in range(100)])
        embedded.kill_broker(1)
        assert running(tmp_path.parent) is None
        embedded.restart_broker(1)
        assert consume(embedded.bootstrap_servers, "kept", 100) == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_broker_outlives_its_owner(tmp_path: Path, number: signal.Signals) -> None:
    """However the owner ends, its broker ends, even if a forked child of the owner lives on with its pipes."""
    owner = subprocess.Popen(
        (sys.executable, "-c", OWNER, str(tmp_path)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None
    with owner.stdout:
        child = ProcessId.of(int(owner.stdout.readline()))
    ours = processes(EmbeddedKafka(tmp_path))
    assert all(one.is_alive() for one in ours)
    try:
        owner.send_signal(number)
        owner.wait(15)
        wait_until(lambda: not any(one.is_alive() for one in ours))
        assert child.is_alive()
    finally:
        child.signal(signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_no_broker_outlives_its_supervisor(tmp_path: Path) -> None:
    """kill -9 of the supervisor, too, takes the broker along."""
    with EmbeddedKafka(tmp_path) as embedded:
        cluster = embedded.status()
        assert cluster is not None
        (broker,) = cluster.brokers
        assert broker.supervisor is not None
        broker.supervisor.signal(signal.SIGKILL)
        wait_until(lambda: not broker.is_alive())


def test_a_stopped_process_is_ended_too(tmp_path: Path) -> None:
    """A broker under SIGSTOP is stopped in order."""
    with EmbeddedKafka(tmp_path) as embedded:
        ours = processes(embedded)
        embedded.kill_broker(1, signal.SIGSTOP)
        assert embedded.stop()
        assert not any(one.is_alive() for one in ours)
        assert not embedded.stop()


def test_three_brokers_lose_one_and_no_record(tmp_path: Path) -> None:
    """With one of three brokers killed, records are still confirmed by two; the third joins again."""
    with EmbeddedKafka(tmp_path, brokers=3) as embedded:
        address = embedded.bootstrap_servers
        assert len(AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers) == 3
        create_topic(address, "safe", replicas=3)
        produce(address, "safe", [b"1"])
        embedded.kill_broker(2)
        produce(address, "safe", [b"2"])
        embedded.restart_broker(2)
        assert consume(address, "safe", 2) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("num.io.threads", "none", "Invalid value none for configuration num.io.threads"),
        ("metric.reporters", "no.such.Reporter", "no.such.Reporter"),
    ],
)
def test_a_broker_that_cannot_start_says_why(tmp_path: Path, key: str, value: str, cause: str) -> None:
    """The error carries the broker's own words, whether it fails to format or to start; nothing runs afterwards."""
    embedded = EmbeddedKafka(tmp_path, extra={key: value})
    with pytest.raises(KafkaUnavailable, match=re.escape(cause)):
        embedded.start()
    assert embedded.status() is None or processes(embedded) == []
    assert not embedded.stop()


def test_extra_properties_make_a_listener_with_passwords(tmp_path: Path) -> None:
    """Server properties and client settings pass through: who has the password gets in, who has not does not."""
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    extra = {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f'{login} username="u" password="p" user_u="p";',
    }
    client = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "p",
    }
    with EmbeddedKafka(tmp_path, extra=extra, client=client) as embedded:
        server = {"bootstrap.servers": embedded.bootstrap_servers, "log_level": 0}
        assert len(AdminClient({**server, **client}).list_topics(timeout=10).brokers) == 1
        with pytest.raises(KafkaException):
            AdminClient({**server, **client, "sasl.password": "wrong"}).list_topics(timeout=2)


def test_commands_start_find_and_stop_a_broker(state_dir: Path) -> None:
    """start prints an address that works and that the settings find; status and stop agree; reset forgets the data."""
    started = run(state_dir, "start")
    assert (started.returncode, started.stderr.replace("downloading", "")) == (0, "")
    address = started.stdout.strip()
    assert running(state_dir) == address
    create_topic(address, "kept")

    again = run(state_dir, "start")
    assert (again.returncode, again.stdout.strip()) == (0, address)
    other = run(state_dir, "start", "--brokers", "3")
    assert (other.returncode, other.stdout) == (1, "")
    assert "already runs with 1" in other.stderr

    status = run(state_dir, "status")
    assert status.returncode == 0
    assert address in status.stdout
    assert (run(state_dir, "stop").stdout, running(state_dir)) == ("stopped\n", None)
    down = run(state_dir, "status")
    assert (down.returncode, len(down.stderr.splitlines())) == (1, 1)
    stopped = run(state_dir, "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "not running\n")

    assert run(state_dir, "start").returncode == 0
    assert "kept" in AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).topics
    assert run(state_dir, "reset").stdout == "deleted\n"
    assert running(state_dir) is None
    assert [path.name for path in (state_dir / "kafka").iterdir()] == ["lock"]


def test_commands_refuse_what_cannot_work(state_dir: Path) -> None:
    """A taken port names its holder; impossible options are wrong usage; none leaves a traceback or a broker."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = run(state_dir, "start", "--port", str(server.getsockname()[1]))
    assert taken.returncode == 1
    assert f"(pid {os.getpid()}: " in taken.stderr
    assert len(taken.stderr.splitlines()) == 1
    assert run(state_dir, "start", "--brokers", "2").returncode == 2
    assert run(state_dir, "start", "--port", "80").returncode == 2
    assert running(state_dir) is None


@pytest.mark.parametrize(("ctrl_c", "code"), [(True, 130), (False, 0)])
def test_foreground_ends_by_ctrl_c_and_by_stop(state_dir: Path, ctrl_c: bool, code: int) -> None:
    """In the foreground it runs until Ctrl-C (exit code 130) or `streams kafka stop` (0), and leaves nothing behind."""
    environment = {**os.environ, "STREAMS_STATE_DIR": str(state_dir)}
    shell = subprocess.Popen((*COMMAND, "start", "--foreground"), env=environment, stdout=subprocess.PIPE)
    assert shell.stdout is not None
    with shell.stdout:
        address = shell.stdout.readline().decode().strip()
    assert running(state_dir) == address
    ours = processes(EmbeddedKafka(state_dir / "kafka"))
    if ctrl_c:
        shell.send_signal(signal.SIGINT)
    else:
        assert run(state_dir, "stop").stdout == "stopped\n"
    assert shell.wait(15) == code
    assert not any(one.is_alive() for one in ours)
