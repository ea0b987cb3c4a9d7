"""Application: one simulated process with the real worker in it, and a group membership in the place of aiokafka's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from faust.utils.tracing import noop_span

from streams.clients.log_reader import LogReader
from streams.contract.topics import Topic
from streams.engine.answered import Answered
from streams.engine.device import Device
from streams.engine.metrics import Metrics
from streams.engine.pipeline import Pipeline
from streams.errors import StreamsError
from streams.state.checkpointer import Checkpointer
from streams.state.table import StateTable
from streams.state.writer import StateWriter
from streams.transport.consumer import Consumer, NoReadOffset
from streams.transport.flow import Flow
from streams.transport.outputs.producer import Outputs
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.ownership.leftovers import Leftovers
from streams.transport.ownership.ownership import Ownership
from streams.transport.record_batch import Fetch, RecordBatch, RecordSpan
from streams.worker.assembly import Parts, close_producer, outputs_producer
from streams.worker.process import WorkerProcess
from streams.worker.worker import Worker
from tests.simulation.broker import Broker, Connection, Entry, Place, Refused
from tests.simulation.clients import Cluster, cluster
from tests.simulation.coordinator import TransactionCoordinator
from tests.simulation.counting import CountHistory, CountingJob, replay
from tests.simulation.oracle import INPUT, OUTPUT, STATE, Oracle
from tests.simulation.scheduler import Clock, Loop, Process, Scheduler, Thread

GROUP = "group"
HEARTBEAT_S = 0.15
POLL_S = 0.1
CONFIG = {"bootstrap.servers": "simulated:9092"}

metrics = cache(Metrics)


class TopicName(str):
    """A topic whose hash does not change with the process, so that sets of partitions have one order."""

    __slots__ = ()

    def __hash__(self) -> int:
        return sum(self.encode())

    __eq__ = str.__eq__


INPUT_NAME = TopicName(INPUT)


@dataclass(frozen=True)
class Options:
    """The settings of a worker that the simulation varies, by the names of `streams.settings.Settings`."""

    guarantee: str = "exactly_once"
    inline_records_max: int = 256
    batch_records_max: int = 2048
    wait_ms_max: float = 0.0
    fetch_records_max: int = 1000
    fetch_wait_ms_max: int = 2
    queue_records_max: int = 16_384
    queue_bytes_max: int = 67_108_864
    commit_interval_ms: int = 50
    checkpoint_interval_s: float = 0.4
    drain_s_max: float = 1.0
    application_id: str = GROUP

    @property
    def commit_interval_s(self) -> float:
        return self.commit_interval_ms / 1000.0


class Application(Flow):
    """As `streams.worker.application.Application`: what Faust does around the worker.

    Args:
        name: client id in the group, and transactional id.
        instance: group instance id of a static member.
        ended: called once the process has ended by itself.
    """

    client_only = False

    def __init__(
        self,
        name: str,
        instance: str | None,
        options: Options,
        broker: Broker,
        oracle: Oracle,
        ended: Callable[[], None],
    ) -> None:
        self.name, self.instance, self.broker, self.oracle = name, instance, broker, oracle
        self.settings = self.options = options  # type: ignore[assignment]
        self.process = Process(name)
        self._ended = ended
        self.consumer_generation_id = -1
        self.conf = SimpleNamespace(id=GROUP, consumer_group_instance_id=instance)
        self.monitor = SimpleNamespace(on_tp_commit=lambda offsets: None)
        self.sensors = SimpleNamespace(on_commit_initiated=lambda *_: None, on_commit_completed=lambda *_: None)
        self.tables = SimpleNamespace(on_commit=lambda offsets: None, changelog_topics=())
        self.producer = SimpleNamespace(flush=self._flush)
        self.failure: BaseException | None = None
        Thread(self.process, self._run)

    async def _flush(self) -> None:
        """Ordinary messages of Faust are not simulated."""

    def _start_span_from_rebalancing(self, name: str) -> Any:
        return noop_span()

    def on_rebalance_return(self) -> None:
        """Nothing traces this rebalance."""

    # ---- life

    def _run(self) -> None:
        loop = Loop()
        loop.set_exception_handler(self._unhandled)
        self._stopping = asyncio.Event()
        loop.run_until_complete(self._main(loop))
        self.process.kill()
        self._ended()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if exc is not None and not isinstance(exc, StreamsError) and not Scheduler.current.over:
            self.oracle.violation = self.oracle.violation or AssertionError(
                f"{self.name}: {context['message']}: {exc!r}"
            )  # type: ignore[assignment]

    async def _main(self, loop: Loop) -> None:
        self.consumer: SimulatedConsumer = SimulatedConsumer(self, loop)
        process = WorkerProcess(self.name, lambda: self.consumer, self.stop, loop)
        try:
            parts = await loop.run_in_executor(None, build, self, process)
        except StreamsError as exc:
            self.stop(exc)
            return
        self.worker = Worker(parts, process, stall_s_max=120.0)
        self._queue: asyncio.Queue[Fetch] = asyncio.Queue()
        membership = self.consumer.membership
        works = [
            self._fetch(), self._agent(), self._checkpoints(), self._commits(), self.worker.deliver(),
            membership.heartbeats(), membership.run(),
        ]  # fmt: skip
        tasks = [asyncio.ensure_future(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        await self._stopping.wait()
        self.consumer.stop_flow()
        for task in tasks[:4]:
            task.cancel()
        await self.consumer.wait_empty()
        for task in tasks[4:]:
            task.cancel()
        await membership.leave()
        await loop.run_in_executor(None, self.worker.close)

    def _task_ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.worker.stop_with(exc)

    def stop(self, failure: BaseException | None = None) -> None:
        """Have the process end as it does when it is told to, or when something has failed."""
        self.failure = self.failure or failure
        self._stopping.set()

    def stop_from_outside(self) -> None:
        """The same, by a signal to the process."""
        for loop in self.process.loops:
            loop.call_soon_threadsafe(self.stop)

    # ---- what Faust does

    async def _fetch(self) -> None:
        consumer = self.consumer
        while True:
            if not consumer.flow_active:
                await consumer.can_resume_flow.wait()
            active = consumer._get_active_partitions()
            found = await consumer._getmany(active, POLL_S) if active else await asyncio.sleep(POLL_S)
            generation = self.consumer_generation_id
            for tp, records in (found or {}).items():
                for record in records:
                    if not consumer.flow_active or generation != self.consumer_generation_id:
                        break
                    if tp in active:
                        self._queue.put_nowait(consumer._to_message(tp, record).value)

    async def _agent(self) -> None:
        while True:
            fetch = await self._queue.get()
            self.worker.pipelines[CountingJob.name].submit(fetch)

    async def _checkpoints(self) -> None:
        while True:
            await asyncio.sleep(self.options.checkpoint_interval_s)
            await self.worker.checkpoint(self.options.checkpoint_interval_s)

    async def _commits(self) -> None:
        while True:
            await asyncio.sleep(self.options.commit_interval_ms / 1000.0)
            await self.consumer.commit()

    def _clear_queue(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()

    async def on_revoked(self, revoked: set[TP]) -> None:
        consumer = self.consumer
        assignment = consumer.assignment()
        if assignment:
            consumer.stop_flow()
            consumer.pause_partitions(assignment)
            self._clear_queue()
            await consumer.wait_empty()

    async def on_assigned(self, assigned: set[TP], generation: int) -> None:
        consumer = self.consumer
        await asyncio.sleep(0)
        consumer.pause_partitions(assigned)
        self.worker.keep(assigned)
        await consumer.perform_seek()
        consumer.resume_partitions(assigned)
        self._clear_queue()
        consumer.resume_flow()

    async def take_over(self, partitions: Sequence[TP]) -> None:
        await self.worker.take_over(partitions)

    async def drain(self, deadline: float) -> None:
        await self.worker.drain(deadline)

    async def drained(self, deadline: float) -> None:
        await self.worker.checkpoint(max(0.0, deadline - Scheduler.current.now))


def build(app: Application, process: WorkerProcess) -> Parts:
    """Return the real parts of a worker, with counting in the place of models and no disk for files."""
    with ExitStack() as closing:
        config = {**CONFIG}
        leftovers = Leftovers(config, GROUP, [OUTPUT, STATE], [INPUT_NAME, STATE], TransactionCoordinator("", {}))
        ownership = Ownership(config, GROUP, app.name, {INPUT: STATE}, leftovers)
        if app.instance is not None:
            ownership.fence(app.name)
        settings: Any = app.options
        producer = outputs_producer(settings, config, process, ownership)
        closing.callback(close_producer, producer, process)
        reader = LogReader(config, GROUP)
        closing.callback(reader.close)
        table = StateTable(STATE, INPUT_NAME, "counts/1", CountHistory, replay, reader)
        tables: dict[str, StateTable[Any]] = {"counts": table}
        device = Device(lambda: None)
        closing.callback(device.close)
        closing.callback(reader.interrupt)
        publisher: Any = SimpleNamespace(publish=producer.produce, outputs=as_they_are)
        job = CountingJob(table, Topic(OUTPUT, None, None, {}), app.oracle.check_state, dawdle)
        checkpointer = Checkpointer(
            tables, device, StateWriter(config, app.name), committed=process.committed,
            member=lambda: producer.member if isinstance(producer, TransactionalProducer) else process.member,
            metrics=metrics(),
        )  # fmt: skip
        closing.callback(checkpointer.close)
        return Parts(
            device=device, producer=producer, ownership=ownership, checkpointer=checkpointer, ends_reader=reader,
            pipelines={job.name: Pipeline(job, device, publisher, process, settings, metrics())},
            tables=tables, partitions={}, metrics=metrics(), closing=closing.pop_all(),
        )  # fmt: skip


def as_they_are(batch: RecordBatch, answered: Answered) -> list[Outputs]:
    """Return the answers as outputs whose partition their keys choose."""
    return [Outputs(answered.topic.name, answered.values, answered.keys)] if answered.values else []


def dawdle() -> None:
    """Take a job's time, now and then."""
    if Cluster.happens(cluster().slow_runs):
        Clock.sleep(Scheduler.current.random.uniform(0.3, 2.5))


