"""Upstream: every private name of aiokafka, Faust and mode that streams uses, and why no public one will do.

Read for aiokafka 0.14.0, faust-streaming 0.15.3 and mode-streaming 0.7.1; an entry of another version names it. These names
may change in any release, so pyproject.toml bounds each library below its next minor version. On an upgrade: move the bounds,
run tests/contract/test_upstream.py, read the changes of each name that fails, then run the profiles `trial` and `simulation`
(tests/README.md).

Other modules import from these libraries only what `PUBLIC_MODULES` lists. A function here costs a call, so none runs for
each record: the most frequent ones run for each log batch of a fetch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.consumer import fetcher as fetching
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from faust.tables import TableManager
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from mode.services import Service
from mode.utils.futures import maybe_async

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

# What other modules of streams may import directly: documented, and stable between minor versions.
PUBLIC_MODULES = ("aiokafka", "aiokafka.errors", "aiokafka.structs", "faust", "faust.types", "faust.cli.faust")

# Names of modules that the libraries document nowhere, or as their own inner parts.
__all__ = [
    "INHERITED",
    "PUBLIC_MODULES",
    "TRANSPORTS",  # Faust finds drivers by installed entry points only; a checkout has to add its own
    "AIOKafkaClient",  # sends any request to any broker; the public clients offer only fixed calls
    "AddOffsetsToTxnRequest",  # no client sends a transaction without records
    "AddPartitionsToTxnRequest",  # the same
    "CompactArray",  # field types: aiokafka declares no DescribeTransactions request
    "CompactString",
    "CoordinationType",  # coordinator_lookup takes it
    "DriverConsumer",
    "DriverProducer",
    "DriverService",
    "DriverTransport",
    "EndTxnRequest",  # no client sends a transaction without records
    "FetchResult",
    "Fetcher",
    "Inherited",
    "InitProducerIdRequest",  # a public producer fences one id and tells neither its id nor its epoch
    "Int16",
    "Int32",
    "Int64",
    "MemoryRecords",
    "PythonRecordBatch",
    "Request",
    "RequestStruct",
    "Response",
    "Schema",
    "Service",  # mode's own module of it; `task` must be the one that the driver's services use
    "TableManager",  # `App(TableManager=...)` is public, the class to derive from is not
    "TaggedFields",
    "maybe_async",  # awaits what may be a plain value, as the driver's `call_thread` does
]

DriverConsumer = driver.Consumer  # Faust's consumer over aiokafka; `Transport.Consumer` is the only way to replace it
DriverProducer = driver.Producer  # Faust's producer over aiokafka; no setting makes it idempotent
DriverService = driver.AIOKafkaConsumerThread  # owns aiokafka's consumer; Faust has no setting to run it on the loop
DriverTransport = driver.Transport  # names the two; what a driver has to offer is documented nowhere
Fetcher = fetching.Fetcher  # asks brokers and holds their answers; for annotations
FetchResult = fetching.FetchResult  # one partition's share of a fetch; the public calls unpack it record by record
PythonRecordBatch = _DefaultRecordBatchPy  # reader of log batches in Python; the reader in C cannot be made lenient
driver_logger = driver.logger  # Faust demands a logger of each service class


@dataclass(frozen=True, slots=True)
class Inherited:
    """A name that a class of streams overrides or uses as its own, because a base class of a library has it.

    Attributes:
        of: the library's class.
        name: as it stands there.
        parameters: of the method, `self` included, as streams calls or declares it; None for an attribute.
        reason: why the public names do not suffice.
    """

    of: type
    name: str
    parameters: tuple[str, ...] | None
    reason: str


INHERITED = (
    Inherited(DriverConsumer, "_new_consumer_thread", ("self",), "names the service, which no setting does"),
    Inherited(
        DriverConsumer,
        "_getmany",
        ("self", "active_partitions", "timeout"),
        "getmany unpacks each record before it is asked",
    ),
    Inherited(
        DriverConsumer, "_to_message", ("self", "tp", "record"), "one message a fetch; the only place that makes them"
    ),
    Inherited(DriverConsumer, "_add_gap", ("self", "tp", "offset_from", "offset_to"), "gaps belong to OffsetTracker"),
    Inherited(
        DriverConsumer, "_commit_tps", ("self", "tps", "start_new_transaction"), "commits note the broker's answer"
    ),
    Inherited(DriverConsumer, "_commit", ("self", "offsets"), "commits what is given; `commit` decides by itself"),
    Inherited(DriverConsumer, "_filter_tps_with_pending_acks", ("self", "topics"), "OffsetTracker knows what is due"),
    Inherited(DriverConsumer, "_filter_committable_offsets", ("self", "tps"), "asks `_new_offset` of each partition"),
    Inherited(DriverConsumer, "_new_offset", ("self", "tp"), "the offset to commit is OffsetTracker's"),
    Inherited(
        DriverConsumer, "_should_commit", ("self", "tp", "offset"), "upstream refuses an offset set back by a seek"
    ),
    Inherited(
        DriverConsumer, "_handle_attached", ("self", "commit_offsets"), "publishes what ordinary messages wait with"
    ),
    Inherited(DriverConsumer, "_is_changelog_tp", ("self", "tp"), "changelogs resume at once, sources later"),
    Inherited(DriverConsumer, "_clean_unacked_messages", ("self",), "`wait_empty` calls it; the bound in time is ours"),
    Inherited(DriverConsumer, "_unacked_messages", None, "what `wait_empty` waits for"),
    Inherited(DriverConsumer, "_acked", None, "offsets that Faust's streams acknowledge, compiled ones too"),
    Inherited(DriverConsumer, "_acked_index", None, "the same, as sets"),
    Inherited(DriverConsumer, "_committed_offset", None, "shown in Faust's monitor; written by `_commit_tps` only"),
    Inherited(DriverConsumer, "_read_offset", None, "upstream's contiguity check, which is OffsetTracker's here"),
    Inherited(DriverConsumer, "_paused_partitions", None, "tells that a rebalance has begun during a fetch"),
    Inherited(DriverConsumer, "_thread", None, "the service that `_new_consumer_thread` made"),
    Inherited(
        DriverService,
        "_create_worker_consumer",
        ("self", "transport"),
        "isolation and fetch wait of aiokafka's consumer have no setting in Faust",
    ),
    Inherited(
        DriverService,
        "_fetch_records",
        ("self", "consumer", "active_partitions", "timeout", "max_records"),
        "the only place that reads aiokafka's fetches",
    ),
    Inherited(
        DriverService, "_thread_keepalive", ("self",), "a thread's loop is kept busy; here it watches the membership"
    ),
    Inherited(DriverService, "_default_start", ("self",), "`start` of a service without its thread"),
    Inherited(DriverService, "_default_stop_children", ("self",), "`stop` of a service without its thread"),
    Inherited(DriverService, "_default_stop_futures", ("self",), "the same"),
    Inherited(DriverService, "_default_stop_exit_stacks", ("self",), "the same"),
    Inherited(DriverService, "_consumer", None, "aiokafka's consumer, None before the start"),
    Inherited(DriverService, "_started", None, "an Event; `started` tells of running, not of having begun"),
    Inherited(DriverService, "_stopped", None, "an Event to set; `stop` would wait for a thread"),
    Inherited(DriverService, "_thread_started", None, "an Event that callers of `start` wait for"),
    Inherited(
        DriverProducer, "_settings_extra", ("self",), "arguments of aiokafka's producer that Faust has no setting for"
    ),
    Inherited(PythonRecordBatch, "_maybe_uncompress", ("self",), "the moment when the bytes to read are known"),
    Inherited(PythonRecordBatch, "_buffer", None, "these bytes, a bytearray"),
    Inherited(TableManager, "_update_channels", ("self",), "`on_start` without its pause of a second"),
)


# ---- Faust


def channels_of(app: Any, topic: str) -> Iterable[Any]:
    """Return the channels of a topic (`Conductor._topic_name_index`); the public conductor is a set of all channels."""
    found: Iterable[Any] = app.topics._topic_name_index.get(topic) or ()
    return found


def consumer_of(service: Any) -> AIOKafkaConsumer:
    """Return aiokafka's consumer of a started service (`_ensure_consumer`), which Faust hides behind fixed calls."""
    return service._ensure_consumer()


