"""TransactionCoordinator: how the last transaction of an id ended, and an end for what still waits for one.

Requests of Kafka's protocol that neither librdkafka nor aiokafka has a call for, sent by aiokafka's client: the outcome of
a transaction (DescribeTransactions, KIP-664), and a transaction without records, whose end is written wherever it is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from streams.errors import KafkaUnavailable

Result = TypeVar("Result")

ANSWER_S_MAX = 30.0
REQUEST_S_MAX = 5.0  # one request, or the connection for it; made again while there is time
CONNECT_PAUSE_S = 0.5
RETRY_PAUSE_S = 0.05
TIMEOUT_MS = 5_000  # of the transaction: whoever dies in it leaves it open for others to wait for
TRANSACTIONAL_ID_NOT_FOUND = 105
COMMITTED = ("PrepareCommit", "CompleteCommit")
TEXT = CompactString("utf-8")


class DescribeTransactionsResponse(Response):
    """Version 0."""

    API_KEY, API_VERSION = 65, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", TEXT),
                ("state", TEXT),
                ("timeout_ms", Int32),
                ("began_at", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(("topic", TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsRequestV0(RequestStruct):
    """Version 0, of Kafka 3.0."""

    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION, RESPONSE_TYPE = 65, 0, DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(TEXT)), ("tags", TaggedFields))


class DescribeTransactionsRequest(Request[DescribeTransactionsRequestV0]):
    """Asks for the state of one transactional id."""

    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._id = transactional_id

    def build(self, request_struct_class: type[DescribeTransactionsRequestV0]) -> DescribeTransactionsRequestV0:
        return request_struct_class([self._id], {})


class TransactionCoordinator:
    """The cluster's, asked by a connection for each call. Blocking; not for a thread in which a loop runs.

    Args:
        security: arguments of aiokafka's client that tell how to connect.
        servers: address of the cluster.
    """

    def __init__(self, servers: str, security: Mapping[str, Any]) -> None:
        self._servers, self._security = servers, dict(security)
        self._refusal: KafkaError | None = None  # the last that may pass

    def committed(self, ids: Sequence[str]) -> frozenset[str]:
        """Return the transactional ids whose last transaction was committed, as long as no new producer has begun.

        A broker that cannot tell (before Kafka 3.0) names none.

        Raises:
            KafkaUnavailable: no answer.
        """

        async def ask(client: AIOKafkaClient) -> frozenset[str]:
            try:
                answers = [await self._send(client, each, DescribeTransactionsRequest(each)) for each in ids]
            except IncompatibleBrokerVersion:
                return frozenset()
            states = [state for answer in answers for state in answer.states]
            return frozenset(each for code, each, state, *_ in states if code == 0 and state in COMMITTED)

        return self._run(f"transactional ids {', '.join(ids)}: no state", ask)

    def end(
        self, transactional_id: str, partitions: Collection[tuple[str, int]], group: str | None, commit: bool
    ) -> None:
        """Commit or abort a transaction without records in `partitions`, and what of this id waits there for an end.

        Former producers of the id are fenced.

        Args:
            group: whose pending offsets of this id end, too; None: no group's.

        Raises:
            KafkaUnavailable: no answer, or a refusal.
        """

        async def end(client: AIOKafkaClient) -> None:
            topics: dict[str, list[int]] = {}
            for topic, number in partitions:
                topics.setdefault(topic, []).append(number)
            begun = await self._send(client, transactional_id, InitProducerIdRequest(transactional_id, TIMEOUT_MS))
            producer = (transactional_id, begun.producer_id, begun.producer_epoch)
            if topics:
                await self._send(client, transactional_id, AddPartitionsToTxnRequest(*producer, list(topics.items())))
            if group is not None:
                await self._send(client, transactional_id, AddOffsetsToTxnRequest(*producer, group))
            await self._send(client, transactional_id, EndTxnRequest(*producer, commit))

        self._run(f"transactional id {transactional_id}: its last transaction was not ended", end)

    def _run(self, what: str, work: Callable[[AIOKafkaClient], Coroutine[Any, Any, Result]]) -> Result:
        async def connected() -> Result:
            client = AIOKafkaClient(
                bootstrap_servers=self._servers, request_timeout_ms=int(REQUEST_S_MAX * 1000), **self._security
            )
            try:
                await bootstrap(client)
                return await work(client)
            finally:
                await client.close()

        loop = asyncio.new_event_loop()  # not `asyncio.run`, which takes the main thread's loop away from Faust
        try:
            return loop.run_until_complete(asyncio.wait_for(connected(), ANSWER_S_MAX))
        except KafkaError as exc:
            raise KafkaUnavailable(f"{what}: {exc}") from exc
        except TimeoutError as exc:
            raise KafkaUnavailable(
                f"{what} within {ANSWER_S_MAX:.0f} s: {self._refusal or 'no broker answers'}"
            ) from exc
        finally:
            loop.close()

    async def _send(self, client: AIOKafkaClient, transactional_id: str, request: Any) -> Any:
        """Return the answer of the id's coordinator, asked until it is no error that passes."""
        while True:
            try:
                node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
                answer = await client.send(node, request)
                for code in filter(None, codes(answer)):
                    raise for_code(code)()
            except KafkaError as exc:
                if not (exc.retriable or isinstance(exc, ConcurrentTransactions)):
                    raise
                self._refusal = exc
                await client.force_metadata_update()
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                return answer


async def bootstrap(client: AIOKafkaClient) -> None:
    """Wait for the first contact: brokers may still be starting."""
    while True:
        try:
            await client.bootstrap()
            return
        except KafkaConnectionError:  # told by aiokafka's log
            await asyncio.sleep(CONNECT_PAUSE_S)


def codes(answer: Any) -> list[int]:
    """Return the error codes in an answer; an id that nobody has used is none."""
    if isinstance(answer, DescribeTransactionsResponse):
        return [code for code, *_ in answer.states if code != TRANSACTIONAL_ID_NOT_FOUND]
    if hasattr(answer, "errors"):
        return [code for _, partitions in answer.errors for _, code in partitions]
    return [answer.error_code]