class SimulatedConsumer(Consumer):
    """The real consumer without Faust's services around it."""

    def __init__(self, app: Application, loop: Loop) -> None:
        self.app = app
        self.loop = loop
        self.diag = SimpleNamespace(set_flag=lambda _: None, unset_flag=lambda _: None)
        self.membership = self._thread = Membership(app, self, loop)
        self._on_partitions_revoked, self._on_partitions_assigned = app.on_revoked, app.on_assigned
        self._read_offset = NoReadOffset(lambda: None)
        self._trackers, self._expected, self._begins, self._deferred = {}, {}, {}, set()
        self._batched = {INPUT: True, INPUT_NAME: True}
        self._gap, self._acked, self._acked_index, self._committed_offset = {}, {}, {}, {}
        self._unacked_messages = set()
        self._active_partitions, self._paused_partitions = set(), set()
        self.records_in_flight = {}
        self._room, self.taken_over = asyncio.Event(), asyncio.Event()
        self.can_resume_flow, self.suspend_flow = asyncio.Event(), asyncio.Event()
        self.flow_active = False
        self._flow, self._bytes_in_flight = app, {}
        self.fetch_records_max = app.options.fetch_records_max
        self.queue_records_max, self.queue_bytes_max = app.options.queue_records_max, app.options.queue_bytes_max
        self.transactional = app.options.guarantee == "exactly_once"

    async def _handle_attached(self, commit_offsets: Mapping[TP, int]) -> None:
        """No ordinary message hangs on an offset."""


