"""Leftovers: transactions that the cluster holds for ended while partitions still wait for their end.

A Kafka broker that comes back from a crash ends the transactions that it coordinates, and passes over partitions that have
no leader at that moment: seen with 4.3 where it is the only broker, every time once a transaction has timed out meanwhile,
and one time in four where the crash met a commit. Readers of such a partition then wait for ever, its offsets stay
unstable, and the next commit of the same transactional id makes visible what was aborted: a decision twice. Where the
crash met a commit, some partitions may have their marker: the others get theirs then, and are not aborted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.clients.committed import committed_offsets
from streams.clients.log_reader import LogReader
from streams.transport.ownership.coordinator import TransactionCoordinator

logger = logging.getLogger(__name__)

OPEN_S = 0.1  # most transactions last a few milliseconds
UNSTABLE_S = 1.0  # to end what needs no end is harmless


class Leftovers:
    """What a group's workers write in transactions, to be looked through for what was never ended. Blocking.

    Args:
        config: connection settings of librdkafka.
        group: consumer group.
        written: topics of outputs and state.
        read: topics whose offsets the transactions commit.
        coordinator: knows how a transaction ended, and ends what hangs.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        group: str,
        written: Sequence[str],
        read: Sequence[str],
        coordinator: TransactionCoordinator,
    ) -> None:
        self._config, self._group, self._written, self._read = dict(config), group, written, read
        self._coordinator = coordinator

    def fence(self, ids: Sequence[str]) -> None:
        """Take transactional ids over from their producers, and end what hangs of them as it was to end.

        Open transactions of others look alike, and are not touched by it: a marker ends those of its own producer only.

        Raises:
            KafkaException: no answer about the offsets.
            KafkaUnavailable: the cluster does not answer, or refuses.
        """
        fenced = self._coordinator.fence(ids)
        with (
            closing(LogReader(self._config, self._group)) as stable_log,
            closing(LogReader(self._config, self._group, isolation="read_uncommitted")) as log,
        ):
            stopped = self._stopped(stable_log, log)
            if stopped:  # where it goes on, it was open, and is ended by its owner
                time.sleep(OPEN_S)
                later = self._stopped(stable_log, log)
                stopped = {place: at for place, at in stopped.items() if later.get(place) == at}
            unstable = self._unstable([TopicPartition(topic, n) for topic in self._read for n in log.partitions(topic)])
        if not stopped and not unstable:
            return
        self._coordinator.end(fenced, stopped.keys(), self._group if unstable else None)
        what = f"{len(stopped)} partitions{' and offsets' if unstable else ''}"
        logger.info("%s waited for the end of a transaction", what)

    def _stopped(self, stable_log: LogReader, log: LogReader) -> dict[tuple[str, int], int]:
        """Return where a read_committed reader gets no further in partitions that have more."""
        found: dict[tuple[str, int], int] = {}
        for topic in self._written:
            if partitions := log.partitions(topic):
                # In this order: the stable end, asked later, is behind only where something is open.
                ends = log.ends(topic, partitions)
                stable = stable_log.ends(topic, partitions)
                found |= {(topic, number): stable[number] for number in partitions if stable[number] < ends[number]}
        return found

    def _unstable(self, places: Sequence[TopicPartition]) -> bool:
        """Tell whether a committed offset of the group waits for the end of a transaction, or it is not known."""
        if places:
            try:
                committed_offsets(self._config, self._group, places, stable=True, seconds_max=UNSTABLE_S)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError._TIMED_OUT:
                    raise
                return True
        return False
