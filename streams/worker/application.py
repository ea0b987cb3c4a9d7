"""The Faust application: `faust -A streams worker`."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faust
from faust.types import TP

from models.errors import ModelError
from streams.agents.fraud import FraudJob
from streams.agents.labels import LabelJob
from streams.agents.recommendations import RecommendationJob
from streams.clients.connection import connect
from streams.clients.credentials import tls_context
from streams.contract.topics import Topic
from streams.errors import ClientHangs, SettingsError, StreamsError
from streams.settings import Settings, load_settings
from streams.transport.flow import Flow
from streams.transport.record_batch import BatchSchema
from streams.transport.upstream import TRANSPORTS, TableManager
from streams.worker.assembly import build
from streams.worker.pages import declare_pages, guarded_by
from streams.worker.process import WorkerProcess
from streams.worker.worker import Worker

logger = logging.getLogger(__name__)

# Also without the installed entry point, so that a checkout works as it is.
TRANSPORTS.aliases.setdefault("streams", "streams.transport:Transport")


class CommandLine(faust.Worker):
    """`faust -A streams worker`. An error found before Faust starts ends it with one line."""

    app: Application

    def execute_from_commandline(self) -> None:
        try:
            connect(self.app.settings)
            check_port(self.app.conf.web_bind, self.app.conf.web_port)
            self.app.prepare(self.loop)
        except (StreamsError, ModelError) as exc:
            raise SystemExit(last_line(exc)) from None
        try:
            super().execute_from_commandline()
        except SystemExit:
            if self.app.failure is None:
                raise
            raise SystemExit(last_line(self.app.failure)) from None


def last_line(exc: BaseException) -> str:
    """Return the last line of a process that ends because of `exc`."""
    return f"streams: {type(exc).__name__}: {exc}"


def check_port(host: str, port: int) -> None:
    """Raise SettingsError where the host has no address on this machine, or another process has the port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in found:
            socket.create_server(address, family=family).close()
    except OSError as exc:  # of a name without an address, too
        if exc.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"http_port: expected {url_host(host)}:{port} to be free, got {exc.strerror}; give each worker on this "
                "machine a STREAMS_WORKER_SLOT of its own, which is added to the port, or set http_port"
            ) from exc
        raise SettingsError(
            f"http_host={host}: expected an address of this machine that takes port {port}, got {exc.strerror}; "
            "set 127.0.0.1, ::1, or 0.0.0.0 for all of IPv4"
        ) from exc