class Membership:
    """In place of aiokafka and the service around it: joins the group, fetches, commits."""

    def __init__(self, app: Application, consumer: SimulatedConsumer, loop: Loop) -> None:
        self._app, self._consumer, self._loop = app, consumer, loop
        self._broker = app.broker
        self.member_id, self.generation = "", -1
        self._assigned: set[TP] = set()
        self._positions: dict[TP, int] = {}
        self._rejoin = asyncio.Event()
        self._connection: Connection = deque()

    def _ensure_consumer(self) -> Any:
        """Return what stands for the AIOKafkaConsumer."""
        return SimpleNamespace(_coordinator=self, commit=self._commit_with_metadata)

    def assignment(self) -> set[TP]:
        return self._assigned

    def _answer(self) -> tuple[asyncio.Future[Any], Callable[[Any], None]]:
        future = self._loop.create_future()

        def answered(result: Any) -> None:
            self._app.process.perform(lambda: self._loop.call_soon_threadsafe(answer, result))

        def answer(result: Any) -> None:
            if future.done():
                return
            if isinstance(result, Refused):
                future.set_exception(result)
            else:
                future.set_result(result)

        return future, answered

    async def _ask(self, apply: Callable[[], Any]) -> Any:
        future, answered = self._answer()
        self._broker.request(self._app.process, apply, answered, self._connection)
        return await future

    # ---- group

    async def run(self) -> None:
        """Join, and join again whenever the group says so."""
        scheduler = Scheduler.current
        while True:
            self._rejoin.clear()
            await self._consumer.on_partitions_revoked(set(self._assigned))
            future, answered = self._answer()
            member, name, instance = self.member_id, self._app.name, self._app.instance

            def joined(result: Any, answered: Callable[[Any], None] = answered) -> None:
                scheduler.after(self._broker.one_way_s(), lambda: answered(result))

            self._broker.request(
                self._app.process,
                lambda member=member, name=name, instance=instance, joined=joined: self._broker.join(
                    member, name, instance, joined
                ),  # type: ignore[misc]
                lambda _: None,
                self._connection,
            )
            try:
                self.member_id, self.generation, places = await future
            except Refused:
                self._forget_member()
                continue
            self._rejoin.clear()
            self._assigned = {TP(INPUT_NAME, partition) for _, partition in places}
            self._app.consumer_generation_id = self.generation
            await self._consumer.on_partitions_assigned(set(self._assigned), self.generation)
            await self._rejoin.wait()

    def _forget_member(self) -> None:
        self.member_id, self.generation = "", -1

    async def heartbeats(self) -> None:
        """Tell the group that we live; learn that we have to join again."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if not self.member_id:
                continue
            member, generation = self.member_id, self.generation
            try:
                await self._ask(lambda: self._broker.heartbeat(member, self._app.instance, generation))  # noqa: B023
            except Refused as exc:
                if (member, generation) != (self.member_id, self.generation):
                    continue
                if exc.name == "FENCED_INSTANCE_ID":
                    raise
                if exc.name != "REBALANCE_IN_PROGRESS":
                    self._forget_member()
                self._rejoin.set()

    async def leave(self) -> None:
        member = self.member_id
        if member:
            await self._ask(lambda: self._broker.leave(member))

    # ---- records and offsets

    async def getmany(self, partitions: Iterable[TP], timeout: float) -> dict[TP, list[Any]]:
        """Return record batches by the real cutting of fetches."""
        positions = self._positions
        wanted = {tp: positions[tp] for tp in sorted(partitions) if tp in positions}
        count_max = Scheduler.current.random.choice((2, 5, 1000))
        generation = self._app.consumer_generation_id

        def apply() -> list[tuple[TP, list[tuple[int, Entry]], int]]:
            logs = self._broker.logs
            return [(tp, *logs[(INPUT, tp.partition)].read(first, count_max)) for tp, first in wanted.items()]

        found: dict[TP, list[Any]] = {}
        if wanted:
            for tp, records, position in await self._ask(apply):
                if positions is not self._positions or positions[tp] != wanted[tp]:
                    continue  # another assignment, or sought meanwhile
                span = RecordSpan(tp, wanted[tp], generation, self._consumer.fetch_records_max)
                span.extend(
                    SimpleNamespace(offset=offset, key=each.key, value=each.value, timestamp=each.timestamp, headers=())
                    for offset, each in records
                )
                span.pass_to(position)
                batches = span.close()
                if batches:
                    positions[tp] = position
                    found[tp] = batches
        if not found:
            await asyncio.sleep(timeout / 2)
        return found

    async def seek_to_committed(self) -> dict[TP, int]:
        await self._consumer.taken_over.wait()
        places: list[Place] = sorted((INPUT, tp.partition) for tp in self._assigned)
        answer = await self._ask(lambda: self._broker.fetch_offsets(places, stable=False))
        offsets = {TP(INPUT_NAME, partition): found[0] for (_, partition), found in answer.items()}
        self._consumer.begin_at(offsets)
        self._positions = {tp: max(0, offset) for tp, offset in offsets.items()}
        return offsets

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """As the driver's `commit`, of Faust's offsets."""
        try:
            await self._commit_with_metadata({tp: OffsetAndMetadata(offset, "") for tp, offset in offsets.items()})
        except CommitFailedError:
            return False
        return True

    async def _commit_with_metadata(self, offsets: Mapping[Any, OffsetAndMetadata]) -> None:
        """As AIOKafkaConsumer's `commit`."""
        wanted = {(INPUT, tp.partition): (each.offset, each.metadata) for tp, each in offsets.items()}
        member, generation = self.member_id, self.generation
        try:
            await self._ask(lambda: self._broker.commit_offsets(wanted, generation, member, self._app.instance))
        except Refused as exc:
            raise CommitFailedError(exc.name) from exc
