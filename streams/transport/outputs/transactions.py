"""TransactionalProducer: outputs and the input offsets behind them in one Kafka transaction, fenced by the generation."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from faust.types import TP

from streams.clients.hang_watch import LOOK_S, WAKING, HangWatch
from streams.clients.refusals import cause_of
from streams.errors import ClientHangs, DeliveryFailed
from streams.transport.outputs.producer import Delivery, OutputSender
from streams.transport.ownership.group_member import GroupMember
from streams.transport.ownership.ownership import Ownership, as_metadata
from streams.transport.record_batch import RecordBatch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# The broker ends a transaction that stays open longer. Long enough for a broker to come back; a worker that dies does not
# hold readers up for so long, because the next owner of its partitions ends what it left open.
TRANSACTION_S_MAX = 60.0
CALL_S_MAX = 4.0  # one blocking call; it is repeated while the error is retriable
# What the group's coordinator does not take for so long aborts the transaction. When a broker dies, Kafka needs 9 s to miss it,
# and up to 4 more where it was the controller too.
OFFSETS_S_MAX = 20.0
RETRY_PAUSE_S = 0.05  # some of these errors come back at once
# How long the broker takes to write the end of a transaction to its partitions, after it has answered. An output that
# comes sooner is refused, and librdkafka's pause of 20 ms is longer: a p99 of 39 in place of 59 ms at 1,000 records/s.
MARKERS_S = 0.008
HUNG_S = OFFSETS_S_MAX + 1.0
# The group has given our partitions to others: what is not committed is theirs to decide.
SUPERSEDED = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
)


class TransactionalProducer:
    """Exactly once: a reader sees the outputs of a batch if and only if its offsets are committed.

    The order of a transaction: 1. outputs are sent as micro-batches make them; 2. once `commit_interval_s` has passed
    since the last one began to commit, the gate closes and later deliveries wait; 3. the offsets behind the batches join,
    and the broker checks our generation with them; 4. the transaction commits; 5. the gate opens, and what waited is sent
    in the next one; 6. the deliveries are told, on the loop.

    Args:
        config: connection settings of librdkafka.
        transactional_id: the worker's own; also its client id in the group (`Ownership`).
        ownership: takes partitions over from former owners.
        commit_interval_s: how long outputs may wait for company in a transaction.
        claim: commits offsets as a member of the group, with our id as metadata; False where the group has moved on.
        committed: called on the loop with the offsets of a transaction, after its deliveries were told.
        fail: called on the loop with the error that must stop the worker.
        loop: the worker's.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        transactional_id: str,
        ownership: Ownership,
        commit_interval_s: float,
        claim: Callable[[Mapping[TP, int], str], Awaitable[bool]],
        committed: Callable[[Mapping[TP, int]], None],
        fail: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        timeout_ms = int(TRANSACTION_S_MAX * 1000)
        self._sender = OutputSender(
            {**config, **WAKING, "transactional.id": transactional_id, "transaction.timeout.ms": timeout_ms}
        )
        self.partition_counts = self._sender.partition_counts
        self._id, self._ownership, self._interval_s = transactional_id, ownership, commit_interval_s
        self._claim, self._committed, self._fail = claim, committed, fail
        self._loop = loop
        self._pool = ThreadPoolExecutor(1, "transactions")  # commits and take-overs, one after the other
        self._lock = threading.Lock()  # guards all below
        self._member: GroupMember | None = None
        self._gate_closed = False
        self._begun = False
        self._initialised = False
        self._open: list[Delivery] = []
        self._waiting: list[Delivery] = []
        self._watch = HangWatch(HUNG_S)
        self._reached: dict[TP, int] = {}  # where the deliveries of the present assignment end
        self._work = asyncio.Event()

    @property
    def member(self) -> GroupMember | None:
        """In whose name transactions commit; None where none can: between assignments, once others have taken over or an
        output has failed. One reference, read whole: without the lock.
        """
        return self._member

    def produce(self, delivery: Delivery) -> None:
        """Send within the open transaction, or have it wait for the next. Any thread."""
        with self._lock:
            current = self._belongs(delivery.batch)
            if current and self._gate_closed:
                self._waiting.append(delivery)
            elif current:
                self._send(delivery)
        if not current:
            delivery.abandoned()

    def _belongs(self, batch: RecordBatch) -> bool:
        """Tell whether a batch is of the present assignment, and follows the last one: an offset commits all below it."""
        if self._member is None or batch.generation != self._member.generation:
            return False
        if batch.first != self._reached.get(batch.tp, batch.first):
            return False
        self._reached[batch.tp] = batch.next_offset
        return True

    def _send(self, delivery: Delivery) -> None:
        try:
            if not self._begun:
                self._sender.client.begin_transaction()
                self._begun = True
            for each in delivery.outputs:
                self._sender.send(each)
        except DeliveryFailed as exc:
            self._member = None  # a part of it may be in the open transaction, which must not commit any more
            delivery.failed(exc)
            return
        except KafkaException as exc:
            self._member = None
            delivery.failed(DeliveryFailed(f"transactional id {self._id}: no transaction: {exc.args[0].str()}"))
            return
        self._open.append(delivery)
        if len(self._open) == 1:
            self._loop.call_soon_threadsafe(self._work.set)

    async def run(self) -> None:
        """Commit whenever something is due, until cancelled."""
        began = 0.0
        while True:
            await self._work.wait()
            await asyncio.sleep(began + self._interval_s - time.monotonic())
            began = time.monotonic()
            self._work.clear()
            try:
                committed, abandoned = await self._in_turn(self._commit)
            except DeliveryFailed as exc:
                self._fail(exc)
                return
            for delivery in committed:
                delivery.confirmed()
            if committed:
                offsets = {delivery.batch.tp: delivery.batch.next_offset for delivery in committed}
                self._loop.call_soon(self._committed, offsets)  # after what the deliveries have put on the loop
            for delivery in abandoned:
                delivery.abandoned()

    def _commit(self) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Commit what is open; return the deliveries that are committed and those that are abandoned."""
        with self._lock:
            entries, self._open = self._open, []
            member = self._member
            if not entries or member is None:
                return (), entries
            self._gate_closed = True
        if not self._commit_open(entries, member):
            with self._lock:
                entries += self._waiting
                self._waiting, self._member = [], None
            return (), entries
        time.sleep(MARKERS_S)
        with self._lock:
            self._gate_closed = False
            waiting, self._waiting = self._waiting, []
            for delivery in waiting:
                self._send(delivery)
        return entries, ()

    def _commit_open(self, entries: Sequence[Delivery], member: GroupMember) -> bool:
        """Commit the open transaction with the offsets behind it; False where the group has moved on, and it is aborted."""
        client = self._sender.client
        offsets = {delivery.batch.tp: delivery.batch.next_offset for delivery in entries}
        claims = [TopicPartition(tp.topic, tp.partition, offset, self._id) for tp, offset in offsets.items()]
        try:
            self._repeated(lambda: client.send_offsets_to_transaction(claims, member.metadata(), OFFSETS_S_MAX))
            self._repeated(lambda: client.commit_transaction(CALL_S_MAX))
        except KafkaException as exc:
            error = cause_of(exc.args[0], client)
            if exc.args[0].txn_requires_abort() and self._abort() and error.code() in SUPERSEDED:
                return False
            topics = ", ".join(sorted({each.topic for delivery in entries for each in delivery.outputs}))
            raise DeliveryFailed(
                f"transactional id {self._id}: expected a committed transaction with {topics or 'no output'}, "
                f"got {error.name()}: {error.str()}; its input is decided again"
            ) from exc
        self._begun = False
        return True

    def _abort(self) -> bool:
        try:
            self._repeated(lambda: self._sender.client.abort_transaction(CALL_S_MAX))
        except KafkaException as exc:
            logger.warning("the failed transaction was not aborted: %s", exc.args[0].str())
            return False
        self._begun = False
        return True

    def _repeated(self, call: Callable[[], None]) -> None:
        """Call until it succeeds, or fails for good, or TRANSACTION_S_MAX has passed."""
        deadline = time.monotonic() + TRANSACTION_S_MAX
        while True:
            try:
                return self._watch.run(call)
            except KafkaException as exc:
                if not exc.args[0].retriable() or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_PAUSE_S)

    async def _in_turn(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the thread of transactions.

        Raises:
            ClientHangs: the work does not end.
        """
        done = self._loop.run_in_executor(self._pool, work)
        while not (await asyncio.wait([done], timeout=LOOK_S))[0]:
            if self._watch.look():
                raise ClientHangs(
                    f"transactional id {self._id}: expected an answer within {OFFSETS_S_MAX:.0f} s, the client hangs; "
                    "the worker stops, and what is not committed is decided again"
                )
        return await done

    async def take_over(self, partitions: Sequence[TP], member: GroupMember) -> None:
        """Begin an assignment: nothing of an earlier one is committed any more, and dead owners hold nothing up.

        Raises:
            KafkaUnavailable: the cluster does not answer.
            DeliveryFailed: our own transactional id was fenced.
        """
        abandoned, offsets = await self._in_turn(partial(self._take_over, partitions))
        for delivery in abandoned:
            delivery.abandoned()
        # Our id stands in the offsets before the first output: the next owner knows whom to fence. Not by a
        # transaction, for one that is left open says nowhere whose it is, and holds the offsets up until the time-out.
        if not offsets or await self._claim(offsets, as_metadata(self._id)):
            with self._lock:
                self._member, self._gate_closed = member, False

    def _take_over(self, partitions: Sequence[TP]) -> tuple[Sequence[Delivery], Mapping[TP, int]]:
        client = self._sender.client
        with self._lock:
            abandoned = self._open + self._waiting
            self._open, self._waiting, self._member, self._gate_closed = [], [], None, True
            self._reached.clear()
        try:
            if self._begun:
                self._repeated(lambda: client.abort_transaction(CALL_S_MAX))
                self._begun = False
            found = self._ownership.take([TopicPartition(tp.topic, tp.partition) for tp in partitions])
            if not self._initialised:
                self._repeated(lambda: client.init_transactions(CALL_S_MAX))
                self._initialised = True
        except KafkaException as exc:
            raise DeliveryFailed(
                f"transactional id {self._id}: no take-over of {len(partitions)} partitions: {exc.args[0].str()}"
            ) from exc
        return abandoned, {TP(tp.topic, tp.partition): tp.offset for tp in found}

    def close(self, timeout_s: float) -> int:
        """Abort what is open, within the time given, and stop; return how many input batches that leaves undecided.

        A call that hangs makes this hang.
        """
        self._pool.shutdown(wait=True)
        left = len(self._open) + len(self._waiting)
        if self._begun:
            try:
                self._sender.client.abort_transaction(timeout_s)
            except KafkaException as exc:
                logger.warning("the open transaction was not aborted: %s", exc.args[0].str())
        return left
