"""Ownership: who writes for a partition, told by the group's committed offsets; what the dead left open is closed.

A worker that dies in a transaction leaves it open: readers of what it wrote to wait until the broker's time-out, and the
offsets of a transaction whose end is being written are not yet to be relied on. So the offsets that a worker commits
carry its transactional id as metadata, and its connection to the group carries the same id. A new owner
of a partition reads the id. Where no member of the group has it, the new owner takes the transactional id for a moment: the
broker then ends the open transaction at once and refuses the former owner for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.clients.committed import committed_offsets
from streams.clients.connection import WORKER_ANSWER_S_MAX
from streams.errors import KafkaUnavailable
from streams.transport.ownership.leftovers import Leftovers

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ASK_S_MAX = 5.0  # one attempt: the next one, by a new client, may find a coordinator that this one waits for in vain
RETRY_PAUSE_S = 0.05
# The end of a transaction is being written, or the group's coordinator moves: the next moment knows better.
PASSING = (
    KafkaError._TIMED_OUT,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


class Ownership:
    """What the group knows of its partitions' owners. Blocking; not for the loop's thread.

    Args:
        config: connection settings of librdkafka.
        group: consumer group.
        transactional_id: ours, which is also our client id in the group.
        state_topics: the topics of the state, by source, added as they become known. A checkpoint that a former owner
            sent under its own generation may commit later: then what is there changes after we have read it.
        leftovers: what the broker may have forgotten to end.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        group: str,
        transactional_id: str,
        state_topics: Mapping[str, str],
        leftovers: Leftovers,
    ) -> None:
        self._config, self._group, self._own_id = dict(config), group, transactional_id
        self._leftovers = leftovers
        self._state_topics = state_topics

    def take(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Close what dead owners left open in `partitions` and their state, and return their committed offsets.

        A partition without a committed offset is returned with offset 0, where a group that starts over reads on.

        Raises:
            KafkaUnavailable: the cluster does not answer, or an open transaction does not end.
        """
        if not partitions:
            return []
        topics = self._state_topics
        states = [TopicPartition(topics[tp.topic], tp.partition) for tp in partitions if tp.topic in topics]
        places = [*partitions, *states]
        owners = {owner for tp in self._offsets(places, stable=False) if (owner := owner_in(tp))} - {self._own_id}
        for owner in sorted(owners - self._alive() if owners else owners):
            self.fence(owner)
            logger.info("%s is not in the group any more: its transactions are ended", owner)
        found = {(tp.topic, tp.partition): tp.offset for tp in self._offsets(places, stable=True)}
        offsets = [max(0, found[tp.topic, tp.partition]) for tp in partitions]
        return [TopicPartition(tp.topic, tp.partition, at) for tp, at in zip(partitions, offsets, strict=True)]

    def fence(self, owner: str) -> None:
        """End the transactions that a worker of this name left open; the broker refuses its producers from now on.

        Raises:
            KafkaUnavailable: the cluster does not answer, or refuses.
        """
        ids = (owner, state_writer_id(owner))
        self._repeated(f"fence of {', '.join(ids)}", lambda: self._leftovers.fence(ids))

    def _alive(self) -> set[str]:
        def members() -> set[str]:
            admin = AdminClient(self._config)  # an older one may go on asking a coordinator that it once knew
            described = admin.describe_consumer_groups([self._group], request_timeout=ASK_S_MAX)
            return {member.client_id for member in described[self._group].result().members}

        return self._repeated("list of members", members)

    def _offsets(self, partitions: Sequence[TopicPartition], *, stable: bool) -> list[TopicPartition]:
        def offsets() -> list[TopicPartition]:
            found = committed_offsets(self._config, self._group, partitions, stable=stable, seconds_max=ASK_S_MAX)
            for tp in found:
                if tp.error is not None:
                    raise KafkaException(tp.error)
            return found

        return self._repeated("stable committed offsets" if stable else "committed offsets", offsets)

    def _repeated(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer, the error is none that passes, or WORKER_ANSWER_S_MAX has."""
        deadline = time.monotonic() + WORKER_ANSWER_S_MAX
        while True:
            try:
                return ask()
            except KafkaException as exc:
                error: KafkaError = exc.args[0]
                if error.code() not in PASSING or time.monotonic() > deadline:
                    raise KafkaUnavailable(f"group {self._group}: no {what}: {error.str()}") from exc
            time.sleep(RETRY_PAUSE_S)


def as_metadata(owner: str) -> str:
    """Return what an offset committed outside of a transaction carries to tell its owner.

    librdkafka writes metadata with a NUL at its end, and reads past the end of what was written without one.
    """
    return f"{owner}\0"


def owner_in(committed: TopicPartition) -> str:
    """Return whose offset this is, "" where it says nothing that we wrote."""
    try:
        return committed.metadata or ""
    except UnicodeDecodeError:  # a foreign tool's, without a NUL at its end
        return ""


def state_writer_id(owner: str) -> str:
    """Return the transactional id under which a worker writes its state."""
    return f"{owner}-state"