def url_host(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


# A producer's last flush takes 5 s at most; a supervisor waits for the end before it starts the next worker.
END_S_MAX = 6.0
END_HUNG_S = 2.0  # leaving the group takes this long; a client that hangs is not waited for


class Application(Flow, faust.App):
    """Faust's App with a `Worker` beside it, started before and stopped after the agents."""

    settings: Settings
    worker: Worker
    _ending: threading.Timer | None = None
    _end_at = math.inf
    _watched: Sequence[asyncio.Future[None]] = ()
    _stop_deadline = math.inf

    def batched(self, topic: Topic) -> Any:
        """Return the channel of a topic whose agents take whole fetches; offsets follow confirmed outputs."""
        return self.topic(topic.name, schema=BatchSchema(), acks=False, partitions=self.settings.partitions)

    def prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        """Build the worker. Takes seconds: call it before the loop runs.

        Raises:
            StreamsError, ModelError: as `assembly.build`.
        """
        # Faust leaves this one open: at 1,000 records/s its debug records, made and dropped, were 9 % of the loop's time.
        logging.getLogger("aiokafka").setLevel(logging.INFO)
        process = WorkerProcess(self.conf.broker_client_id, lambda: self.consumer, self._fail, loop)
        self.worker = Worker(build(self.settings, process), process, self.settings.stall_s_max)

    @property
    def failure(self) -> BaseException | None:
        """The error that ends this process, from the worker or from Faust's services; None without one."""
        return self.worker.failure or self.crash_reason

    async def on_start(self) -> None:
        self._watched = [asyncio.ensure_future(work) for work in (self.worker.deliver(), self.worker.watch())]
        for task in self._watched:
            task.add_done_callback(self._ended)
        await super().on_start()

    def _ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.worker.stop_with(exc)  # without this task no output is confirmed, or no standstill noticed

    def _fail(self, exc: BaseException) -> None:
        logger.error("stopping: %s: %s", type(exc).__name__, exc)
        self._end_soon(END_HUNG_S if isinstance(exc, ClientHangs) else END_S_MAX)
        self._crashing = asyncio.ensure_future(self.crash(exc))

    async def take_over(self, partitions: Sequence[TP]) -> None:
        """Called by the consumer with the batched partitions of a new assignment, before it fetches any."""
        try:
            await self.worker.take_over(partitions)
        except Exception as exc:
            self.worker.stop_with(exc)  # aiokafka only logs a listener's exception, and then fetches
            raise

    def drain_deadline(self) -> float:
        """Return the deadline of a drain, monotonic seconds. A stop begins several drains, which share the time of one."""
        return min(super().drain_deadline(), self._stop_deadline)

    async def drain(self, deadline: float) -> None:
        """Called by the consumer before it commits for the last time under an assignment."""
        await self.worker.drain(deadline)

    async def drained(self, deadline: float) -> None:
        """Called by the consumer after that commit: the next owner restores from what is written here."""
        seconds = deadline - time.monotonic()
        if seconds <= 0.0:
            return  # the next owner replays the input instead
        rows = await self.worker.checkpoint(seconds)
        logger.info("checkpoint at hand-over: %d rows", rows)

    async def on_stop(self) -> None:
        self._stop_deadline = super().drain_deadline()
        self._end_soon(self.settings.drain_s_max + END_S_MAX)  # a commit without an answer would never end
        await super().on_stop()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        self.worker.ready = False
        for task in self._watched:
            task.cancel()
        self._end_soon()
        await asyncio.get_running_loop().run_in_executor(None, self.worker.close)
        self._stay()

    def _end_soon(self, seconds: float = END_S_MAX) -> None:
        """End the process after `seconds`, or earlier, unless it has ended: a hanging Kafka client would keep it alive."""
        end_at = time.monotonic() + seconds
        if self._ending is not None and self._end_at <= end_at:
            return
        self._stay()
        self._ending, self._end_at = threading.Timer(seconds, self._end_now, [seconds]), end_at
        self._ending.daemon = True
        self._ending.start()

    def _stay(self) -> None:
        if self._ending is not None:
            self._ending.cancel()

    def _end_now(self, seconds: float) -> None:
        logger.error("not ended within %.0f s: ending without the clients that hang", seconds)
        logging.shutdown()
        if self.failure is not None:
            print(last_line(self.failure), file=sys.stderr, flush=True)
        os._exit(1)  # without clean-up: uncommitted records are decided again


class NoTables(TableManager):
    """Replaces Faust's tables, which this application does not use: upstream waits a second for them at every start."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


def create_app(settings: Settings | None = None) -> Application:
    """Return the application with its agents, timers and pages.

    Args:
        settings: None loads files and environment.

    Raises:
        SettingsError: a setting that cannot work.
    """
    settings = settings or load_settings()
    servers = settings.brokers().split(",")
    try:
        Path(settings.state_dir).mkdir(
            parents=True, exist_ok=True
        )  # Faust makes its own folder in it, but not this one
    except OSError as exc:
        raise SettingsError(
            f"state_dir={settings.state_dir}: expected a folder, got {exc.strerror}; name another"
        ) from exc
    app = Application(
        settings.application_id,
        Worker=CommandLine,
        TableManager=NoTables,
        broker=";".join(f"streams://{server.strip()}" for server in servers),
        broker_credentials=credentials(settings),
        broker_client_id=member_name(settings),
        broker_commit_interval=settings.commit_interval_s,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 10.0,
        broker_rebalance_timeout=max(20.0, 2 * settings.session_timeout_s),
        consumer_group_instance_id=settings.group_instance_id,
        consumer_auto_offset_reset="earliest",
        processing_guarantee="at_least_once",
        stream_recovery_delay=0.0,
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication_factor,
        topic_disable_leader=True,
        store="memory://",
        # A static member that returns is given its old assignment, which carries this URL: it must not change with a port.
        canonical_url=None if settings.worker_slot is None else f"http://{settings.group_instance_id}",
        web_host=url_host(settings.http_host),
        web_bind=settings.http_host,
        web_port=settings.http_port + (settings.worker_slot or 0),
        web_application_options={"middlewares": [guarded_by(settings.http_token)]},
        # Faust's own pages tell of topics, partitions and hosts, also where `faust --debug` would turn them on.
        web_router_enabled=False,
        web_tables_enabled=False,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_metrics_enabled=False,
        datadir=Path(settings.state_dir) / f"{settings.application_id}-data",
    )
    app.settings = settings
    declare_agents(app)
    declare_checkpoints(app)
    declare_pages(app, lambda: app.worker)
    return app


def member_name(settings: Settings) -> str:
    """Return the worker's name in the group: from its slot, or without one unique to this process."""
    return settings.group_instance_id or f"{settings.application_id}-{uuid.uuid4().hex}"


def credentials(settings: Settings) -> Any:
    """Return Faust's credentials for the security settings; None for a plain connection.

    Raises:
        SettingsError: a file cannot be read or is not what its setting says.
    """
    context = tls_context(settings) if settings.security_protocol.endswith("SSL") else None
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password,
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context else None


def declare_agents(app: Application) -> None:
    """Declare an agent for each input topic: it hands whole fetches to the pipeline of its name."""

    def declare(name: str, topic: Topic) -> None:
        @app.agent(app.batched(topic), name=name)
        async def take_fetches(stream):  # type: ignore[no-untyped-def]
            async for fetch in stream.noack():
                app.worker.pipelines[name].submit(fetch)

    topics = app.settings.topics
    declare(FraudJob.name, topics.transactions)
    declare(RecommendationJob.name, topics.clickstream)
    declare(LabelJob.name, topics.labels)


def declare_checkpoints(app: Application) -> None:
    """Write the state every `checkpoint_interval_s`, and follow the assignment."""

    @app.timer(interval=app.settings.checkpoint_interval_s, name="checkpoint")
    async def checkpoint() -> None:
        await app.worker.checkpoint(app.settings.checkpoint_interval_s)

    @app.on_partitions_assigned.connect
    async def assigned(sender: Any, assigned: set[TP], **kwargs: Any) -> None:
        app.worker.keep(assigned)
        app.worker.ready = True

    @app.on_partitions_revoked.connect
    async def revoked(sender: Any, revoked: set[TP], **kwargs: Any) -> None:
        app.worker.ready = False
