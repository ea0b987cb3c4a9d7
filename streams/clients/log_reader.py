"""LogReader: reads spans of a partition by position, outside any consumer group. The worker's reader."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import ConfigResource, ResourceType

from streams.clients.connection import WORKER_ANSWER_S_MAX, admin_client, reading_consumer
from streams.clients.records import poll_records
from streams.errors import KafkaUnavailable

LEADER_S_MAX = 3.0  # a dead leader does not answer: better to ask soon which broker leads now
# As long as an output waits for its broker.
PATIENCE_S = 60.0
RETRY_PAUSE_S = 0.25
READ_RECORDS_MAX = 4_096

Answer = TypeVar("Answer")


class LogReader:
    """A consumer with positions of its own, read_committed unless told otherwise. One thread at a time.

    An empty fetch tells the end of a span and takes `fetch_wait_ms_max`; a reader that follows a log without end gives
    fetches more time. A cluster that does not answer is asked again for `patience_s` seconds. About `records_max` records
    come at a time; making them holds the interpreter's lock for 1 ms per 1,000.

    `interrupt` makes a `read` under way, and every later one, raise KafkaUnavailable; any thread may call it.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        group: str,
        patience_s: float = PATIENCE_S,
        records_max: int = READ_RECORDS_MAX,
        fetch_wait_ms_max: int = 10,
        isolation: str = "read_committed",
    ) -> None:
        self._patience_s, self._records_max = patience_s, records_max
        self._consumer = reading_consumer(
            config, group, **{"isolation.level": isolation, "fetch.wait.max.ms": fetch_wait_ms_max}
        )
        self._admin = admin_client(config)
        self._interrupted = False

    def begins(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Return the position of the first record that each partition still holds."""
        return self._edges(topic, partitions, OFFSET_BEGINNING)

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Return the position behind the last record of each partition that the isolation level shows."""
        return self._edges(topic, partitions, OFFSET_END)

    def _edges(self, topic: str, partitions: Sequence[int], edge: int) -> dict[int, int]:
        # The consumer's call, not AdminClient.list_offsets (librdkafka 2.16): that one does not pause between attempts to
        # connect to a dead leader, keeps an outdated leader epoch, and may return -1001 as an end.
        asked = [TopicPartition(topic, p, edge) for p in partitions]

        def ask() -> dict[int, int]:
            found = self._consumer.offsets_for_times(asked, LEADER_S_MAX)
            for each in found:
                if each.error is not None or each.offset < 0:
                    raise KafkaException(each.error or KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
            return {each.partition: each.offset for each in found}

        return self._answer(f"{topic}: no begin or end offsets", ask)

    def topic_id(self, topic: str) -> str:
        """Return the topic's id on the cluster; a topic that is deleted and made again gets a new one."""

        def ask() -> str:
            described = self._admin.describe_topics(TopicCollection([topic]), request_timeout=WORKER_ANSWER_S_MAX)
            return str(described[topic].result().topic_id)

        return self._answer(f"{topic}: not described", ask)

    def tombstones_kept_ms(self, topic: str) -> int:
        """Return how many ms a reader has, from the beginning on, before tombstones may be deleted (delete.retention.ms)."""
        resource = ConfigResource(ResourceType.TOPIC, topic)

        def ask() -> int:
            described = self._admin.describe_configs([resource], request_timeout=WORKER_ANSWER_S_MAX)
            return int(described[resource].result()["delete.retention.ms"].value)

        return self._answer(f"{topic}: no settings", ask)

    def _answer(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """Ask again while a broker restarts, a new topic spreads, or a partition is between two leaders."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except KafkaException as exc:
                if time.monotonic() > deadline or self._interrupted:
                    raise KafkaUnavailable(f"{what}: {exc.args[0].str()}") from exc
            time.sleep(RETRY_PAUSE_S)
            # The client would ask the leader that it knows for minutes. Without an answer it keeps what it knows.
            with contextlib.suppress(KafkaException):
                self._consumer.list_topics(timeout=LEADER_S_MAX)

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic; an empty list if it does not exist."""
        try:
            known = self._consumer.list_topics(topic, timeout=WORKER_ANSWER_S_MAX).topics.get(topic)
        except KafkaException as exc:
            raise KafkaUnavailable(f"{topic}: no metadata: {exc.args[0].str()}") from exc
        return [] if known is None or known.error is not None else sorted(known.partitions)

    def read(self, topic: str, partition: int, first: int, stop: int) -> Iterator[list[Message]]:
        """Yield the records at positions [first, stop), in order.

        Raises:
            KafkaUnavailable: no answer in time, or an error of the partition.
        """
        if first >= stop:
            return
        self._consumer.assign([TopicPartition(topic, partition, first)])
        try:
            heard_at = time.monotonic()
            while True:
                if self._interrupted:
                    raise KafkaUnavailable(f"{topic}[{partition}]: reading was interrupted, because the worker stops")
                messages, at_end = self.poll(0.5)
                if messages:
                    heard_at = time.monotonic()
                    last = messages[-1].offset() or 0
                    if last >= stop:
                        messages = [message for message in messages if (message.offset() or 0) < stop]
                    if messages:
                        yield messages
                    if last + 1 >= stop:
                        return
                if at_end.get(partition, -1) >= stop:
                    return
                if time.monotonic() - heard_at > self._patience_s:
                    raise KafkaUnavailable(
                        f"{topic}[{partition}]: expected records up to {stop}, got none for {self._patience_s:.0f} s"
                    )
        finally:
            self._consumer.unassign()

    def follow(self, topic: str, positions: Mapping[int, int]) -> None:
        """Start at positions of a topic, by partition; `poll` then returns records as they arrive."""
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in positions.items()])

    def poll(self, timeout_s: float) -> tuple[list[Message], dict[int, int]]:
        """Return the records that have arrived, and the end position of each partition whose end was reached."""
        found, ends = poll_records(self._consumer, timeout_s, self._records_max)
        return found, {partition: end for (_, partition), end in ends.items()}

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        self._consumer.close()
