"""Fixtures of the fault tests: brokers that a session or a module shares, a trial with topics of its own, the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from streams.kafka import EmbeddedKafka
from streams.processes.identity import free_ports
from tests.faults.checker import Verdict
from tests.faults.proxy import Proxy
from tests.faults.report import ROW, Row
from tests.faults.trial import Trial

LONG_S_MAX = 1_800

Number = TypeVar("Number", int, float)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name what is short: the catalogue, and the harness's proof of itself, each run by a command of its own."""
    for item in items:
        if item.path.parent != Path(__file__).parent or any(map(item.get_closest_marker, ("faults", "soak"))):
            continue
        if item.path.name == "test_harness.py":
            item.add_marker(pytest.mark.harness)
        elif item.path.name != "test_checker.py":
            item.add_marker(pytest.mark.trial)


@dataclass(frozen=True)
class Form:
    """How long a fault test is: `form(3, 50)` is 3 in the short form, 50 in the long one."""

    name: str

    def __call__(self, short: Number, long: Number) -> Number:
        return long if self.name == "long" else short


@pytest.fixture(params=["short", pytest.param("long", marks=[pytest.mark.faults, pytest.mark.timeout(LONG_S_MAX)])])
def form(request: pytest.FixtureRequest) -> Form:
    """The short form runs by `pytest -m trial`, a part of it with all tests; the long one by `pytest -m faults`."""
    return Form(request.param)


@dataclass(frozen=True)
class LoneBroker:
    """One broker, reached directly or through a proxy."""

    kafka: EmbeddedKafka
    servers: str
    proxy: Proxy


@pytest.fixture(scope="session")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneBroker]:
    """A broker whose second listener is advertised at a proxy: a worker that starts there stays behind the proxy."""
    client, controller, behind, front = free_ports(4)
    extra = {
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
        "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{behind}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{client},PROXIED://127.0.0.1:{front}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.cleaner.backoff.ms": "200",  # 15 s by default: a test of compacted input waits for the cleaner
    }
    with (
        EmbeddedKafka(tmp_path_factory.mktemp("lone"), port=client, extra=extra) as kafka,
        Proxy(front, behind) as proxy,
    ):
        yield LoneBroker(kafka, f"127.0.0.1:{client}", proxy)


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """Three brokers; topics have three replicas, of which two must confirm."""
    with EmbeddedKafka(tmp_path_factory.mktemp("trio"), brokers=3) as kafka:
        yield kafka


# A killed worker is missed after the session timeout; checkpoints come often, so that short trials meet some.
SETTINGS = {"session_timeout_s": 6, "checkpoint_interval_s": 2}


def settings_of(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("settings")
    return {**SETTINGS, **(marker.kwargs if marker else {})}


@pytest.fixture
def trial(lone: LoneBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A trial on the lone broker; `@pytest.mark.settings(key=value)` sets workers' settings."""
    trial = Trial(lone.servers, tmp_path, tmp_path.name, **settings_of(request))
    try:
        yield trial.open()
    finally:
        trial.close()


@pytest.fixture
def proxied(lone: LoneBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A trial whose workers reach the broker through the proxy only."""
    front = f"127.0.0.1:{lone.proxy.port}"
    trial = Trial(lone.servers, tmp_path, tmp_path.name, front, **settings_of(request))
    try:
        yield trial.open()
    finally:
        lone.proxy.heal()
        trial.close()


@pytest.fixture
def replicated(trio: EmbeddedKafka, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A trial on the three brokers."""
    settings = {"replication_factor": 3, **settings_of(request)}
    trial = Trial(trio.bootstrap_servers, tmp_path, tmp_path.name, **settings)
    try:
        yield trial.open()
    finally:
        trial.close()


class Report(Protocol):
    def __call__(self, item: str, verdict: Verdict, **figures: float) -> None: ...


@pytest.fixture
def report(form: Form, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Put a verdict into the table, and fail the test where it is not CLEAN."""

    def put(item: str, verdict: Verdict, **figures: float) -> None:
        request.node.user_properties.append((ROW, asdict(Row.of(item, form.name, verdict, figures))))
        assert verdict.clean, str(verdict)

    return put
