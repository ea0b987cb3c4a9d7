"""This project's worker as a system under test, with its real topics and its whole job."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from streams.benchmark.cluster import LOG_APPEND_TIME, fresh_topics
from streams.benchmark.engine import Launch, System, versions_of
from streams.clients.connection import command_config
from streams.clients.topic_admin import new_topic
from streams.kafka import EmbeddedKafka
from streams.processes.identity import free_ports
from streams.processes.launcher import worker_command, worker_environment
from streams.settings import Settings, load_settings

PARTS = ("streams", "faust-streaming", "aiokafka", "confluent-kafka", "torch", "numpy", "numba", "orjson", "msgspec")


@contextlib.contextmanager
def cluster_of_run() -> Iterator[tuple[Settings, bool]]:
    """Yield settings that name a cluster, and whether the cluster exists for this run alone."""
    settings = load_settings()
    if settings.bootstrap_servers:
        yield settings, False
        return
    with tempfile.TemporaryDirectory(prefix="streams-bench-kafka-") as folder, EmbeddedKafka(Path(folder)) as broker:
        yield load_settings(bootstrap_servers=broker.bootstrap_servers), True


def prepare_worker(settings: Settings, *, replace: bool) -> None:
    """Make all topics of the project exist and be empty; the broker stamps decisions.

    Raises:
        BenchmarkError: a topic holds records and `replace` is off, or the cluster refuses.
    """
    topics = settings.topics
    fresh_topics(
        command_config(settings),
        [new_topic(topic, settings, **(LOG_APPEND_TIME if topic is topics.decisions else {})) for topic in topics.all],
        replace=replace,
    )


def worker_system(settings: Settings, folder: Path, run: str, workers: int) -> System:
    """Return `workers` worker processes in a group of their own.

    Args:
        settings: the cluster and the topics.
        folder: for the workers' files.
        run: makes the group unique, so that no state of an earlier run is recovered.
        workers: number of processes.
    """
    launches = [
        Launch(
            worker_command("warn"),
            {
                **worker_environment(slot, port, folder),
                "STREAMS_BOOTSTRAP_SERVERS": settings.brokers(),
                "STREAMS_APPLICATION_ID": f"streams-bench-{run}",
            },
        )
        for slot, port in enumerate(free_ports(workers))
    ]
    return System(
        "streams", launches, settings.topics.transactions.name, settings.topics.decisions.name, versions_of(*PARTS)
    )
