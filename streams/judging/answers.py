"""Answers of a worker on an embedded Kafka to given events: the answers of the model in service."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from streams.clients.connection import connect
from streams.clients.event_producer import Delivery
from streams.clients.topic_admin import create_topics
from streams.clients.topic_reader import TopicReader
from streams.contract.events import DeadLetter
from streams.contract.topics import DEAD_LETTERS, Topic
from streams.errors import StreamsError
from streams.kafka import EmbeddedKafka
from streams.processes.worker_pool import WorkerPool
from streams.replaying.event_files import Slice
from streams.replaying.pacing import Pace, Replay
from streams.settings import load_settings

# Time without answers after the last expected one, in which a repeat would arrive.
SETTLE_S: Final = 2.0
# Longer than a checkpoint, a rebalance or the first batch takes: an answer still missing then does not come.
SILENCE_S_MAX: Final = 60.0
CHECK_S: Final = 0.5


class AnswersIncomplete(StreamsError):
    """An event has no answer, or more than one."""


def answers(
    events: Iterable[Slice],
    count: int,
    topic: Topic,
    output: Topic,
    *,
    settings: Mapping[str, str],
    receive: Callable[[list[bytes]], None],
    tell: Callable[[str, float], None],
    label_delay_ms: int | None = None,
) -> None:
    """Send events to an embedded Kafka with one worker and hand over the committed records of its output topic.

    On return, broker and worker have ended and their files are deleted. Settings in the caller's environment are ignored:
    the answers are a function of the arguments.

    Args:
        events: as for `Replay`; the run is as fast as it can be.
        count: number of events.
        topic: transactions or clickstream.
        output: its topic of answers.
        settings: settings of the worker, by key.
        receive: called with values of the output topic until there were `count` of them and SETTLE_S of quiet.
        tell: called with (stage, fraction done).
        label_delay_ms: publish labels that much event time later; None publishes none.

    Raises:
        AnswersIncomplete: fewer than `count` answers came, and no more within SILENCE_S_MAX.
        StreamsError: broker or worker failed.
    """
    own = {name: "" for name in os.environ if name.startswith("STREAMS_")}
    own |= {f"STREAMS_{key.upper()}": value for key, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="streams-evaluate-", ignore_cleanup_errors=True) as folder:
        tell("start Kafka and a worker", 0.0)
        with ExitStack() as stack:
            pool = WorkerPool(1, Path(folder), own, ahead=True)  # gets ready while the broker starts, stops before it
            with ExitStack() as pending:
                pending.enter_context(pool)
                kafka = stack.enter_context(EmbeddedKafka(Path(folder, "kafka")))
                stack.push(pending.pop_all())
            cluster = load_settings(env={}, bootstrap_servers=kafka.bootstrap_servers)
            create_topics(connect(cluster), cluster)
            pool.begin({"STREAMS_BOOTSTRAP_SERVERS": kafka.bootstrap_servers})
            with Delivery(cluster) as delivery:
                pool.wait_until_ready()
                replay = Replay(events, topic, delivery, Pace(), label_delay_ms=label_delay_ms)
                while replay.advance() is not None:
                    tell("send events", replay.events / count / 2)
                replay.finish()
                delivery.flush()
                with TopicReader(cluster, [output.name], from_beginning=True) as reader:
                    received = _receive(reader, count, pool, receive, tell)
                if received < count:
                    raise AnswersIncomplete(
                        f"{output.name}: expected {count:,} answers, got {received:,} and then none for "
                        f"{SILENCE_S_MAX:.0f} s; {_first_dead_letter(cluster)}"
                    )


def _receive(
    reader: TopicReader,
    count: int,
    pool: WorkerPool,
    receive: Callable[[list[bytes]], None],
    tell: Callable[[str, float], None],
) -> int:
    received = 0
    last_answer = checked = time.monotonic()
    while True:
        values = [value for message in reader.poll(0.1) if (value := message.value()) is not None]
        now = time.monotonic()
        if values:
            receive(values)
            received, last_answer = received + len(values), now
            tell("read answers", 0.5 + min(received / count, 1.0) / 2)
        elif now - last_answer > (SETTLE_S if received >= count else SILENCE_S_MAX):
            return received
        if now - checked > CHECK_S:
            checked = now
            pool.check()


def _first_dead_letter(settings: Any) -> str:
    """Return a sentence on the number of dead letters and the first one."""
    with TopicReader(settings, [DEAD_LETTERS.name], from_beginning=True) as reader:
        values = [message.value() for batch in reader.until_end() for message in batch]
    if not values:
        return "no dead letter gives a reason"
    first = msgspec.json.decode(values[0] or b"", type=DeadLetter)
    return f"{len(values):,} dead letters, the first of {first.topic}: {first.code}: {first.message}"
