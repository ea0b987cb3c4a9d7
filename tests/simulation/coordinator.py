"""The transaction coordinator's requests of `streams.transport.coordinator`, before the simulated broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from streams.errors import KafkaUnavailable
from streams.transport.coordinator import ANSWER_S_MAX
from tests.simulation.broker import Place, Refused
from tests.simulation.clients import cluster
from tests.simulation.scheduler import current_process


class TransactionCoordinator:
    """In place of `streams.transport.coordinator.TransactionCoordinator`. The simulated broker ends what it has decided."""

    def __init__(self, servers: str, security: Mapping[str, Any]) -> None:
        self._process, self._broker = current_process(), cluster().broker

    def _ask(self, apply: Callable[[], Any]) -> Any:
        try:
            return self._broker.ask(self._process, apply, ANSWER_S_MAX)
        except (TimeoutError, Refused) as exc:
            raise KafkaUnavailable(f"simulated: {exc!r}") from None

    def committed(self, ids: Sequence[str]) -> frozenset[str]:
        found: frozenset[str] = self._ask(lambda: self._broker.committing(ids))
        return found

    def end(self, transactional_id: str, partitions: Collection[Place], group: str | None, commit: bool) -> None:
        epoch = self._ask(lambda: self._broker.init_producer(transactional_id, ANSWER_S_MAX))
        for place in partitions:
            self._ask(lambda place=place: self._broker.append_in_transaction(transactional_id, epoch, place, []))
        result = "commit" if commit else "abort"
        self._ask(lambda: self._broker.end_transaction(transactional_id, epoch, result))
