"""Worker: what one process owns beside Faust: models, state, the device, producers. Built before the first fetch."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from faust.types import TP

from models.features import payments, sessions
from models.features.cards import CardHistory
from models.features.clicks import ClickHistory
from models.runner import FraudRunner, RecommenderRunner
from streams.agents.fraud import CardReplay, FraudJob
from streams.agents.labels import LabelJob, LabelReplay
from streams.agents.recommendations import RecommendationJob, SessionReplay
from streams.checkpointer import Checkpointer
from streams.codecs import Limits, decode_transactions
from streams.errors import KafkaUnavailable
from streams.label_log import LabelLog
from streams.metrics import Metrics
from streams.policy import Thresholds
from streams.publishing import Publisher
from streams.scoring import Device, Job, Pipeline
from streams.settings import Settings
from streams.state import StateTable
from streams.topics import CLICKSTREAM, LABELS, TRANSACTIONS, Topic, state_topic
from streams.transport.consumer import Consumer
from streams.transport.producer import OutputProducer
from streams.transport.reader import LogReader
from streams.transport.record_batch import RecordBatch
from streams.transport.transactions import GroupMember, StateWriter

logger = logging.getLogger(__name__)

# The interpreter lets a thread keep the lock for 5 ms by default: the loop would wait that long behind the device thread.
SWITCH_INTERVAL_S = 0.0002
# Decisions do not wait for their delivery reports; commits and the bound on records in flight do.
DELIVERY_POLL_S = 0.005


class Worker:
    """Everything of one process that decides.

    Args:
        settings: checked settings.
        consumer: returns Faust's consumer, once it exists.
        fail: called on the loop with the error that must stop the process.
    """

    def __init__(
        self, settings: Settings, consumer: Callable[[], Consumer], fail: Callable[[BaseException], None]
    ) -> None:
        self.settings, self.metrics, self._consumer, self._fail = settings, Metrics(), consumer, fail
        self._loop = asyncio.get_running_loop()
        set_torch_threads(settings.torch_threads)
        self._closing = ExitStack()
        self.pipelines: list[Pipeline] = []
        self.failure: BaseException | None = None
        self.ready = False

    def start(self) -> None:
        """Load and warm up models, connect, read the labels. Takes seconds; not for the loop's thread.

        Raises:
            ModelError: an artifact is missing, damaged or does not fit; a device that is not there.
            KafkaUnavailable: no answer, or topics missing.
        """
        settings = self.settings
        began = time.monotonic()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        fraud = FraudRunner.load(settings.fraud_artifact, settings.device, settings.dtype)
        recommender = RecommenderRunner.load(settings.recommender_artifact, settings.device, settings.dtype)
        fraud.warm_up()
        recommender.warm_up()
        warm_up_kernels()
        config = settings.librdkafka()
        self._producer = OutputProducer(config)
        self._closing.callback(self._close_producer)
        publisher = Publisher(self._producer)
        limits = Limits(settings.record_bytes_max, settings.event_time_ahead_s_max * 1000)
        self._state_reader, ends_reader, label_reader = (LogReader(config, settings.application_id) for _ in range(3))
        for reader in (self._state_reader, ends_reader):
            self._closing.callback(reader.close)
        self._cards = self._table("card-state", TRANSACTIONS, "cards/1", CardHistory, CardReplay(limits))
        self._sessions = self._table(
            "session-state",
            CLICKSTREAM,
            f"sessions/2/{recommender.version}",
            partial(ClickHistory, recommender.items, recommender.length),
            SessionReplay(recommender, limits),
        )
        self._label_log = LabelLog(LABELS.name, LabelReplay(limits), label_reader, ends_reader, self._failed_elsewhere)
        self._label_log.start()
        self._closing.callback(self._label_log.close)
        self.device = Device(partial(set_torch_threads, settings.torch_threads))
        self._closing.callback(self.device.close)
        self.fraud = self._pipeline(
            FraudJob(
                fraud,
                self._cards,
                self._label_log,
                self._thresholds(fraud),
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
                limits,
                publisher,
                self.metrics,
            ),
            publisher,
        )
        self.labels = self._pipeline(LabelJob(limits, publisher, self.metrics), publisher)
        self._checkpointer = Checkpointer(
            {"cards": self._cards, "sessions": self._sessions},
            self.device,
            StateWriter(config, f"{settings.application_id}-state-{self._slot()}"),
            lambda tp: self._consumer().committed(tp),
            self._member,
            self.metrics,
        )
        gc.collect()
        gc.freeze()  # models and code live as long as the process: collections need not look at them
        logger.info(
            "models %s %.12s and %s %.12s on %s, ready to fetch after %.1f s",
            fraud.name, fraud.version, recommender.name, recommender.version, fraud.device, time.monotonic() - began,
        )  # fmt: skip

    def _slot(self) -> str:
        # Without a slot two workers must not share an id, or each would fence the other.
        return f"{time.time_ns():x}" if self.settings.worker_slot is None else str(self.settings.worker_slot)

    def _thresholds(self, runner: FraudRunner) -> Thresholds:
        review, decline = self.settings.review_threshold, self.settings.decline_threshold
        if review is None or decline is None:
            return Thresholds(runner.thresholds["review"], runner.thresholds["decline"])
        return Thresholds(review, decline)

    def _table(self, name: str, source: Topic, layout: str, new: Callable[[], Any], replay: Any) -> StateTable[Any]:
        count = len(self._state_reader.partitions(source.name))
        if count == 0:
            raise KafkaUnavailable(f"topic {source.name} is missing; run `streams topics create`")
        topic = state_topic(self.settings.application_id, name, count)
        if len(self._state_reader.partitions(topic.name)) != count:
            self._create(topic)
        return StateTable(topic.name, source.name, layout, new, replay, self._state_reader)

    def _create(self, topic: Topic) -> None:
        admin = AdminClient(self.settings.librdkafka())
        count = topic.partition_count(self.settings.partitions)
        new = NewTopic(topic.name, count, self.settings.replication_factor, config=topic.config)
        try:
            admin.create_topics([new])[topic.name].result(30)
        except KafkaException as exc:
            found = len(self._state_reader.partitions(topic.name))
            if found != count:  # another worker may have made it meanwhile
                raise KafkaUnavailable(
                    f"{topic.name}: expected {count} partitions, as the input has, found {found}: {exc.args[0].str()}; "
                    "delete it to have it rebuilt from the input, or choose another application_id"
                ) from exc

    def _pipeline(self, job: Job, publisher: Publisher) -> Pipeline:
        confirm: Callable[[RecordBatch], None] = lambda batch: self._consumer().confirm(batch)  # noqa: E731
        pipeline = Pipeline(job, self.device, publisher, self.settings, self.metrics, confirm, self.stop_with)
        self.pipelines.append(pipeline)
        return pipeline

    def _member(self) -> GroupMember:
        consumer = self._consumer()
        coordinator = consumer._thread._ensure_consumer()._coordinator
        instance = consumer.app.conf.consumer_group_instance_id
        return GroupMember(self.settings.application_id, coordinator.generation, coordinator.member_id, instance)

    def _failed_elsewhere(self, exc: Exception) -> None:
        self._loop.call_soon_threadsafe(self.stop_with, exc)

    def stop_with(self, exc: BaseException) -> None:
        """Remember the error and stop the process; what is not committed is read again by whoever comes next."""
        if self.failure is None:
            self.failure = exc
            self._fail(exc)

    async def drain(self, deadline: float) -> None:
        """Let what has begun finish until `deadline`, monotonic; abandon the rest."""
        for pipeline in self.pipelines:
            if not await pipeline.drain(deadline):
                logger.warning("drain: outputs are still unconfirmed; their input will be read again")

    async def checkpoint(self, seconds_max: float) -> int:
        """Write the changed state; return the number of rows."""
        if self.failure is not None:
            return 0
        return await self._checkpointer.write(seconds_max)

    async def keep(self, assigned: set[TP]) -> None:
        """Forget the state of partitions that are not ours any more."""

        def keep() -> None:
            for table in (self._cards, self._sessions):
                table.keep({tp.partition for tp in assigned if tp.topic == table.source})

        await self.device.call(keep)

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
        for name, table in (("cards", self._cards), ("sessions", self._sessions)):
            self.metrics.restored.labels(name).set(table.restored_records)
        self.metrics.label_wait.set(self._label_log.wait_s)
        return self.metrics.text()

    async def poll_deliveries(self) -> None:
        """Handle delivery reports until cancelled."""
        while True:
            self._producer.poll()
            await asyncio.sleep(DELIVERY_POLL_S)

    def close(self) -> None:
        """Stop threads and clients, the last made first. Not for the loop's thread."""
        self._closing.close()

    def _close_producer(self) -> None:
        left = self._producer.close(1.0 if self.failure else 5.0)
        if left:
            logger.warning("%d outputs were not confirmed; their input will be read again", left)


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
    decode_transactions([b"{}"], now_ms=0, limits=Limits())
