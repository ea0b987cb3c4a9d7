"""The transaction coordinator's requests of `streams.transport.ownership.coordinator`, before the simulated broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from streams.clients.connection import WORKER_ANSWER_S_MAX
from streams.errors import KafkaUnavailable
from streams.transport.ownership.coordinator import Fenced
from tests.simulation.broker import Place, Refused
from tests.simulation.clients import cluster
from tests.simulation.scheduler import current_process


class TransactionCoordinator:
    """In place of the TransactionCoordinator of `streams.transport.ownership`. The simulated broker ends what it has decided."""

    def __init__(self, servers: str, security: Mapping[str, Any]) -> None:
        self._process, self._broker = current_process(), cluster().broker

    def _ask(self, apply: Callable[[], Any]) -> Any:
        try:
            return self._broker.ask(self._process, apply, WORKER_ANSWER_S_MAX)
        except TimeoutError as exc:
            raise KafkaUnavailable(f"simulated: {exc!r}") from None

    def fence(self, ids: Sequence[str]) -> list[Fenced]:
        def fence(transactional_id: str) -> Fenced:
            to_commit = self._ask(lambda: self._broker.is_committing(transactional_id))
            epoch = self._ask(lambda: self._broker.init_producer(transactional_id, WORKER_ANSWER_S_MAX))
            return Fenced(transactional_id, 0, epoch, to_commit)

        return [fence(each) for each in ids]

    def end(self, fenced: Sequence[Fenced], partitions: Collection[Place], group: str | None) -> None:
        for each in fenced:
            id, epoch = each.transactional_id, each.producer_epoch
            try:
                for place in partitions:
                    self._ask(lambda place=place: self._broker.append_in_transaction(id, epoch, place, []))  # noqa: B023
                self._ask(lambda: self._broker.end_transaction(id, epoch, "commit" if each.to_commit else "abort"))  # noqa: B023
            except Refused:
                continue  # fenced by another worker
