"""TransactionCoordinator: how the last transaction of an id ended, and an end for what still waits for one.

Requests of Kafka's protocol that neither librdkafka nor aiokafka has a call for, sent by aiokafka's client: the outcome of
a transaction (DescribeTransactions, KIP-664), and a transaction without records, whose end is written wherever it is wanted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka.errors import (
    ConcurrentTransactions,
    IncompatibleBrokerVersion,
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    for_code,
)

from streams.clients.connection import WORKER_ANSWER_S_MAX
from streams.errors import KafkaUnavailable
from streams.transport.upstream import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    AIOKafkaClient,
    CompactArray,
    CompactString,
    CoordinationType,
    EndTxnRequest,
    InitProducerIdRequest,
    Int16,
    Int32,
    Int64,
    Request,
    RequestStruct,
    Response,
    Schema,
    TaggedFields,
)

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

REQUEST_S_MAX = 5.0  # one request, or the connection for it; made again while there is time
CONNECT_PAUSE_S = 0.5
RETRY_PAUSE_S = 0.05
CLOSE_S_MAX = 1.0
# A broker keeps the timeout with which a worker fenced an id, and forgets how the id's last transaction was to end. So this
# timeout says "to be committed" to the next worker, should we not come to it. No producer of ours has this timeout, and it is
# longer than all that we wait.
TO_COMMIT_MS = 59_999
TO_ABORT_MS = 5_000
OPERATION_NOT_ATTEMPTED = 55
TRANSACTIONAL_ID_NOT_FOUND = 105
COMMITTED = ("PrepareCommit", "CompleteCommit")
TEXT = CompactString("utf-8")


_TOPIC = (("topic", TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))
_STATE = (
    ("error_code", Int16),
    ("transactional_id", TEXT),
    ("state", TEXT),
    ("timeout_ms", Int32),
    ("began_at", Int64),
    ("producer_id", Int64),
    ("producer_epoch", Int16),
    ("topics", CompactArray(*_TOPIC)),
    ("tags", TaggedFields),
)


class DescribeTransactionsResponse(Response):
    """Version 0."""

    API_KEY, API_VERSION = 65, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "states",
            CompactArray(*_STATE),
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


@dataclass(frozen=True, slots=True)
class Fenced:
    """A transactional id that is ours now: the broker refuses its former producers."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    to_commit: bool  # its last transaction was to be committed


