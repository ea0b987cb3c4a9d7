"""aiokafka's membership of the group, which ends, or waits for ever, without a word to the worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError

from streams.errors import KafkaUnavailable
from streams.transport.on_loop import ConsumerOnLoop


class Service:
    """A consumer that looks `looks` times, and what it crashed with."""

    def __init__(self, task: asyncio.Future[None], refused: Exception | None, looks: int = 3) -> None:
        coordinator = SimpleNamespace(_coordination_task=task, _pending_exception=refused)
        self._consumer, self._looks = SimpleNamespace(_coordinator=coordinator), looks
        self.crashes: list[BaseException] = []

    @property
    def should_stop(self) -> bool:
        return self._looks < 0 or bool(self.crashes)

    async def sleep(self, _: float) -> None:
        self._looks -= 1

    def _ensure_consumer(self) -> Any:
        return self._consumer

    async def crash(self, exc: BaseException) -> None:
        self.crashes.append(exc)


@pytest.mark.parametrize(
    ("ended", "refused", "said"),
    [
        (None, None, None),
        (None, GroupAuthorizationFailedError("limited"), "GroupAuthorizationFailedError"),
        (ValueError("on purpose"), None, "on purpose"),
    ],
    ids=["a member", "refused", "ended"],
)
def test_a_membership_that_ends_stops_the_worker(
    ended: Exception | None, refused: Exception | None, said: str | None
) -> None:
    """It would sit without partitions, and look well."""

    async def main() -> list[BaseException]:
        task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if ended is not None:
            task.set_exception(ended)
        service = Service(task, refused)
        await ConsumerOnLoop._thread_keepalive.fun(service)
        return service.crashes

    crashes = asyncio.run(main())
    assert [type(each) for each in crashes] == ([] if said is None else [KafkaUnavailable])
    assert said is None or said in str(crashes[0])
