"""Consumer: aiokafka keeps group membership and fetching; batched topics skip the per-record path of Faust.

What differs from the stock driver, and why:

- aiokafka runs on the worker's own loop, not on a thread of its own: a fetched batch reaches its agent without a hop
  between threads, and commits and heartbeats need none either.
- A topic whose channels all use `BatchSchema` yields one message a fetch, with the record batches of all its
  partitions; per message the stock path costs about 80 us.
- Offsets are committed by `OffsetTracker`, for every topic: never past an unconfirmed position.
- Input is read with isolation level read_committed: an aborted record is never decided.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiokafka.consumer import fetcher as fetching
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, CorruptRecordException, KafkaError
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message
from mode.services import Service
from mode.utils.futures import maybe_async

from streams.errors import KafkaUnavailable, OutOfOrder
from streams.transport.fetched_records import FetchedRecords
from streams.transport.flow import Flow
from streams.transport.offsets import OffsetTracker
from streams.transport.ownership.group_member import GroupMember
from streams.transport.pace import FLOW_ENDS_S, IDLE, FetchPace, Patience
from streams.transport.record_batch import BatchSchema, Fetch, RecordBatch, RecordSpan

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer


class ConsumerOnLoop(driver.AIOKafkaConsumerThread):
    """The driver's consumer service, run by the worker's loop. The name of the base is the upstream's; no thread starts."""

    consumer: Consumer

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
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


