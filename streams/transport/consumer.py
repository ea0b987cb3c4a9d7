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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP, ConsumerMessage, Message

from streams.errors import OutOfOrder
from streams.transport.flow import Flow
from streams.transport.offsets import OffsetTracker
from streams.transport.on_loop import ConsumerOnLoop
from streams.transport.ownership.group_member import GroupMember
from streams.transport.pace import FetchPace
from streams.transport.record_batch import BatchSchema, Fetch, RecordBatch
from streams.transport.upstream import DriverConsumer, channels_of, consumer_of, coordinator_of, driver_logger


class Consumer(DriverConsumer):
    """Faust's consumer with own offsets and batched topics."""

    logger = driver_logger

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
            channels = list(channels_of(self.app, topic))
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
            *(tp.topic, tp.partition, first.first, timestamp),
            timestamp_type=0,
            headers=(),
            key=None,
            value=fetch,
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=0,
            tp=tp,
            generation_id=first.generation,
        )

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
        coordinator = coordinator_of(self._thread)
        conf = self.app.conf
        return GroupMember(conf.id, coordinator.generation, coordinator.member_id, conf.consumer_group_instance_id)

    async def claim(self, offsets: Mapping[TP, int], metadata: str) -> bool:
        """Commit offsets with metadata that tells their owner; False where the group has moved on."""
        claims = {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(at, metadata) for tp, at in offsets.items()}
        try:
            await consumer_of(self._thread).commit(claims)
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
