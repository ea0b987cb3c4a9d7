"""StateWriter: a checkpoint's rows and marker in one Kafka transaction, fenced by the group's generation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as RdProducer

from streams.clients.hang_watch import WAKING, HangWatch
from streams.clients.refusals import NOT_ALLOWED, cause_of
from streams.contract.topics import STATE_BYTES_MAX
from streams.errors import DeliveryFailed, NotAllowed
from streams.transport.ownership.group_member import GroupMember
from streams.transport.ownership.ownership import state_writer_id

logger = logging.getLogger(__name__)

# A new owner of partitions waits for what is open in their state. A broker looks for transactions whose time is over
# every 10 s: with those this stays below `WORKER_ANSWER_S_MAX`.
TRANSACTION_S_MAX = 15.0
CALL_S_MIN = 1.0
HUNG_S = TRANSACTION_S_MAX + 3.0
# Rows are handed over in slices with a pause: a checkpoint may take its time, decisions may not wait for the interpreter.
SLICE_ROWS = 128
SLICE_PAUSE_S = 0.001


class StateWriter:
    """One transactional producer of a worker, for the rows of its feature state. One thread at a time."""

    def __init__(self, config: Mapping[str, str], owner: str) -> None:
        self._owner = owner
        self._config = {
            **config,
            **WAKING,
            "transactional.id": state_writer_id(owner),
            "transaction.timeout.ms": int(TRANSACTION_S_MAX * 1000),
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": STATE_BYTES_MAX,
        }
        self._producer: RdProducer | None = None
        self._watch = HangWatch(HUNG_S)
        self.hangs = self._watch.look

    def write(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        member: GroupMember,
        position: int,
        deadline: float,
    ) -> int:
        """Write rows to one partition, all or none, and return how many.

        Args:
            rows: key and payload; None is a tombstone.
            member: the writer under the generation in which it copied the rows.
            position: goes into the transaction as the group's offset of the state topic's partition. The broker checks
                the generation with it, and so fences a worker that lost the partition; and while it is not known
                whether it is committed, no worker takes the partition over (`Ownership`).
            deadline: monotonic seconds after which to give up.

        Raises:
            NotAllowed: nor will another be.
            DeliveryFailed: the transaction is not known to have committed.
        """
        try:
            return self._write(topic, partition, rows, member, position, deadline)
        except KafkaException as exc:
            error = exc.args[0] if self._producer is None else cause_of(exc.args[0], self._producer)
            self._abort(deadline)
            what = f"{topic}[{partition}]: the checkpoint was not written: {error.str()}"
            if error.code() in NOT_ALLOWED:
                raise NotAllowed(
                    f"{what}; see Security in config/README.md for what a worker has to be allowed"
                ) from exc
            raise DeliveryFailed(what) from exc

    def _write(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        member: GroupMember,
        position: int,
        deadline: float,
    ) -> int:
        count = 0
        if self._producer is None:
            producer = RdProducer(self._config)
            self._wait_for(producer.init_transactions, deadline)
            self._producer = producer
        producer = self._producer
        producer.begin_transaction()
        for key, payload in rows:
            while True:
                try:
                    producer.produce(topic, payload, key, partition)
                    break
                except BufferError:
                    if time.monotonic() > deadline:
                        raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
                    producer.poll(0.01)
            count += 1
            if count % SLICE_ROWS == 0:
                time.sleep(SLICE_PAUSE_S)
        where = TopicPartition(topic, partition, position, self._owner)
        self._wait_for(partial(producer.send_offsets_to_transaction, [where], member.metadata()), deadline)
        self._wait_for(producer.commit_transaction, deadline)
        return count

    def _abort(self, deadline: float) -> None:
        """End a failed transaction; a producer that cannot is given up, and the next checkpoint begins with a new one."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            self._wait_for(producer.abort_transaction, deadline)
            self._producer = producer
        except KafkaException as exc:
            logger.warning("the checkpoint's transaction was not aborted: %s", exc.args[0].str())

    def _wait_for(self, call: Callable[[float], None], deadline: float) -> None:
        self._watch.run(partial(call, left(deadline)))


def left(deadline: float) -> float:
    """Return the seconds until a monotonic deadline, at most TRANSACTION_S_MAX and enough for one answer."""
    return min(TRANSACTION_S_MAX, max(CALL_S_MIN, deadline - time.monotonic()))