class Consumer(driver.Consumer):
    """Faust's consumer with own offsets and batched topics."""

    logger = driver.logger

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = NoReadOffset(lambda: None)
        self._trackers: dict[TP, OffsetTracker] = {}
        self._batched: dict[str, bool] = {}
        self._deferred: set[TP] = set()
        self._expected: dict[TP, int] = {}
        self._begins: dict[TP, int] = {}  # committed offsets that the present assignment began with
        self.records_in_flight: dict[str, int] = {}
        self._bytes_in_flight: dict[str, int] = {}
        self._room = asyncio.Event()
        self.taken_over = asyncio.Event()
        self._flow = self.app if isinstance(self.app, Flow) else Flow()
        settings = self._flow.settings
        self.fetch_records_max = settings.fetch_records_max
        self.pace = FetchPace(settings.fetch_wait_ms_max)
        self.queue_records_max = settings.queue_records_max
        self.queue_bytes_max = settings.queue_bytes_max
        # Offsets of batched topics are then committed by the outputs' transactions, not here.
        self.transactional = settings.guarantee == "exactly_once"

    def _new_consumer_thread(self) -> ConsumerOnLoop:
        return ConsumerOnLoop(self, loop=self.loop, beacon=self.beacon)

    def is_batched(self, topic: str) -> bool:
        """Tell whether all channels of a topic use `BatchSchema`."""
        known = self._batched.get(topic)
        if known is None:
            channels = self.app.topics._topic_name_index.get(topic) or ()
            known = bool(channels) and all(isinstance(channel.schema, BatchSchema) for channel in channels)
            if channels:
                self._batched[topic] = known
        return known

    # ---- delivery

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:
        """Return one `Fetch` for each batched topic, under its first partition; other records as upstream."""
        self._room.clear()
        full = {topic for topic, n in self.records_in_flight.items() if n >= self.queue_records_max}
        full |= {topic for topic, n in self._bytes_in_flight.items() if n >= self.queue_bytes_max}
        wanted = {tp for tp in active_partitions or () if tp.topic not in full}
        # With a topic full, its room is what to wait for: other topics are only asked whether they have something.
        found = await self._thread.getmany(wanted, 0.0 if full else timeout) if wanted else {}
        if not found and (full or not wanted):
            await self._wait_for_room(timeout)
        if not self.flow_active or self._paused_partitions.intersection(found):
            return {}  # a rebalance began meanwhile: every partition is sought back to its committed offset
        merged: dict[TP, list[Any]] = {}
        heads: dict[str, TP] = {}
        for tp, records in found.items():
            if not self.is_batched(tp.topic):
                merged[tp] = records
            elif tp.topic in heads:
                merged[heads[tp.topic]][0].extend(records)
            else:
                heads[tp.topic] = tp
                merged[tp] = [list(records)]
        return merged

    async def _wait_for_room(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._room.wait(), min(timeout, 0.1))
        except TimeoutError:
            return

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if type(record) is not list:
            message = super()._to_message(tp, record)
            if self.app.topics.acks_enabled_for(tp.topic):
                self._tracker(tp).deliver(message.offset, message.offset + 1)
            return message
        fetch: Fetch = record
        for batch in fetch:
            expected = self._expected.get(batch.tp)
            if expected is not None and batch.first != expected:
                raise OutOfOrder(
                    f"{batch}: expected position {expected}; the worker stops rather than lose or repeat records"
                )
            self._expected[batch.tp] = batch.next_offset
            self._tracker(batch.tp).deliver(batch.first, batch.next_offset)
            self._count(batch, 1)
        first = fetch[0]
        timestamp = first.timestamps[0] / 1000.0 if first.timestamps else 0.0
        return ConsumerMessage(
            tp.topic, tp.partition, first.first, timestamp, 0, (), None, fetch, None, 0, 0, tp,
            generation_id=first.generation,
        )  # fmt: skip

    def _count(self, batch: RecordBatch, sign: int) -> None:
        topic = batch.tp.topic
        self.records_in_flight[topic] = self.records_in_flight.get(topic, 0) + sign * len(batch)
        self._bytes_in_flight[topic] = self._bytes_in_flight.get(topic, 0) + sign * batch.size_bytes

    def _tracker(self, tp: TP) -> OffsetTracker:
        tracker = self._trackers.get(tp)
        if tracker is None:
            tracker = self._trackers[tp] = OffsetTracker()
        return tracker

    # ---- confirmation and commit

    def member(self) -> GroupMember:
        """Return who we are in the group under the present assignment. On the loop only."""
        coordinator = self._thread._ensure_consumer()._coordinator
        conf = self.app.conf
        return GroupMember(conf.id, coordinator.generation, coordinator.member_id, conf.consumer_group_instance_id)

    async def claim(self, offsets: Mapping[TP, int], metadata: str) -> bool:
        """Commit offsets with metadata that tells their owner; False where the group has moved on."""
        claims = {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(at, metadata) for tp, at in offsets.items()}
        try:
            await self._thread._ensure_consumer().commit(claims)
        except CommitFailedError:
            return False
        return True

    def is_current(self, batch: RecordBatch) -> bool:
        """Tell whether a batch is of the present assignment; the span of another is fetched again."""
        return bool(batch.generation == self.app.consumer_generation_id)

    def confirm(self, batch: RecordBatch) -> None:
        """Note that every output of a batch is confirmed by the broker. On the loop only."""
        if not self.is_current(batch):
            return
        self._count(batch, -1)
        self._room.set()
        self._tracker(batch.tp).confirm(batch.first, batch.next_offset)

    def committed(self, tp: TP) -> int | None:
        """Return the offset this worker committed last in a partition under the present assignment."""
        tracker = self._trackers.get(tp)
        return None if tracker is None else tracker.committed

    def begin_at(self, offsets: Mapping[TP, int]) -> None:
        """Note where partitions of the present assignment begin."""
        self._begins.update(offsets)

    def committed_positions(self) -> dict[TP, int]:
        """Return the committed offset of each batched partition that is ours, as far as it is known."""
        found: dict[TP, int] = {}
        for tp in self.assignment():
            offset = self.committed(tp)
            offset = self._begins.get(tp) if offset is None else offset
            if offset is not None and self.is_batched(tp.topic):
                found[tp] = max(0, offset)
        return found

    def committed_by_transaction(self, offsets: Mapping[TP, int]) -> None:
        """Note what a transaction of outputs has committed."""
        for tp, offset in offsets.items():
            if tp in self._trackers:
                self._trackers[tp].committed = offset
        self._committed_offset.update(offsets)
        self.app.monitor.on_tp_commit(offsets)

    def track_message(self, message: Message) -> None:
        if type(message.value) is not list or not self.is_batched(message.topic):
            super().track_message(message)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> list[TP]:
        return [
            tp
            for tp in self._trackers
            if (topics is None or tp in topics or tp.topic in topics)
            and not (self.transactional and self.is_batched(tp.topic))
        ]

    def _new_offset(self, tp: TP) -> int | None:
        tracker = self._trackers.get(tp)
        if tracker is None:
            return None
        for offset in self._acked.pop(tp, ()):  # ordinary topics: Faust's streams, compiled ones too, append here
            tracker.confirm(offset, offset + 1)
        self._acked_index.pop(tp, None)
        return tracker.committable

    def _should_commit(self, tp: TP, offset: int) -> bool:
        return True

    async def _commit_tps(self, tps: Iterable[TP], start_new_transaction: bool) -> bool:
        assigned = self.assignment()
        offsets = {tp: offset for tp, offset in self._filter_committable_offsets(tps).items() if tp in assigned}
        if not offsets:
            return False
        trackers = {tp: self._trackers[tp] for tp in offsets}
        await self._handle_attached(offsets)
        await self.app.producer.flush()
        if not await self._commit(offsets):
            return False  # bookkeeping advances after the broker's answer only; the next commit tries again
        for tp, offset in offsets.items():
            trackers[tp].committed = offset
        self._committed_offset.update(offsets)
        self.app.tables.on_commit(offsets)
        self.app.monitor.on_tp_commit(offsets)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Gaps need no entry: the tracker's spans say what was delivered."""

    # ---- rebalance

    async def wait_empty(self) -> None:
        """Let what has begun finish, as long as the application allows, and commit it. What has not begun is read again."""
        deadline = self._flow.drain_deadline()
        await self._flow.drain(deadline)
        while self._unacked_messages and time.monotonic() < deadline:
            self._clean_unacked_messages()
            await asyncio.sleep(0.005)
        await self.maybe_wait_for_commit_to_finish()
        await self.commit()
        await self._flow.drained(deadline)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self.taken_over.clear()
        self._begins.clear()
        self._forget()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._forget()
        await self._flow.take_over(sorted(tp for tp in assigned if self.is_batched(tp.topic)))
        self.taken_over.set()
        await super().on_partitions_assigned(assigned, generation_id)

    def _forget(self) -> None:
        self._trackers.clear()
        self._acked.clear()
        self._acked_index.clear()
        self._expected.clear()
        self.records_in_flight.clear()
        self._bytes_in_flight.clear()
        self._room.set()

    async def perform_seek(self) -> None:
        self._forget()
        await super().perform_seek()

    async def seek(self, partition: TP, offset: int) -> None:
        tp = TP(partition.topic, partition.partition)
        self._trackers.pop(tp, None)
        self._expected.pop(tp, None)
        await super().seek(partition, offset)

    # Faust resumes the source partitions before flow_control.resume() clears the agents' queues: a batch fetched in
    # between would vanish. Source partitions therefore become active in resume_flow() only.

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        source = {tp for tp in tps if not self._is_changelog_tp(tp)}
        self._deferred |= source
        super().resume_partitions(set(tps) - source)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        self._deferred -= set(tps)
        super().pause_partitions(tps)

    def resume_flow(self) -> None:
        super().resume_flow()
        ready, self._deferred = self._deferred & self.assignment(), set()
        if ready:
            super().resume_partitions(ready)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Batched topics report their progress by metrics; upstream's check reads per-record bookkeeping."""
        if not self.is_batched(tp.topic):
            super().verify_event_path(now, tp)


class NoReadOffset(dict[TP, Any]):
    """Upstream's read offsets, always unknown: fetch positions are aiokafka's, contiguity is checked at delivery."""

    def __init__(self, _default: Callable[[], None]) -> None:
        super().__init__()

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: Any) -> None:
        return None

    def update(self, *args: Any, **kwargs: Any) -> None:
        return None
