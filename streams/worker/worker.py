"""Worker: what one process owns beside Faust: models, state, the device, producers. Built before the first fetch."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from faust.types import TP

from models.features import payments, seen, sessions
from models.fraud.runner import FraudRunner
from models.recommender.runner import RecommenderRunner
from streams.agents.fraud import CardReplay, CardState, FraudJob
from streams.agents.labels import LabelJob, LabelReplay
from streams.agents.recommendations import RecommendationJob, SessionReplay, SessionState
from streams.clients.credentials import aiokafka_security
from streams.clients.log_reader import LogReader
from streams.contract.columns import Limits
from streams.contract.decoding import decode_transactions
from streams.contract.topics import CLICKSTREAM, INPUTS, LABELS, MISSING, OUTPUTS, TRANSACTIONS, Topic, state_topic
from streams.engine.device import Device
from streams.engine.failover import Failover
from streams.engine.metrics import Metrics
from streams.engine.pipeline import Job, Pipeline
from streams.engine.publishing import Publisher
from streams.errors import ClientHangs, KafkaUnavailable, NotAllowed, Standstill, TopicChanged
from streams.policy.rules import Rules
from streams.policy.thresholds import Thresholds
from streams.settings import Settings
from streams.state.checkpointer import Checkpointer
from streams.state.label_log import LabelLog
from streams.state.mirror import READ_RECORDS_MAX, Mirror
from streams.state.table import StateTable
from streams.state.writer import StateWriter
from streams.transport.consumer import Consumer
from streams.transport.outputs.producer import OutputProducer
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.ownership.coordinator import TransactionCoordinator
from streams.transport.ownership.group_member import GroupMember
from streams.transport.ownership.leftovers import Leftovers
from streams.transport.ownership.ownership import Ownership
from streams.transport.record_batch import RecordBatch
from streams.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

# The interpreter lets a thread keep the lock for 5 ms by default: the loop would wait that long behind the device thread.
SWITCH_INTERVAL_S = 0.0002
CARD_STATE, SESSION_STATE = "card-state", "session-state"
WATCH_S = 2.0
LABEL_WAIT_MS = 100  # ten empty fetches a second while no label comes
MIRROR_PATIENCE_S = 5.0  # its next round asks again
STANDSTILL_S = (
    10.0  # longer than a broker's restart of a second or two, shorter than anybody's patience: /ready says so
)


class Worker:
    """Everything of one process that decides.

    Args:
        settings: checked settings.
        name: client id in the group and transactional id; no other live process has it.
        consumer: returns Faust's consumer, once it exists.
        fail: called on the loop with the error that must stop the process.
        loop: the process's; it need not run yet.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        consumer: Callable[[], Consumer],
        fail: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.settings, self.metrics, self._consumer, self._fail = settings, Metrics(), consumer, fail
        self._name = name
        self.member: GroupMember | None = None  # who we are in the group; None before the first assignment
        self.standstill: str | None = None
        degrade = settings.model_failure == "degrade"
        self._failovers = {job.name: Failover(job.name, degrade) for job in (FraudJob, RecommendationJob)}
        self._loop = loop
        set_torch_threads(settings.torch_threads)
        self._closing = ExitStack()
        self.pipelines: list[Pipeline[Any]] = []
        self._input_partitions: dict[str, int] = {}
        self._state_topics: dict[str, str] = {}
        self.failure: BaseException | None = None
        self.ready = False

    def start(self) -> None:
        """Load and warm up models, connect, read the labels. Takes seconds; not while the loop runs.

        Raises:
            ModelError: an artifact is missing, damaged or does not fit; a device that is not there.
            KafkaUnavailable: no answer, or topics missing.
        """
        settings = self.settings
        began = time.monotonic()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        config = settings.librdkafka()
        self._ownership = Ownership(
            config, settings.application_id, self._name, self._state_topics, self._leftovers(config)
        )
        if settings.worker_slot is not None:
            self._ownership.fence(self._name)  # whoever had this slot before us may have died in a transaction
        fraud = FraudRunner.load(settings.fraud_artifact, settings.device, settings.dtype)
        recommender = RecommenderRunner.load(settings.recommender_artifact, settings.device, settings.dtype)
        fraud.warm_up()
        recommender.warm_up()
        warm_up_kernels()
        self._producer = self._outputs(config)
        self._closing.callback(self._close_producer)
        publisher = Publisher(self._producer)
        horizon = int(settings.duplicates_horizon_h * 3_600_000)
        limits = Limits(settings.record_bytes_max, settings.event_time_ahead_s_max * 1000)
        self._state_reader, ends_reader = (LogReader(config, settings.application_id) for _ in range(2))
        label_reader = LogReader(config, settings.application_id, fetch_wait_ms_max=LABEL_WAIT_MS)
        self._ends_reader = LogReader(config, settings.application_id, patience_s=0.0)
        for reader in (self._state_reader, self._ends_reader, ends_reader):
            self._closing.callback(reader.close)
        self._mirror = Mirror(
            Path(settings.state_dir) / f"{settings.application_id}-data" / "checkpoints",
            LogReader(config, settings.application_id, patience_s=MIRROR_PATIENCE_S, records_max=READ_RECORDS_MAX),
            settings.checkpoint_interval_s,
            self.metrics.checkpoint_file_failures.inc,
        )
        self._cards = self._table(CARD_STATE, TRANSACTIONS, "cards/2", partial(CardState, horizon), CardReplay(limits))
        self._sessions = self._table(
            SESSION_STATE,
            CLICKSTREAM,
            "sessions/4",
            partial(SessionState, sessions.LENGTH, horizon),
            SessionReplay(limits),
        )
        self._tables: dict[str, StateTable[Any]] = {"cards": self._cards, "sessions": self._sessions}
        self._input_partitions[LABELS.name] = len(label_reader.partitions(LABELS.name))
        self._label_log = LabelLog(LABELS.name, LabelReplay(limits), label_reader, ends_reader, self._failed_elsewhere)
        self._closing.callback(self._label_log.close)
        self._label_log.start()
        self.device = Device(partial(set_torch_threads, settings.torch_threads))
        self._closing.callback(self.device.close)
        self._closing.callback(self._state_reader.interrupt)  # a restore may take minutes, a stop may not
        self.fraud = self._pipeline(
            FraudJob(
                fraud,
                self._cards,
                self._label_log,
                self._thresholds(fraud),
                Rules(
                    settings.rule_card_count_10min,
                    settings.rule_amount_over_typical,
                    settings.rule_terminal_frauds,
                    settings.rule_night_amount,
                ),
                self._failovers[FraudJob.name],
                settings.reasons_max,
                limits,
                publisher,
                self.metrics,
            ),
            publisher,
        )
        self.recommendations = self._pipeline(
            RecommendationJob(
                recommender,
                self._sessions,
                settings.top_k,
                settings.seen_items == "keep",
                settings.new_items == "recommend",
                self._failovers[RecommendationJob.name],
                limits,
                publisher,
                self.metrics,
            ),
            publisher,
        )
        self.labels = self._pipeline(LabelJob(limits, publisher, self.metrics), publisher)
        self._checkpointer = Checkpointer(
            self._tables,
            self.device,
            StateWriter(config, self._name),
            lambda tp: self._consumer().committed(tp),
            self._committing_member,
            self.metrics,
        )
        self._closing.callback(self._mirror.close)  # behind the last checkpoint
        self._closing.callback(self._checkpointer.close)
        self._follow(set())
        self._mirror.start()
        gc.collect()
        gc.freeze()  # models and code live as long as the process: collections need not look at them
        logger.info(
            "models %s %.12s and %s %.12s on %s, ready to fetch after %.1f s",
            fraud.name, fraud.version, recommender.name, recommender.version, fraud.device, time.monotonic() - began,
        )  # fmt: skip

    @property
    def degraded(self) -> list[str]:
        """Names of the jobs whose model failed when it was last asked, and that go on without it."""
        return [name for name, failover in self._failovers.items() if failover.is_degraded]

    def _outputs(self, config: dict[str, str]) -> OutputProducer | TransactionalProducer:
        if self.settings.guarantee == "at_least_once":
            return OutputProducer(config)
        return TransactionalProducer(
            config,
            self._name,
            self._ownership,
            self.settings.commit_interval_s,
            lambda offsets, metadata: self._consumer().claim(offsets, metadata),
            lambda offsets: self._consumer().committed_by_transaction(offsets),
            self.stop_with,
            self._loop,
        )

    async def take_over(self, partitions: Sequence[TP]) -> None:
        """Begin an assignment, before the first fetch under it.

        Raises:
            StreamsError: the partitions cannot be taken over.
        """
        self.member = self._consumer().member()
        if isinstance(self._producer, TransactionalProducer):
            await self._producer.take_over(partitions, self.member)
        else:
            places = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
            await self._loop.run_in_executor(None, self._ownership.take, places)

    def _committing_member(self) -> GroupMember | None:
        return self._producer.member if isinstance(self._producer, TransactionalProducer) else self.member

    def _thresholds(self, runner: FraudRunner) -> Thresholds:
        review, decline = self.settings.review_threshold, self.settings.decline_threshold
        if review is None or decline is None:
            return Thresholds(runner.thresholds["review"], runner.thresholds["decline"])
        return Thresholds(review, decline)

    def _leftovers(self, config: Mapping[str, str]) -> Leftovers:
        group = self.settings.application_id
        states = [state_topic(group, name, 1).name for name in (CARD_STATE, SESSION_STATE)]
        outputs, inputs = [topic.name for topic in OUTPUTS], [topic.name for topic in INPUTS]
        coordinator = TransactionCoordinator(self.settings.brokers(), aiokafka_security(self.settings))
        return Leftovers(config, group, [*outputs, *states], [*inputs, *states], coordinator)

    def _table(self, name: str, source: Topic, layout: str, new: Callable[[], Any], replay: Any) -> StateTable[Any]:
        count = len(self._state_reader.partitions(source.name))
        if count == 0:
            raise KafkaUnavailable(f"topic {source.name} {MISSING}")
        topic = state_topic(self.settings.application_id, name, count)
        if len(self._state_reader.partitions(topic.name)) != count:
            self._create(topic, count)
        self._input_partitions[source.name] = count
        self._state_topics[source.name] = topic.name
        files = self.settings.checkpoint_files != "none"
        at_hand = [self._mirror.add(topic.name)] if files else []
        return StateTable(topic.name, source.name, layout, new, replay, self._state_reader, *at_hand)

    def _create(self, topic: Topic, count: int) -> None:
        """Make the topic, or give it the partitions that the input has been given since."""
        admin = AdminClient(self.settings.librdkafka())
        try:
            if self._state_reader.partitions(topic.name):
                admin.create_partitions([NewPartitions(topic.name, count)])[topic.name].result(30)
            else:
                new = NewTopic(topic.name, count, self.settings.replication_factor, config=topic.config)
                admin.create_topics([new])[topic.name].result(30)
        except (KafkaException, TimeoutError) as exc:
            found = len(self._state_reader.partitions(topic.name))
            if found != count:  # another worker may have made it meanwhile
                cause = exc.args[0].str() if isinstance(exc, KafkaException) else "no answer"
                raise KafkaUnavailable(
                    f"{topic.name}: expected {count} partitions, as the input has, found {found}: {cause}; "
                    "create it with as many, or allow this user to; or delete it to have it rebuilt from the input"
                ) from exc

    def _pipeline(self, job: Job[Any], publisher: Publisher) -> Pipeline[Any]:
        pipeline = Pipeline(
            job, self.device, publisher, self.settings, self.metrics, self._is_current, self._confirm, self.stop_with
        )
        self.pipelines.append(pipeline)
        return pipeline

    def _is_current(self, batch: RecordBatch) -> bool:
        return self._consumer().is_current(batch)

    def _confirm(self, batch: RecordBatch) -> None:
        self._consumer().confirm(batch)

    def _failed_elsewhere(self, exc: Exception) -> None:
        self._loop.call_soon_threadsafe(self.stop_with, exc)

    def stop_with(self, exc: BaseException) -> None:
        """Remember the error and stop the process; what is not committed is read again by whoever comes next."""
        if self.failure is None:
            self.failure = exc
            self._fail(exc)

    async def drain(self, deadline: float) -> None:
        """Let what has begun finish until `deadline`, monotonic; abandon the rest, and all of it after a failure."""
        for pipeline in self.pipelines:
            pipeline.abandon()
        if self.failure is not None:
            return
        for pipeline in self.pipelines:
            if not await pipeline.drain(deadline):
                logger.warning("drain: outputs are still unconfirmed; their input will be read again")

    async def checkpoint(self, seconds_max: float) -> int:
        """Write the changed state; return the number of rows."""
        if self.failure is not None:
            return 0
        try:
            return await self._checkpointer.write(seconds_max)
        except (ClientHangs, NotAllowed) as exc:
            self.stop_with(exc)
            return 0

    def keep(self, assigned: set[TP]) -> None:
        """Forget the state of partitions that are not ours any more, once the device comes to it."""

        self._follow(assigned)

        def keep() -> None:
            for table in self._tables.values():
                table.keep({tp.partition for tp in assigned if tp.topic == table.source})

        self.device.submit(keep)

    def _follow(self, assigned: set[TP]) -> None:
        """Keep files of the checkpoints of our partitions, or of all: then we stand by for every other worker."""
        keep = self.settings.checkpoint_files
        self._mirror.follow(
            (table.topic, number)
            for table in self._tables.values()
            for number in range(self._input_partitions[table.source])
            if keep == "all" or (keep == "own" and TP(table.source, number) in assigned)
        )

    @property
    def hindrance(self) -> str | None:
        """Why this worker is not ready, whatever its partitions are; None where nothing hinders it."""
        return str(self.failure) if self.failure is not None else self.standstill or self._mirror.failure

    async def watch(self) -> None:
        """Look for partitions that stand still, until cancelled; one that does for `stall_s_max` stops the worker.

        What aiokafka or a broker has quietly stopped to bring shows in the log's end alone, so that is asked of the broker.
        """
        watchdog: Watchdog[TP] = Watchdog()
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._loop.run_in_executor(None, self._check_partitions)
                behind = await self._behind()
            except KafkaUnavailable as exc:
                self.standstill = str(exc)  # clients reconnect by themselves; meanwhile nothing is decided
                continue
            still = watchdog.observe(time.monotonic(), behind)
            tp, seconds = max(still.items(), key=lambda pair: pair[1], default=(None, 0.0))
            what = f"{tp and tp.topic}[{tp and tp.partition}]: no progress for {seconds:.0f} s, though records wait"
            self.standstill = what if seconds > STANDSTILL_S else None
            if seconds > self.settings.stall_s_max:
                self.stop_with(Standstill(f"{what}; the worker stops to begin anew"))

    def _check_partitions(self) -> None:
        found = self._producer.partition_counts(list(self._input_partitions))
        for topic, count in self._input_partitions.items():
            if found.get(topic, 0) > count:
                raise TopicChanged(
                    f"{topic}: expected {count} partitions, as at the start, found {found[topic]}; "
                    "the worker stops to begin anew with all of them"
                )

    async def _behind(self) -> dict[TP, tuple[int, int]]:
        positions = self._consumer().committed_positions()
        restored = sum(table.restored_records for table in self._tables.values())
        topics = sorted({tp.topic for tp in positions})
        behind = {}
        for topic in topics:
            numbers = sorted(tp.partition for tp in positions if tp.topic == topic)
            ends = await self._loop.run_in_executor(None, self._ends_reader.ends, topic, numbers)
            short = [number for number in numbers if positions[TP(topic, number)] < ends[number]]
            if not short:
                continue
            # What has expired is not waited for: a quiet partition may hold nothing at all above the committed offset.
            begins = await self._loop.run_in_executor(None, self._ends_reader.begins, topic, short)
            for number in short:
                if begins[number] < ends[number]:
                    behind[TP(topic, number)] = (positions[TP(topic, number)], restored)
        return behind

    def observe(self) -> bytes:
        """Return the metrics, the sampled ones brought up to date."""
        consumer = self._consumer()
        self.metrics.lag.clear()  # a partition that went to another worker must not be counted here too
        for tp in consumer.assignment():
            committed, end = consumer.committed(tp), consumer.highwater(tp)
            if committed is not None and end is not None:
                self.metrics.lag.labels(tp.topic, tp.partition).set(max(0, end - committed))
        for topic, count in consumer.records_in_flight.items():
            self.metrics.in_flight.labels(topic).set(count)
        for name, table in self._tables.items():
            self.metrics.restored.labels(name).set(table.restored_records)
        self.metrics.label_wait.set(self._label_log.wait_s)
        return self.metrics.text()

    async def deliver(self) -> None:
        """Bring outputs to their confirmation, until cancelled."""
        await self._producer.run()

    def close(self) -> None:
        """Stop threads and clients, the last made first. Not for the loop's thread."""
        self._closing.close()

    def _close_producer(self) -> None:
        left = self._producer.close(1.0 if self.failure else 5.0)
        if left:
            logger.warning("outputs were not confirmed (%d); their input will be read again", left)


def set_torch_threads(count: int) -> None:
    """Bound torch's threads for work done by the calling thread: OpenMP keeps the number a thread, not a process.

    A thread left at the default wakes a second core for each small layer, which then spins between them: measured at
    1,000 records/s, a third of the loop's time and most of another core.
    """
    torch.set_num_threads(count)


def warm_up_kernels() -> None:
    """Compile what decodes and builds features, or load it from the cache, before the first record waits for it."""
    payments.warm_up()
    sessions.warm_up()
    seen.warm_up()
    decode_transactions([b"{}"], now_ms=0, limits=Limits())
