"""Assembly: builds the parts of a worker, each given what it needs. Their life is in `worker`."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.features import sessions
from models.fraud.runner import FraudRunner
from models.recommender.runner import RecommenderRunner
from streams.agents.fraud import CardReplay, CardState, FraudJob, FraudModel
from streams.agents.labels import LabelJob, LabelReplay
from streams.agents.recommendations import RecommendationJob, SessionReplay, SessionState
from streams.clients.connection import WORKER_ANSWER_S_MAX, admin_client, reading_consumer
from streams.clients.credentials import aiokafka_security
from streams.clients.log_reader import LogReader
from streams.clients.topic_admin import grow_topic, make_topics, new_topic
from streams.contract.columns import Limits
from streams.contract.topics import MISSING, Topic, state_topic
from streams.engine.device import Device
from streams.engine.failover import Failover
from streams.engine.metrics import Metrics
from streams.engine.pipeline import Pipeline
from streams.engine.publishing import Publisher
from streams.engine.slot import ModelSlot
from streams.errors import KafkaUnavailable
from streams.policy.rules import Rules, default_rules
from streams.policy.thresholds import Thresholds
from streams.settings import Settings
from streams.state.checkpointer import Checkpointer
from streams.state.label_log import LabelLog
from streams.state.mirror import READ_RECORDS_MAX, Mirror
from streams.state.table import StateTable
from streams.state.writer import StateWriter
from streams.transport.outputs.producer import OutputProducer
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.ownership.coordinator import TransactionCoordinator
from streams.transport.ownership.leftovers import Leftovers
from streams.transport.ownership.ownership import Ownership
from streams.worker.kernels import warm_up_kernels
from streams.worker.process import WorkerProcess

logger = logging.getLogger(__name__)

# The interpreter lets a thread keep the lock for 5 ms by default: the loop would wait that long behind the device thread.
SWITCH_INTERVAL_S = 0.0002
CARD_STATE, SESSION_STATE = "card-state", "session-state"
LABEL_WAIT_MS = 100  # ten empty fetches a second while no label comes
MIRROR_PATIENCE_S = 5.0  # its next round asks again


@dataclass(slots=True)
class Parts:
    """The parts of a worker.

    Attributes:
        pipelines: by the name of their agent.
        tables: state by the name that its metrics have.
        partitions: how many partitions each input topic has.
        checkpoint_files: partitions whose checkpoints are kept as files: own, all or none.
        closing: closes everything, the last part made first.
    """

    device: Device
    producer: OutputProducer | TransactionalProducer
    ownership: Ownership
    checkpointer: Checkpointer
    ends_reader: LogReader
    pipelines: dict[str, Pipeline[Any]]
    tables: dict[str, StateTable[Any]]
    partitions: dict[str, int]
    metrics: Metrics
    closing: ExitStack
    checkpoint_files: str = "none"
    mirror: Mirror | None = None
    label_log: LabelLog | None = None
    failovers: list[Failover] = field(default_factory=list)


def build(settings: Settings, process: WorkerProcess) -> Parts:
    """Load and warm up models, connect, read the labels. Takes seconds; not while the loop runs.

    Raises:
        ModelError: an artifact is missing, damaged or does not fit; a device that is not there.
        KafkaUnavailable: no answer, or topics missing.
    """
    with ExitStack() as closing:
        parts = Assembly(settings, process, closing).build()
        parts.closing = closing.pop_all()
    return parts


class Assembly:
    """Builds the parts; where one fails, closes those built before it."""

    def __init__(self, settings: Settings, process: WorkerProcess, closing: ExitStack) -> None:
        self._settings, self._process, self._closing = settings, process, closing
        self._config, self._topics = settings.librdkafka(), settings.topics
        self._metrics = Metrics()
        self._limits = Limits(settings.record_bytes_max, settings.event_time_ahead_s_max * 1000)
        self._horizon_ms = int(settings.duplicates_horizon_h * 3_600_000)
        self._partitions: dict[str, int] = {}
        self._state_topics: dict[str, str] = {}

    def build(self) -> Parts:
        """Return all parts."""
        settings, began = self._settings, time.monotonic()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        set_torch_threads(settings.torch_threads)
        ownership = self._ownership()
        if settings.worker_slot is not None:
            ownership.fence(self._process.name)  # the former owner of this slot may have died in a transaction
        fraud, recommender = self._models()
        producer = self._producer(ownership)
        publisher = Publisher(producer, self._topics)
        self._reader = self._log_reader()
        ends_reader = self._log_reader(patience_s=0.0)
        self._mirror = self._checkpoint_files()
        tables = self._tables()
        labels = self._labels()
        device = Device(partial(set_torch_threads, settings.torch_threads))
        self._closing.callback(device.close)
        self._closing.callback(self._reader.interrupt)  # a restore may take minutes, a stop may not
        jobs = self._jobs(fraud, recommender, tables, labels)
        checkpointer = self._checkpointer(tables, device, producer)
        self._closing.callback(self._mirror.close)  # behind the last checkpoint
        self._closing.callback(checkpointer.close)
        gc.collect()
        gc.freeze()  # models and code live as long as the process: collections need not look at them
        logger.info(
            "models %s and %s on %s, ready to fetch after %.1f s",
            *(f"{model.current.name} {model.current.version:.12}" for model in (fraud, recommender)),
            fraud.current.runner.device, time.monotonic() - began,
        )  # fmt: skip
        return Parts(
            device=device,
            producer=producer,
            ownership=ownership,
            checkpointer=checkpointer,
            ends_reader=ends_reader,
            pipelines={
                job.name: Pipeline(job, device, publisher, self._process, settings, self._metrics) for job in jobs
            },
            tables=tables,
            partitions=self._partitions,
            metrics=self._metrics,
            closing=self._closing,
            checkpoint_files=settings.checkpoint_files,
            mirror=self._mirror,
            label_log=labels,
            failovers=[job.failover for job in jobs if not isinstance(job, LabelJob)],
        )

    # ---- clients

    def _log_reader(self, **options: Any) -> LogReader:
        reader = LogReader(self._config, self._settings.application_id, **options)
        self._closing.callback(reader.close)
        return reader

    def _ownership(self) -> Ownership:
        group = self._settings.application_id
        states = [state_topic(group, name, 1).name for name in (CARD_STATE, SESSION_STATE)]
        leftovers = Leftovers(
            self._config,
            group,
            written=[*(topic.name for topic in self._topics.outputs), *states],
            read=[*(topic.name for topic in self._topics.inputs), *states],
            coordinator=TransactionCoordinator(self._settings.brokers(), aiokafka_security(self._settings)),
        )
        return Ownership(self._config, group, self._process.name, self._state_topics, leftovers)

    def _producer(self, ownership: Ownership) -> OutputProducer | TransactionalProducer:
        producer = outputs_producer(self._settings, self._config, self._process, ownership)
        self._closing.callback(close_producer, producer, self._process)
        return producer

    def _checkpointer(
        self, tables: dict[str, StateTable[Any]], device: Device, producer: OutputProducer | TransactionalProducer
    ) -> Checkpointer:
        return Checkpointer(
            tables,
            device,
            StateWriter(self._config, self._process.name),
            committed=self._process.committed,
            member=lambda: producer.member if isinstance(producer, TransactionalProducer) else self._process.member,
            metrics=self._metrics,
        )

    # ---- models

    def _models(self) -> tuple[ModelSlot[FraudModel], ModelSlot[RecommenderRunner]]:
        settings = self._settings
        warm_up_kernels()  # first: what it compiles, one process of a machine compiles for all
        fraud = FraudRunner.load(settings.fraud_artifact, settings.device, settings.dtype)
        recommender = RecommenderRunner.load(settings.recommender_artifact, settings.device, settings.dtype)
        fraud.warm_up()
        recommender.warm_up()
        return ModelSlot(FraudModel(fraud, self._thresholds(fraud))), ModelSlot(recommender)

    def _thresholds(self, runner: FraudRunner) -> Thresholds:
        review, decline = self._settings.review_threshold, self._settings.decline_threshold
        if review is None or decline is None:
            return Thresholds(runner.thresholds["review"], runner.thresholds["decline"])
        return Thresholds(review, decline)

    # ---- state

    def _tables(self) -> dict[str, StateTable[Any]]:
        return {
            "cards": self._table(
                CARD_STATE,
                self._topics.transactions,
                layout="cards/2",
                new_history=partial(CardState, self._horizon_ms),
                replay=CardReplay(self._limits),
            ),
            "sessions": self._table(
                SESSION_STATE,
                self._topics.clickstream,
                layout="sessions/4",
                new_history=partial(SessionState, sessions.LENGTH, self._horizon_ms),
                replay=SessionReplay(self._limits),
            ),
        }

    def _table(self, name: str, source: Topic, **contents: Any) -> StateTable[Any]:
        count = len(self._reader.partitions(source.name))
        if count == 0:
            raise KafkaUnavailable(f"topic {source.name} {MISSING}")
        topic = state_topic(self._settings.application_id, name, count)
        if len(self._reader.partitions(topic.name)) != count:
            self._create(topic, count)
        self._partitions[source.name] = count
        self._state_topics[source.name] = topic.name
        if self._settings.checkpoint_files != "none":
            contents["at_hand"] = self._mirror.add(topic.name)
        return StateTable(topic.name, source.name, reader=self._reader, **contents)

    def _create(self, topic: Topic, count: int) -> None:
        """Create the topic, or add the partitions that its input has gained."""
        admin = admin_client(self._config)
        if self._reader.partitions(topic.name):
            refused = grow_topic(admin, topic.name, count, WORKER_ANSWER_S_MAX)
        else:
            new = new_topic(topic, self._settings)
            with contextlib.closing(reading_consumer(self._config, self._settings.application_id)) as consumer:
                refused = make_topics(admin, consumer, [new], answer_s_max=WORKER_ANSWER_S_MAX).get(topic.name)
        # Another worker may have made the topic in the meantime.
        if refused is not None and (found := len(self._reader.partitions(topic.name))) != count:
            raise KafkaUnavailable(
                f"{topic.name}: expected {count} partitions, as the input has, found {found}: {refused.str()}; "
                "create it with as many, or allow this user to; or delete it to have it rebuilt from the input"
            )

    def _checkpoint_files(self) -> Mirror:
        settings = self._settings
        mirror = Mirror(
            Path(settings.state_dir) / f"{settings.application_id}-data" / "checkpoints",
            LogReader(
                self._config, settings.application_id, patience_s=MIRROR_PATIENCE_S, records_max=READ_RECORDS_MAX
            ),
            settings.checkpoint_interval_s,
            self._metrics.checkpoint_file_failures.inc,
        )
        return mirror

    def _labels(self) -> LabelLog:
        topic = self._topics.labels.name
        reader = LogReader(self._config, self._settings.application_id, fetch_wait_ms_max=LABEL_WAIT_MS)
        self._partitions[topic] = len(reader.partitions(topic))
        labels = LabelLog(
            topic, LabelReplay(self._limits), reader, ends=self._log_reader(), failed=self._process.stop_from_thread
        )
        self._closing.callback(labels.close)
        labels.start()
        return labels

    # ---- jobs

    def _jobs(
        self,
        fraud: ModelSlot[FraudModel],
        recommender: ModelSlot[RecommenderRunner],
        tables: dict[str, StateTable[Any]],
        labels: LabelLog,
    ) -> tuple[FraudJob, RecommendationJob, LabelJob]:
        settings = self._settings
        degrade = settings.model_failure == "degrade"
        shared = {"limits": self._limits, "metrics": self._metrics}
        decide = FraudJob(
            fraud,
            tables["cards"],
            Failover(FraudJob.name, degrade),
            output=self._topics.decisions,
            labels=labels,
            rules=Rules(
                default_rules(
                    card_count_10min=settings.rule_card_count_10min,
                    amount_over_typical=settings.rule_amount_over_typical,
                    terminal_frauds=settings.rule_terminal_frauds,
                    night_amount=settings.rule_night_amount,
                )
            ),
            reasons_max=settings.reasons_max,
            **shared,
        )
        recommend = RecommendationJob(
            recommender,
            tables["sessions"],
            Failover(RecommendationJob.name, degrade),
            output=self._topics.recommendations,
            top_k=settings.top_k,
            keep_seen=settings.seen_items == "keep",
            new_items=settings.new_items == "recommend",
            **shared,
        )
        return decide, recommend, LabelJob(self._topics.labels, self._limits)


def outputs_producer(
    settings: Settings, config: dict[str, str], process: WorkerProcess, ownership: Ownership
) -> OutputProducer | TransactionalProducer:
    """Return the producer of the guarantee that the settings ask for."""
    if settings.guarantee == "at_least_once":
        return OutputProducer(config)
    return TransactionalProducer(
        config,
        process.name,
        ownership,
        commit_interval_s=settings.commit_interval_s,
        claim=process.claim,
        committed=process.committed_by_transaction,
        fail=process.stop_with,
        loop=process.loop,
    )


def close_producer(producer: OutputProducer | TransactionalProducer, process: WorkerProcess) -> None:
    """Flush and close; log the number of unconfirmed outputs. Not for the loop's thread."""
    left = producer.close(1.0 if process.failure else 5.0)
    if left:
        logger.warning("outputs were not confirmed (%d); their input will be read again", left)


def set_torch_threads(count: int) -> None:
    """Bound torch's threads for work done by the calling thread: OpenMP keeps the number a thread, not a process.

    A thread left at the default wakes a second core for each small layer, which then spins between them: measured at
    1,000 records/s, a third of the loop's time and most of another core.
    """
    torch.set_num_threads(count)
