"""ConsumerOnLoop: aiokafka's consumer on the worker's own loop, one batch a partition and fetch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.errors import ConsumerStoppedError, KafkaError
from faust.types import TP

from streams.errors import KafkaUnavailable
from streams.transport import upstream
from streams.transport.fetched_records import FetchedRecords
from streams.transport.pace import FLOW_ENDS_S, IDLE, FetchPace
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


class ConsumerOnLoop(upstream.DriverService):
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

    @upstream.Service.task
    async def _thread_keepalive(self) -> None:
        """Watch aiokafka's group membership, whose task ends, or waits for ever, and says so in the log only."""
        while not self.should_stop:  # nor after a crash
            await self.sleep(1.0)
            membership, refused = upstream.membership_of(upstream.coordinator_of(self))
            if (membership.done() or refused) and not self.should_stop:
                cause = refused or (None if membership.cancelled() else membership.exception())
                await self.crash(KafkaUnavailable(f"group membership ended: {cause!r}; the worker stops to join anew"))

    async def _leave_group(self) -> None:
        # aiokafka's static members never leave, and their partitions stay orphaned for the session timeout.
        coordinator = upstream.coordinator_of(self)
        if self.app.conf.consumer_group_instance_id and coordinator.member_id:
            try:
                await upstream.leave_group(coordinator)
            except KafkaError as exc:
                self.log.warning("leaving the group failed (%r); its session ends by timeout", exc)

    async def on_start(self) -> None:
        await super().on_start()

        def begin_at(found: Mapping[Any, Any]) -> None:
            self.consumer.begin_at({TP(tp.topic, tp.partition): each.offset for tp, each in found.items()})

        # Before the take-over, the offsets of a dead owner's transaction may still change.
        upstream.wrap_committed_offsets(upstream.coordinator_of(self), self.consumer.taken_over.wait, begin_at)

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return await upstream.maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        create = super()._create_worker_consumer
        return upstream.created_consumer(create, transport, FetchedRecords, IDLE.wait_ms_max)

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: Any = None,
    ) -> dict[TP, list[Any]]:
        if not self.consumer.flow_active:
            return {}
        if upstream.is_closed(consumer):
            raise ConsumerStoppedError()
        fetcher = upstream.fetcher_of(consumer)
        with upstream.subscriptions_of(fetcher).fetch_context():
            try:
                return await self._fetched(fetcher, active_partitions, timeout or 0.0)
            except KafkaError as exc:
                raise KafkaUnavailable(f"input cannot be read: {exc}; what is not committed is read again") from exc

    async def _fetched(self, fetcher: upstream.Fetcher, partitions: set[TP], timeout: float) -> dict[TP, list[Any]]:
        """Return what is there, else wait for it: the counterpart of aiokafka's `Fetcher.fetched_records`."""
        deadline = time.monotonic() + timeout
        subscriptions, fetched = upstream.subscriptions_of(fetcher), upstream.fetched_of(fetcher)
        while True:
            if subscriptions.reassignment_in_progress:
                await subscriptions.wait_for_assignment()
            drained: dict[TP, list[Any]] = {}
            count = 0
            for key in list(fetched):
                if key not in partitions:
                    if not subscriptions.is_assigned(key):
                        del fetched[key]
                    continue
                result = fetched[key]
                if type(result) is upstream.FetchResult:
                    tp = TP(key.topic, key.partition)
                    batched = self.consumer.is_batched(tp.topic)
                    records = self._record_batches(result, tp) if batched else result.getall(None)
                    if not result.has_more():
                        del fetched[key]
                        upstream.took(fetcher)
                    if records:
                        drained[tp] = records
                        count += sum(map(len, records)) if batched else len(records)
                elif drained:
                    return drained  # the error is raised by the next call
                else:
                    del fetched[key]
                    upstream.took(fetcher)
                    result.check_raise()
            if drained:
                upstream.ask_of(fetcher, *self.consumer.pace.after(count))
                return drained
            left = deadline - time.monotonic()
            if left <= 0:
                return {}
            waiter = upstream.fetch_waiter(fetcher)
            done, _ = await asyncio.wait([waiter], timeout=min(left, FLOW_ENDS_S))
            if upstream.is_fetcher_closed(fetcher):
                return {}
            if done:
                waiter.result()  # authorization errors surface here
            else:
                waiter.cancel()
                upstream.ask_of(fetcher, *IDLE)

    def _record_batches(self, result: upstream.FetchResult, tp: TP) -> list[RecordBatch]:
        """Drain one fetch result: the counterpart of aiokafka's `PartitionRecords`, a batch at a time."""
        if not result.has_more() or not result.check_assignment(tp):
            return []
        source = upstream.source_of(result)
        span = RecordSpan(
            tp, source.next_fetch_offset, self.app.consumer_generation_id, self.consumer.fetch_records_max
        )
        for next_offset, records in upstream.unpacked(source, f"{tp.topic}[{tp.partition}]"):
            span.extend(records)
            span.pass_to(next_offset)
        source.next_fetch_offset = span.position
        upstream.close_result(result)
        return span.close()
