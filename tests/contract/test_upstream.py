"""What streams takes of the private parts of aiokafka, Faust and mode is there as it was read, and stands in one module."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher as fetching
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.transport import upstream
from streams.transport.fetched_records import FetchedRecords
from streams.transport.upstream import INHERITED, PUBLIC_MODULES, Inherited

ROOT = Path(__file__).parents[2]
FILES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "streams").rglob("*.py"))}
UPSTREAM = ROOT / "streams/transport/upstream.py"
LIBRARIES = ("aiokafka", "faust", "mode")
READ = {"aiokafka": "0.14.", "faust-streaming": "0.15.", "mode-streaming": "0.7."}
NOWHERE = "127.0.0.1:1"


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def documented(node: ast.Attribute) -> bool:
    """Tell whether a name with an underscore is public all the same: librdkafka's own error codes, and os._exit."""
    where = ast.unparse(node.value)
    return (where == "KafkaError" and node.attr.isupper()) or (where, node.attr) == ("os", "_exit")


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Yield each use of a private name of something else than self, cls or a base class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and not documented(node):
            if ast.unparse(node.value) not in ("self", "cls", "super()"):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if private(alias.name):
                    yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            for each in node.args[1:2]:
                if isinstance(each, ast.Constant) and private(str(each.value)):
                    yield f"{node.lineno}: {ast.unparse(node)}"


def library_imports(tree: ast.AST) -> Iterator[str]:
    """Yield each module of the three libraries that is imported."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name for name in names if name.partition(".")[0] in LIBRARIES)


def test_no_other_module_touches_private_names_of_others() -> None:
    """A new private use stands in upstream.py, with its reason."""
    found = {
        f"{path.relative_to(ROOT)}:{use}"
        for path, tree in FILES.items()
        if path != UPSTREAM
        for use in private_uses(tree)
    }
    assert not found


@pytest.mark.parametrize(
    "code", ["a = consumer._fetcher", "self.x._y = 1", "from m import _y", "getattr(a, '_y')", "f()._y()"]
)
def test_a_private_use_is_seen(code: str) -> None:
    """The test above looks at what it says it looks at."""
    assert list(private_uses(ast.parse(code)))
    assert not list(private_uses(ast.parse("self._y = cls._z + super()._w() + KafkaError._STATE")))


def test_other_modules_import_the_public_modules_only() -> None:
    """Undocumented modules of the libraries are private, too."""
    found = {
        (str(path.relative_to(ROOT)), name)
        for path, tree in FILES.items()
        if path != UPSTREAM
        for name in library_imports(tree)
        if name not in PUBLIC_MODULES
    }
    assert not found


def library_classes(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]


def derived() -> Iterator[tuple[type, ast.ClassDef]]:
    """Yield the classes of streams that have a base class of the libraries."""
    for path, tree in FILES.items():
        if path != UPSTREAM and (set(library_imports(tree)) or "upstream" in path.read_text()):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and library_classes(cls := getattr(module, node.name)):
                    yield cls, node


def has(base: type, name: str) -> bool:
    """Tell whether a library's class defines a name, or sets an attribute of it."""
    return name in vars(base) or name in base.__annotations__ or sets(base, name)


@cache
def source(base: type) -> str:
    return inspect.getsource(base)


def sets(base: type, name: str) -> bool:
    return re.search(rf"self\.{name}\b(: [^=\n]+)? = ", source(base)) is not None


def inherited_uses() -> set[tuple[str, str]]:
    """Return (class of streams, private name that a base class of the libraries has)."""
    found = set()
    for cls, node in derived():
        names = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
        names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)
                  and ast.unparse(each.value) in ("self", "cls", "super()")}  # fmt: skip
        # The class statement of a generated Struct has no source of its own.
        bases = [base for base in library_classes(cls) if "__annotations__" in dir(base)]
        found |= {(cls, name) for name in names if private(name) and any(has(base, name) for base in bases)}
    return {(cls, name) for cls, name in found}


def test_inherited_names_are_those_of_the_table() -> None:
    """Whatever a class of streams overrides or uses of a library's class is in the table, and the table has no more."""
    uses = inherited_uses()
    table = {(each.of, each.name) for each in INHERITED}
    missing = {(cls.__name__, name) for cls, name in uses if not any((b, name) in table for b in cls.__mro__)}
    assert not missing
    unused = {(of.__name__, name) for of, name in table if not any(issubclass(c, of) and n == name for c, n in uses)}
    assert not unused