def created_consumer(create: Callable[[Any], Any], transport: Any, records: type, wait_ms_max: int) -> AIOKafkaConsumer:
    """Have the driver create aiokafka's consumer, for committed records of a class of ours.

    `_isolation_level` and `_fetch_max_wait_ms`: arguments of aiokafka's constructor that the driver fixes; its `start` reads
    them. `fetcher.MemoryRecords`: the class that a fetch's bytes become; it has no argument.
    """
    fetching.MemoryRecords = records
    consumer = create(transport)
    consumer._isolation_level = "read_committed"
    consumer._fetch_max_wait_ms = wait_ms_max
    return consumer


# ---- aiokafka: membership of the group


def coordinator_of(service: Any) -> Any:
    """Return the group coordinator of a started service; aiokafka shows neither generation nor member id elsewhere.

    Its `generation`, `member_id` and `group_id` are attributes without underscore of an object without documentation.
    """
    return consumer_of(service)._coordinator


def membership_of(coordinator: Any) -> tuple[asyncio.Future[None], BaseException | None]:
    """Return the task that keeps the membership and the error that waits for a caller; no public call tells without raising."""
    return coordinator._coordination_task, coordinator._pending_exception


async def leave_group(coordinator: Any) -> None:
    """Send LeaveGroup (`_send_req`) for a static member, too, which aiokafka never does.

    Raises:
        KafkaError: the coordinator is not known or does not answer.
    """
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))