class TransactionCoordinator:
    """The cluster's, asked by a connection for each call. Blocking; not for a thread in which a loop runs.

    Args:
        servers: address of the cluster.
        security: arguments of aiokafka's client that tell how to connect.
    """

    def __init__(self, servers: str, security: Mapping[str, Any]) -> None:
        self._servers, self._security = servers, dict(security)
        self._refusal: KafkaError | None = None  # the last one of a call that may pass

    def fence(self, ids: Sequence[str]) -> list[Fenced]:
        """Take transactional ids over: their open transactions are aborted, their producers refused.

        A broker that cannot tell how a transaction was to end (before Kafka 3.0) leaves it to be aborted.

        Raises:
            KafkaUnavailable: no answer, or a refusal.
        """

        async def fence(client: AIOKafkaClient, transactional_id: str) -> Fenced:
            to_commit = await self._is_to_commit(client, transactional_id)
            timeout_ms = TO_COMMIT_MS if to_commit else TO_ABORT_MS
            ours = await self._send(client, transactional_id, InitProducerIdRequest(transactional_id, timeout_ms))
            return Fenced(transactional_id, ours.producer_id, ours.producer_epoch, to_commit)

        async def fence_all(client: AIOKafkaClient) -> list[Fenced]:
            return [await fence(client, each) for each in ids]

        return self._run(f"transactional ids {', '.join(ids)}: not fenced", fence_all)

    async def _is_to_commit(self, client: AIOKafkaClient, transactional_id: str) -> bool:
        while True:
            try:
                answer = await self._send(client, transactional_id, DescribeTransactionsRequest(transactional_id))
            except IncompatibleBrokerVersion:
                return False
            ((code, _, state, timeout_ms, *_),) = answer.states
            if code or timeout_ms != TO_COMMIT_MS:
                return code == 0 and state in COMMITTED
            if state != "Ongoing":
                return True  # the worker that fenced it before us may not have ended it
            await asyncio.sleep(RETRY_PAUSE_S)  # it is being ended: to fence it now would abort it

    def end(self, fenced: Sequence[Fenced], partitions: Collection[tuple[str, int]], group: str | None) -> None:
        """End what waits for it in `partitions` by transactions without records, committed or aborted as it was to be.

        An id that another worker has fenced meanwhile is left to that worker.

        Args:
            group: whose pending offsets of these ids end, too; None: no group's.

        Raises:
            KafkaUnavailable: no answer, or a refusal.
        """
        topics: dict[str, list[int]] = {}
        for topic, number in partitions:
            topics.setdefault(topic, []).append(number)

        async def end(client: AIOKafkaClient, each: Fenced) -> None:
            producer = (each.transactional_id, each.producer_id, each.producer_epoch)
            if topics:
                await self._send(client, each.transactional_id, AddPartitionsToTxnRequest(*producer, [*topics.items()]))
            if group is not None:
                await self._send(client, each.transactional_id, AddOffsetsToTxnRequest(*producer, group))
            await self._send(client, each.transactional_id, EndTxnRequest(*producer, each.to_commit))

        async def end_all(client: AIOKafkaClient) -> None:
            for each in fenced:
                try:
                    await end(client, each)
                except InvalidProducerEpoch:
                    logger.info("%s: fenced by another worker, which ends its last transaction", each.transactional_id)

        names = ", ".join(each.transactional_id for each in fenced)
        self._run(f"transactional ids {names}: what hangs of their last transactions was not ended", end_all)

    def _run(self, what: str, work: Callable[[AIOKafkaClient], Coroutine[Any, Any, Result]]) -> Result:
        async def connected() -> Result:
            client = AIOKafkaClient(
                bootstrap_servers=self._servers, request_timeout_ms=int(REQUEST_S_MAX * 1000), **self._security
            )
            try:
                await bootstrap(client)
                return await work(client)
            finally:
                with suppress(TimeoutError):  # TLS waits for a silent broker's farewell
                    await asyncio.wait_for(client.close(), CLOSE_S_MAX)

        self._refusal = None
        loop = asyncio.new_event_loop()  # not `asyncio.run`, which takes the main thread's loop away from Faust
        try:
            return loop.run_until_complete(asyncio.wait_for(connected(), WORKER_ANSWER_S_MAX))
        except KafkaError as exc:
            raise KafkaUnavailable(f"{what}: {exc}") from exc
        except TimeoutError as exc:
            raise KafkaUnavailable(
                f"{what} within {WORKER_ANSWER_S_MAX:.0f} s: {self._refusal or 'no broker answers'}"
            ) from exc
        finally:
            loop.close()

    async def _send(self, client: AIOKafkaClient, transactional_id: str, request: Any) -> Any:
        """Return the answer of the id's coordinator, asked until it is no error that passes."""
        while True:
            try:
                node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
                answer = await client.send(node, request)
                if code := refusal(answer):
                    raise for_code(code)()
            except ConcurrentTransactions as exc:  # the end of the last one is being written
                self._refusal = exc
            except KafkaError as exc:
                if not exc.retriable:
                    raise
                self._refusal = exc
                await client.force_metadata_update()
            else:
                return answer
            await asyncio.sleep(RETRY_PAUSE_S)


async def bootstrap(client: AIOKafkaClient) -> None:
    """Wait for the first contact: brokers may still be starting."""
    while True:
        try:
            await client.bootstrap()
            if client.cluster.brokers():
                return
        except KafkaConnectionError:
            pass  # told by aiokafka's log
        await asyncio.sleep(CONNECT_PAUSE_S)


def refusal(answer: Any) -> int:
    """Return the error code of an answer, 0 for none; an id without a producer is none."""
    if isinstance(answer, DescribeTransactionsResponse):
        codes = [code for code, *_ in answer.states if code != TRANSACTIONAL_ID_NOT_FOUND]
    elif hasattr(answer, "errors"):
        codes = [code for _, partitions in answer.errors for _, code in partitions]
    else:
        codes = [answer.error_code]
    found = [code for code in codes if code]
    return next((code for code in found if code != OPERATION_NOT_ATTEMPTED), found[0] if found else 0)
