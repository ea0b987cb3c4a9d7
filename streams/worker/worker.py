"""Worker: the life of its parts, from the first assignment to the last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from confluent_kafka import TopicPartition
from faust.types import TP

from streams.errors import ClientHangs, NotAllowed
from streams.transport.outputs.transactions import TransactionalProducer
from streams.worker.assembly import Parts
from streams.worker.process import WorkerProcess
from streams.worker.standstill import StandstillWatch

logger = logging.getLogger(__name__)


class Worker:
    """The life of the parts of one process.

    Args:
        parts: as `assembly.build` makes them.
        process: the one that they were built for.
        stall_s_max: how long a partition may stand still before the worker stops.
    """

    def __init__(self, parts: Parts, process: WorkerProcess, stall_s_max: float) -> None:
        self.parts, self.process = parts, process
        self.pipelines = parts.pipelines
        self._standstill = StandstillWatch(parts, process, stall_s_max)
        self.ready = False
        self._follow(set())
        if parts.mirror is not None:
            parts.mirror.start()

    @property
    def degraded(self) -> list[str]:
        """Names of the jobs whose model failed when it was last asked, and that go on without it."""
        return [failover.name for failover in self.parts.failovers if failover.is_degraded]

    @property
    def failure(self) -> BaseException | None:
        """The error that stops this worker; None without one."""
        return self.process.failure

    def stop_with(self, exc: BaseException) -> None:
        """Remember the error and stop the process."""
        self.process.stop_with(exc)

    async def take_over(self, partitions: Sequence[TP]) -> None:
        """Begin an assignment, before the first fetch under it.

        Raises:
            StreamsError: the partitions cannot be taken over.
        """
        self.process.member = member = self.process.consumer().member()
        if isinstance(self.parts.producer, TransactionalProducer):
            await self.parts.producer.take_over(partitions, member)
        else:
            places = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
            await self.process.loop.run_in_executor(None, self.parts.ownership.take, places)

    async def drain(self, deadline: float) -> None:
        """Finish the running micro-batches until `deadline` (monotonic, s) and drop the rest; after a failure drop all."""
        for pipeline in self.pipelines.values():
            pipeline.abandon()
        if self.failure is not None:
            return
        for pipeline in self.pipelines.values():
            if not await pipeline.drain(deadline):
                logger.warning("drain: outputs are still unconfirmed; their input will be read again")

    async def checkpoint(self, seconds_max: float) -> int:
        """Write the changed state; return the number of rows."""
        if self.failure is not None:
            return 0
        try:
            return await self.parts.checkpointer.write(seconds_max)
        except (ClientHangs, NotAllowed) as exc:
            self.stop_with(exc)
            return 0

    def keep(self, assigned: set[TP]) -> None:
        """Forget the state of partitions that are not ours any more, once the device comes to it."""
        self._follow(assigned)

        def keep() -> None:
            for table in self.parts.tables.values():
                table.keep({tp.partition for tp in assigned if tp.topic == table.source})

        self.parts.device.submit(keep)

    def _follow(self, assigned: set[TP]) -> None:
        """Keep checkpoint files of our own partitions, or of all: a standby for every other worker."""
        if self.parts.mirror is None:
            return
        keep = self.parts.checkpoint_files
        self.parts.mirror.follow(
            (table.topic, number)
            for table in self.parts.tables.values()
            for number in range(self.parts.partitions[table.source])
            if keep == "all" or (keep == "own" and TP(table.source, number) in assigned)
        )

    @property
    def not_ready_reason(self) -> str | None:
        """The reason why this worker is not ready, the assignment aside; None without one."""
        if self.failure is not None:
            return str(self.failure)
        files = None if self.parts.mirror is None else self.parts.mirror.failure
        return self._standstill.reason or files

    async def watch(self) -> None:
        """Look for partitions that stand still, until cancelled."""
        await self._standstill.run()

    async def deliver(self) -> None:
        """Send outputs and take their confirmations, until cancelled."""
        await self.parts.producer.run()

    def observe(self) -> bytes:
        """Return the metrics, the sampled ones brought up to date."""
        consumer, metrics = self.process.consumer(), self.parts.metrics
        metrics.lag.clear()  # a partition that went to another worker must not be counted here too
        for tp in consumer.assignment():
            committed, end = consumer.committed(tp), consumer.highwater(tp)
            if committed is not None and end is not None:
                metrics.lag.labels(tp.topic, tp.partition).set(max(0, end - committed))
        for topic, count in consumer.records_in_flight.items():
            metrics.in_flight.labels(topic).set(count)
        for name, table in self.parts.tables.items():
            metrics.restored.labels(name).set(table.restored_records)
        if self.parts.label_log is not None:
            metrics.label_wait.set(self.parts.label_log.wait_s)
        return metrics.text()

    def close(self) -> None:
        """Stop threads and clients, the last made first. Not for the loop's thread."""
        self.parts.closing.close()