def wrap_committed_offsets(
    coordinator: Any, before: Callable[[], Awaitable[object]], after: Callable[[Mapping[Any, Any]], None]
) -> None:
    """Wait for `before` ahead of each read of committed offsets, and tell `after` what was found; there is no hook for it."""
    fetch_committed = coordinator.fetch_committed_offsets

    async def fetch_committed_offsets(partitions: Any) -> Any:
        await before()
        found = await fetch_committed(partitions)
        after(found)
        return found

    coordinator.fetch_committed_offsets = fetch_committed_offsets


# ---- aiokafka: fetches. The public `getmany` unpacks each record, and cannot change how long a broker collects.


def fetcher_of(consumer: AIOKafkaConsumer) -> fetching.Fetcher:
    """Return what sends the fetches and holds their answers (`_fetcher`)."""
    return consumer._fetcher


def is_closed(consumer: AIOKafkaConsumer) -> bool:
    """Tell whether a consumer or its fetcher has been closed (`_closed`)."""
    return bool(consumer._closed or consumer._fetcher._closed)


def is_fetcher_closed(fetcher: fetching.Fetcher) -> bool:
    """Tell whether a fetcher has been closed (`_closed`)."""
    return bool(fetcher._closed)


def subscriptions_of(fetcher: fetching.Fetcher) -> Any:
    """Return the subscription state (`_subscriptions`), which knows of reassignments and runs `fetch_context`."""
    return fetcher._subscriptions


def fetched_of(fetcher: fetching.Fetcher) -> dict[Any, Any]:
    """Return what was fetched and not taken (`_records`): a FetchResult or FetchError of each partition, oldest first."""
    found: dict[Any, Any] = fetcher._records
    return found


def took(fetcher: fetching.Fetcher) -> None:
    """Have the fetcher go on, once a partition's share was taken out (`_wait_consume_future`)."""
    fetcher._notify(fetcher._wait_consume_future)


def fetch_waiter(fetcher: fetching.Fetcher) -> asyncio.Future[None]:
    """Return a future that ends with the next answer (`_create_fetch_waiter`)."""
    waiter: asyncio.Future[None] = fetcher._create_fetch_waiter()
    return waiter


def ask_of(fetcher: fetching.Fetcher, bytes_min: int, wait_ms_max: int) -> None:
    """Set what later fetches ask of the broker (`_fetch_min_bytes`, `_fetch_max_wait_ms`); aiokafka sets them once."""
    fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = bytes_min, wait_ms_max


def source_of(result: fetching.FetchResult) -> fetching.PartitionRecords:
    """Return the records of a fetch result (`_partition_records`); `next_fetch_offset` of it is read and set."""
    return result._partition_records


def close_result(result: fetching.FetchResult) -> None:
    """Move the partition's position to `next_fetch_offset` of the records, and empty the result."""
    result._update_position()
    result._partition_records = None


def unpacked(source: fetching.PartitionRecords, place: str) -> Iterator[tuple[int, Iterable[Any]]]:
    """Yield of each log batch the position behind it and its records: none for control batches and aborted transactions.

    The counterpart of `PartitionRecords._unpack_records`, which goes record by record; it uses `_records` (ours, see
    `created_consumer`), `_check_crcs`, `_isolation_level`, `_consume_aborted_up_to`, `_contains_abort_marker` and
    `_aborted_producers` of the same object.

    Raises:
        CorruptRecordException: a batch is damaged; `place` says of which partition.
    """
    records, committed_only = source._records, source._isolation_level == fetching.READ_COMMITTED
    while records.has_next():
        batch = records.next_batch()
        if source._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"{place}@{batch.base_offset}: invalid CRC")
        aborted = False
        if committed_only and batch.producer_id is not None:
            source._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and source._contains_abort_marker(batch):
                source._aborted_producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in source._aborted_producers
        yield batch.next_offset, () if aborted or batch.is_control_batch else records.present()
