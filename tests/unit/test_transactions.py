"""Transactions, where the group has moved on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from faust.types import TP

from streams.transport import transactions
from streams.transport.group_member import GroupMember
from streams.transport.producer import Delivery, Outputs
from streams.transport.record_batch import RecordBatch
from streams.transport.transactions import TransactionalProducer

MEMBER = GroupMember("group", 1, "member", None)
PLACE = TP("transactions", 0)


class Sender:
    """librdkafka at a broker that knows a newer generation of the group."""

    def __init__(self, config: Any) -> None:
        self.client: Any = SimpleNamespace(
            init_transactions=lambda _: None,
            begin_transaction=lambda: None,
            abort_transaction=lambda _: None,
            send_offsets_to_transaction=self._refuse,
        )

    def partition_counts(self, topics: Any) -> dict[str, int]:
        return {}

    def send(self, outputs: Any) -> None:
        """Take them: they are never confirmed."""

    @staticmethod
    def _refuse(*_: Any) -> None:
        raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "on purpose", txn_requires_abort=True))


def test_nothing_commits_in_the_name_of_a_member_that_others_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a commit of its sees that none will come: a checkpoint must not keep a stop waiting."""
    monkeypatch.setattr(transactions, "OutputSender", Sender)

    async def main() -> None:
        async def claim(offsets: Any, metadata: str) -> bool:
            return True

        batch = RecordBatch(PLACE, 0, 1, [0], [b""], [b""], [0], [()], MEMBER.generation, 0.0)
        failures: list[Any] = []
        loop, abandoned = asyncio.get_running_loop(), asyncio.Event()
        ownership: Any = SimpleNamespace(take=lambda partitions: partitions)
        producer = TransactionalProducer({}, "id", ownership, 0.01, claim, failures.append, failures.append, loop)
        assert producer.member is None
        await producer.take_over([PLACE], MEMBER)
        assert producer.member == MEMBER
        task = asyncio.ensure_future(producer.run())
        producer.produce(
            Delivery(batch, [Outputs("out", [b""], [b""])], failures.append, abandoned.set, failures.append)
        )
        await asyncio.wait_for(abandoned.wait(), 5)
        assert producer.member is None and not failures
        task.cancel()

    asyncio.run(main())
