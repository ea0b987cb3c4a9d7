"""ConsumerOnLoop: aiokafka's consumer on the worker's own loop, one batch a partition and fetch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.consumer import fetcher as fetching
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException, KafkaError
from aiokafka.protocol.group import LeaveGroupRequest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.services import Service
from mode.utils.futures import maybe_async

from streams.errors import KafkaUnavailable
from streams.transport.fetched_records import FetchedRecords
from streams.transport.pace import FLOW_ENDS_S, IDLE, FetchPace, Patience
from streams.transport.record_batch import RecordBatch, RecordSpan

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer


class Owner(Protocol):
    """Faust's consumer, as far as the service below asks it (`streams.transport.consumer.Consumer`)."""

    pace: FetchPace
    flow_active: bool
    fetch_records_max: int
    taken_over: asyncio.Event

    def is_batched(self, topic: str) -> bool: ...

    def begin_at(self, offsets: Mapping[TP, int]) -> None: ...

    async def on_partitions_revoked(self, revoked: set[TP]) -> None: ...

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None: ...


class ConsumerOnLoop(driver.AIOKafkaConsumerThread):
    """The driver's consumer service, run by the worker's loop. The name of the base is the upstream's; no thread starts."""

    consumer: Owner

    def __init__(self, consumer: Owner, **kwargs: Any) -> None:
        super().__init__(consumer, thread_loop=kwargs["loop"], **kwargs)

    async def start(self) -> None:
        self._thread_started.set()
        await self._default_start()

    async def stop(self) -> None:
        if not self._started.is_set() or self._stopped.is_set():
            return
        self._stopped.set()
        if self._consumer is not None:
            await self._leave_group()
            await self._consumer.stop()
        await self._default_stop_children()
        self.set_shutdown()
        await self._default_stop_futures()
        await self._default_stop_exit_stacks()

    @Service.task
    async def _thread_keepalive(self) -> None:
        """Watch aiokafka's group membership, whose task ends, or waits for ever, and says so in the log only."""
        while not self.should_stop:  # nor after a crash
            await self.sleep(1.0)
            coordinator = self._ensure_consumer()._coordinator
            membership, refused = coordinator._coordination_task, coordinator._pending_exception
            if (membership.done() or refused) and not self.should_stop:
                cause = refused or (None if membership.cancelled() else membership.exception())
                await self.crash(KafkaUnavailable(f"group membership ended: {cause!r}; the worker stops to join anew"))

    async def _leave_group(self) -> None:
        # aiokafka's static members never leave, and their partitions stay orphaned for the session timeout.
        coordinator = self._ensure_consumer()._coordinator
        if self.app.conf.consumer_group_instance_id and coordinator.member_id:
            try:
                await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))
            except KafkaError as exc:
                self.log.warning("leaving the group failed (%r); its session ends by timeout", exc)

    async def on_start(self) -> None:
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        fetch_committed = coordinator.fetch_committed_offsets

        async def fetch_committed_offsets(partitions: Any) -> Any:
            await self.consumer.taken_over.wait()  # until then, offsets of a dead owner's transaction may change
            found = await fetch_committed(partitions)
            self.consumer.begin_at({TP(tp.topic, tp.partition): each.offset for tp, each in found.items()})
            return found

        coordinator.fetch_committed_offsets = fetch_committed_offsets

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return await maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        fetching.MemoryRecords = FetchedRecords
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = IDLE.wait_ms_max
        return consumer

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: Any = None,
    ) -> dict[TP, list[Any]]:
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError()
        with fetcher._subscriptions.fetch_context():
            try:
                return await self._fetched(consumer, fetcher, active_partitions, timeout or 0.0)
            except KafkaError as exc:
                raise KafkaUnavailable(f"input cannot be read: {exc}; what is not committed is read again") from exc

    async def _fetched(
        self, consumer: AIOKafkaConsumer, fetcher: fetching.Fetcher, partitions: set[TP], timeout: float
    ) -> dict[TP, list[Any]]:
        """Return what is there, else wait for it: the counterpart of aiokafka's `Fetcher.fetched_records`."""
        deadline = time.monotonic() + timeout
        while True:
            if fetcher._subscriptions.reassignment_in_progress:
                await fetcher._subscriptions.wait_for_assignment()
            drained: dict[TP, list[Any]] = {}
            count = 0
            for key in list(fetcher._records):
                if key not in partitions:
                    if not fetcher._subscriptions.is_assigned(key):
                        del fetcher._records[key]
                    continue
                result = fetcher._records[key]
                if type(result) is fetching.FetchResult:
                    tp = TP(key.topic, key.partition)
                    batched = self.consumer.is_batched(tp.topic)
                    records = self._record_batches(result, tp) if batched else result.getall(None)
                    if not result.has_more():
                        del fetcher._records[key]
                        fetcher._notify(fetcher._wait_consume_future)
                    if records:
                        drained[tp] = records
                        count += sum(map(len, records)) if batched else len(records)
                elif drained:
                    return drained  # the error is raised by the next call
                else:
                    del fetcher._records[key]
                    fetcher._notify(fetcher._wait_consume_future)
                    result.check_raise()
            if drained:
                self._ask(fetcher, self.consumer.pace.after(count))
                return drained
            left = deadline - time.monotonic()
            if left <= 0:
                return {}
            waiter = fetcher._create_fetch_waiter()
            done, _ = await asyncio.wait([waiter], timeout=min(left, FLOW_ENDS_S))
            if fetcher._closed:
                return {}
            if done:
                waiter.result()  # authorization errors surface here
            else:
                waiter.cancel()
                self._ask(fetcher, IDLE)

    @staticmethod
    def _ask(fetcher: fetching.Fetcher, patience: Patience) -> None:
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = patience

    def _record_batches(self, result: fetching.FetchResult, tp: TP) -> list[RecordBatch]:
        """Drain one fetch result: the counterpart of aiokafka's `PartitionRecords`, a batch at a time."""
        if not result.has_more() or not result.check_assignment(tp):
            return []
        source = result._partition_records
        span = RecordSpan(
            tp, source.next_fetch_offset, self.app.consumer_generation_id, self.consumer.fetch_records_max
        )
        records, committed_only = source._records, source._isolation_level == fetching.READ_COMMITTED
        while records.has_next():
            batch = records.next_batch()
            if source._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"{tp.topic}[{tp.partition}]@{batch.base_offset}: invalid CRC")
            if committed_only and batch.producer_id is not None:
                source._consume_aborted_up_to(batch.base_offset)
                if batch.is_control_batch and source._contains_abort_marker(batch):
                    source._aborted_producers.discard(batch.producer_id)
                if batch.is_transactional and batch.producer_id in source._aborted_producers:
                    span.pass_to(batch.next_offset)
                    continue
            if not batch.is_control_batch:
                span.extend(records.present())
            span.pass_to(batch.next_offset)
        source.next_fetch_offset = span.position
        result._update_position()
        result._partition_records = None
        return span.close()