@pytest.mark.parametrize("each", INHERITED, ids=lambda each: f"{each.of.__name__}.{each.name}")
def test_inherited_name_is_there_as_it_was_read(each: Inherited) -> None:
    """A method with these parameters, or an attribute that the library sets."""
    if each.parameters is None:
        assert any(sets(base, each.name) or each.name in vars(base) for base in library_classes(each.of))
        return
    method = getattr(each.of, each.name)
    method = getattr(method, "fun", method)  # a task of a service
    assert tuple(inspect.signature(method).parameters) == each.parameters


def test_versions_are_those_that_were_read() -> None:
    """The head of upstream.py says what to do with another one."""
    installed = {name: metadata.version(name) for name in READ}
    assert {name for name, version in installed.items() if not version.startswith(READ[name])} == set()
    assert all(version in str(upstream.__doc__) for version in installed.values())


# ---- real objects, without a broker


def on_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_consumer_and_its_service_have_what_is_used() -> None:
    """Faust's consumer, its channels, and aiokafka's consumer as the driver makes it."""

    async def main() -> None:
        app = faust.App("contract", broker=f"kafka://{NOWHERE}")
        consumer: Any = upstream.DriverConsumer(
            app.transport,
            callback=app.topics.on_message,
            on_partitions_revoked=app.on_partitions_revoked,
            on_partitions_assigned=app.on_partitions_assigned,
            loop=app.loop,
        )
        for name, kind in {
            "_acked": dict,
            "_acked_index": dict,
            "_committed_offset": dict,
            "_read_offset": dict,
        }.items():
            assert isinstance(getattr(consumer, name), kind), name
        assert isinstance(consumer._paused_partitions, set)
        assert not consumer._unacked_messages
        service = consumer._thread
        assert isinstance(service, upstream.DriverService) and service._consumer is None
        assert not any(getattr(service, n).is_set() for n in ("_started", "_stopped", "_thread_started"))
        topic = app.topic("topic")
        app.topics._topic_name_index["topic"] = {topic}
        assert list(upstream.channels_of(app, "topic")) == [topic] and not list(upstream.channels_of(app, "other"))
        original = fetching.MemoryRecords
        try:
            made = upstream.created_consumer(service._create_worker_consumer, app.transport, FetchedRecords, 123)
            assert fetching.MemoryRecords is FetchedRecords and isinstance(made, AIOKafkaConsumer)
            assert (made._isolation_level, made._fetch_max_wait_ms) == ("read_committed", 123)
        finally:
            fetching.MemoryRecords = original
        service._consumer = made
        assert upstream.consumer_of(service) is made
        made._coordinator = marker = object()
        assert upstream.coordinator_of(service) is marker
        made._coordinator = None
        # `start` hands both settings on, and makes the records of the class that stands in the module.
        assert "isolation_level=self._isolation_level" in inspect.getsource(AIOKafkaConsumer.start)
        assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in inspect.getsource(AIOKafkaConsumer.start)
        assert "MemoryRecords(" in inspect.getsource(fetching.Fetcher)

    on_loop(main)


def test_group_coordinator_has_what_is_used() -> None:
    """Its task, its pending error, its requests, and a read of committed offsets that can be wrapped."""

    async def main() -> None:
        coordinator = GroupCoordinator(AIOKafkaClient(bootstrap_servers=NOWHERE), SubscriptionState(), group_id="group")
        task, refused = upstream.membership_of(coordinator)
        assert isinstance(task, asyncio.Task) and not task.done() and refused is None
        assert (coordinator.generation, coordinator.member_id, coordinator.group_id) == (-1, "", "group")
        sent: list[Any] = []

        async def send(request: Any) -> None:
            sent.append(request)

        assert tuple(inspect.signature(coordinator._send_req).parameters) == ("request",)
        coordinator._send_req = send
        await upstream.leave_group(coordinator)
        assert isinstance(sent[0], upstream.LeaveGroupRequest)
        told: list[Any] = []

        async def before() -> None:
            told.append("before")

        upstream.wrap_committed_offsets(coordinator, before, told.append)
        assert await coordinator.fetch_committed_offsets([]) == {} and told == ["before", {}]
        # What Faust seeks to is read this way.
        assert "_coordinator.fetch_committed_offsets(" in inspect.getsource(AIOKafkaConsumer.committed)
        task.cancel()
        await asyncio.wait([task])

    on_loop(main)


