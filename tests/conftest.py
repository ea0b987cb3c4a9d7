"""Fixtures of all tests, and how several processes share them out.

Each process of pytest-xdist has a broker of its own. Tests come in the order of `TIERS`: the longest first,
then those that mostly wait, then what needs a processor; last what measures time, which runs while nothing else does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streams.kafka import EmbeddedKafka
from tests.faults import report as faults_report
from tests.support import warm

TIERS = {"trial": 0, "kafka": 1, "alone": 3}  # by marker; 2 is all other tests
# Profiles whose figures are of a machine that does nothing else.
SERIAL = ("faults", "soak", "quality")

_lock_file = pytest.StashKey[Path]()


def tier(item: pytest.Item) -> int:
    """Return a test's place in the order."""
    found = [number for mark, number in TIERS.items() if item.get_closest_marker(mark)]
    return 3 if 3 in found else min(found, default=2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by tiers; name the group of tests that stay in one process."""
    items.sort(key=tier)
    for item in items:
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))
        elif name := getattr(item, "callspec", None) and item.callspec.params.get("kafka"):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.name}-{name}"))  # a broker of that kind


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use several processes for the whole suite and for whole profiles; for files that are named, where `-n` asks for them."""
    asked = any(argument.startswith(("-n", "--numprocesses")) for argument in config.invocation_params.args)
    named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    if not asked and (named or config.option.markexpr in SERIAL):
        config.option.numprocesses = 0


# ---- one at a time, where time is measured


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist where the lock is."""
    node.workerinput["lock_file"] = str(node.config.stash[_lock_file])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before processes start side by side: fill the caches that each of them would fill."""
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        return
    folder = tempfile.mkdtemp(prefix="streams-tests-")
    config.stash[_lock_file] = Path(folder) / "lock"
    config.add_cleanup(lambda: (config.stash[_lock_file].unlink(missing_ok=True), Path(folder).rmdir()))
    if warm.is_cold() and not config.option.collectonly:
        subprocess.run([sys.executable, "-m", "tests.support.warm"], cwd=warm.ROOT, check=True)
        warm.use_classes()


@contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Hold the lock that tests share; a test that measures time waits until no other has it, and keeps it alone."""
    path = item.config.stash.get(_lock_file, None)
    if path is None:
        yield
        return
    with path.open("ab") as file:  # closing it gives the lock back
        fcntl.flock(file, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with turn(item):
        return (yield)


# ---- what is printed


def pytest_configure(config: pytest.Config) -> None:
    warm.use_classes()
    given = getattr(config, "workerinput", {}).get("lock_file")
    if given:
        config.stash[_lock_file] = Path(given)
    else:
        config.pluginmanager.register(faults_report, "faults-report")
        config.pluginmanager.register(Failures(config), "failures")


class Failures:
    """Names a test as soon as it has failed: the others go on for minutes before pytest shows why."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write("\n")
            reason = report.longrepr.reprcrash.message.splitlines()[0] if hasattr(report.longrepr, "reprcrash") else ""
            terminal.write_line(f"FAILED {report.nodeid} ({report.when}, {report.duration:.0f} s): {reason}", red=True)


# ---- fixtures


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a test starts can be interrupted, also where a shell runs pytest in the background and so ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def few_epochs() -> Iterator[None]:
    """Trainings end early: what is asserted holds after any number of epochs; quality is judged in tests/quality."""
    from models.training import fraud, sequence

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fraud, "EPOCHS", 4)
        patch.setattr(sequence, "EPOCHS", 2)
        yield


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker for the whole session of a process. The next test may delete all topics on it."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """Address of a Kafka with one broker: use topics and groups of your own."""
    given = os.environ.get("STREAMS_TEST_BOOTSTRAP_SERVERS")
    return given or str(request.getfixturevalue("embedded").bootstrap_servers)
