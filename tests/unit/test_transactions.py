"""Transactions, where the group has moved on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from faust.types import TP

from streams.clients import hang_watch
from streams.errors import ClientHangs
from streams.transport.outputs import transactions
from streams.transport.outputs.producer import Delivery, Outputs
from streams.transport.outputs.transactions import TransactionalProducer
from streams.transport.ownership.group_member import GroupMember
from streams.transport.record_batch import RecordBatch

MEMBER = GroupMember("group", 1, "member", None)
PLACE = TP("transactions", 0)


class Sender:
    """librdkafka at a broker that knows a newer generation of the group."""

    def __init__(self, config: Any) -> None:
        self.client: Any = SimpleNamespace(
            init_transactions=lambda _: None,
            begin_transaction=lambda: None,
            abort_transaction=lambda _: None,
            send_offsets_to_transaction=self.add_offsets,
        )

    def partition_counts(self, topics: Any) -> dict[str, int]:
        return {}

    def send(self, outputs: Any) -> None:
        """Take them: they are never confirmed."""

    @staticmethod
    def add_offsets(*_: Any) -> None:
        raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "on purpose", txn_requires_abort=True))


@asynccontextmanager
async def producing() -> AsyncIterator[tuple[TransactionalProducer, list[Any], asyncio.Event]]:
    """Give a producer that has begun to commit one delivery, what was reported besides, and whether it was abandoned."""

    async def claim(offsets: Any, metadata: str) -> bool:
        return True

    failures: list[Any] = []
    loop, abandoned = asyncio.get_running_loop(), asyncio.Event()
    ownership: Any = SimpleNamespace(take=lambda partitions: partitions)
    producer = TransactionalProducer({}, "id", ownership, 0.01, claim, failures.append, failures.append, loop)
    assert producer.member is None
    await producer.take_over([PLACE], MEMBER)
    assert producer.member == MEMBER
    task = asyncio.ensure_future(producer.run())
    batch = RecordBatch(PLACE, 0, 1, [0], [b""], [b""], [0], [()], MEMBER.generation, 0.0)
    producer.produce(Delivery(batch, [Outputs("out", [b""], [b""])], failures.append, abandoned.set, failures.append))
    yield producer, failures, abandoned
    task.cancel()


def test_nothing_commits_in_the_name_of_a_member_that_others_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that waits for its commit learns that none will come: a checkpoint must not keep a stop waiting."""
    monkeypatch.setattr(transactions, "OutputSender", Sender)

    async def main() -> None:
        async with producing() as (producer, failures, abandoned):
            await asyncio.wait_for(abandoned.wait(), 5)
            assert producer.member is None and not failures

    asyncio.run(main())


def test_a_call_that_hangs_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka waits for ever for an answer that was lost with its connection."""
    answer = threading.Event()
    monkeypatch.setattr(transactions, "OutputSender", Sender)
    monkeypatch.setattr(Sender, "add_offsets", lambda *_: answer.wait(10))
    monkeypatch.setattr(transactions, "HUNG_S", 0.1)
    monkeypatch.setattr(transactions, "LOOK_S", 0.05)
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.05)

    async def main() -> None:
        began = time.monotonic()
        async with producing() as (_, failures, _):
            while not failures:
                await asyncio.sleep(0.02)
            assert 0.1 < time.monotonic() - began < 5
            assert isinstance(failures[0], ClientHangs)
            answer.set()

    asyncio.run(main())