def test_fetcher_has_what_is_used() -> None:
    """What was fetched, who waits for it, and what it asks of brokers next."""

    async def main() -> None:
        client, subscriptions = AIOKafkaClient(bootstrap_servers=NOWHERE), SubscriptionState()
        fetcher: Any = fetching.Fetcher(client, subscriptions)
        consumer: Any = AIOKafkaConsumer(bootstrap_servers=NOWHERE)
        consumer._fetcher = fetcher
        assert upstream.fetcher_of(consumer) is fetcher and not upstream.is_closed(consumer)
        assert upstream.subscriptions_of(fetcher) is subscriptions
        with subscriptions.fetch_context():
            assert subscriptions.reassignment_in_progress is True or subscriptions.reassignment_in_progress is False
        assert not subscriptions.is_assigned(TopicPartition("topic", 0)) and callable(subscriptions.wait_for_assignment)
        assert upstream.fetched_of(fetcher) == {}
        upstream.ask_of(fetcher, 7, 11)
        asks = inspect.getsource(fetching.Fetcher)
        assert asks.count("self._fetch_min_bytes") == 2 and asks.count("self._fetch_max_wait_ms") == 2
        waiter = upstream.fetch_waiter(fetcher)
        assert isinstance(waiter, asyncio.Future) and not waiter.done()
        fetcher._wait_consume_future = consumed = asyncio.get_running_loop().create_future()
        upstream.took(fetcher)
        assert consumed.done() and not waiter.done()
        await fetcher.close()
        assert upstream.is_fetcher_closed(fetcher) and upstream.is_closed(consumer) and waiter.done()
        consumer._fetcher, consumer._closed = None, True

    on_loop(main)


def log_batch(first: int, values: list[bytes], producer_id: int = -1) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, int(producer_id >= 0), producer_id, 0, 0, 1 << 16)
    for number, value in enumerate(values):
        builder.append(number, 1_000, None, value, [])
    data = bytearray(builder.build())
    data[0:8] = first.to_bytes(8, "big")  # not under the CRC
    return bytes(data)


def source_of(data: bytes, aborted: list[tuple[int, int]], isolation: int = fetching.READ_COMMITTED) -> Any:
    arguments = (TopicPartition("topic", 0), FetchedRecords(data), aborted, 0, None, None, True, isolation)
    return fetching.PartitionRecords(*arguments)


def test_log_batches_are_unpacked_as_aiokafka_unpacks_them() -> None:
    """Aborted transactions are passed over, and an invalid CRC stops at its batch."""
    data = log_batch(0, [b"a"]) + log_batch(1, [b"b", b"c"], producer_id=5) + log_batch(3, [b"d"], producer_id=6)
    found = [(end, [r.value for r in records]) for end, records in upstream.unpacked(source_of(data, [(5, 1)]), "t[0]")]
    assert found == [(1, [b"a"]), (3, []), (4, [b"d"])]
    damaged = bytearray(data)
    damaged[-1] ^= 1
    batches = upstream.unpacked(source_of(bytes(damaged), []), "t[0]")
    assert [end for end, _ in (next(batches), next(batches))] == [1, 3]
    with pytest.raises(upstream.CorruptRecordException, match=r"t\[0\]@3: invalid CRC"):
        next(batches)


def test_a_fetch_result_is_taken_as_a_whole() -> None:
    """The position moves to where the records end, and the result is empty."""

    async def main() -> None:
        tp, subscriptions = TopicPartition("topic", 0), SubscriptionState()
        subscriptions.assign_from_user([tp])
        assignment = subscriptions.subscription.assignment
        assignment.state_value(tp).seek(0)
        records = source_of(log_batch(0, [b"a"]), [])
        result = fetching.FetchResult(tp, assignment=assignment, partition_records=records, backoff=0)
        assert isinstance(result, upstream.FetchResult) and result.has_more() and result.check_assignment(tp)
        upstream.source_of(result).next_fetch_offset = 1
        upstream.close_result(result)
        assert assignment.state_value(tp).position == 1 and not result.has_more()

    on_loop(main)


def test_undocumented_names_are_there() -> None:
    """What is imported for others can be imported, and no name of the list is a left-over."""
    used = "\n".join(path.read_text() for path in FILES if path != UPSTREAM)
    assert all(hasattr(upstream, name) for name in upstream.__all__)
    tested = {"INHERITED", "PUBLIC_MODULES", "Inherited"}
    assert not {name for name in upstream.__all__ if name not in tested and not re.search(rf"\b{name}\b", used)}
    functions = {n.name for n in FILES[UPSTREAM].body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not {name for name in functions if not re.search(rf"\b{name}\b", used)}
    assert upstream.TRANSPORTS.aliases["streams"] == "streams.transport:Transport"
    assert isinstance(inspect.signature(upstream.AIOKafkaClient.coordinator_lookup), inspect.Signature)
