"""`streams demo`: Kafka, workers, traffic and decisions, in one terminal."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from streams.commands.parameters import RATE_MAX, SEED, FiniteRange
from streams.errors import StreamsError

if TYPE_CHECKING:
    from streams.clients.event_producer import Delivery
    from streams.commands.demo_tally import Tally
    from streams.commands.demo_view import DemoView
    from streams.processes.worker_pool import WorkerPool
    from streams.replaying.pacing import Replay
    from streams.settings import Settings

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
LABEL_DELAY_MS: Final = 7 * DAY_MS
# The longest silence of the outputs that is no loss: a rebalance, or the rest of a backlog.
OUTPUT_SILENCE_S_MAX: Final = 20.0
# Unanswered events at which traffic pauses, so that a demo on a slow machine does not fill its memory.
WAITING_MAX: Final = 200_000
CHECK_S: Final = 0.5
# A broker that shares two cores with a worker is kept busy by requests, not records, and a producer sends one for each
# partition. p99 of 1,000/s in the last 20 s of 40: 156 ms with turns of 10 ms, 100 and 102 with 20, 77 and 96 with 40.
LINGER_MS: Final = 5.0
TURN_S: Final = 0.04
# For the same reason: with 4 partitions p99 was 138 to 188 ms, with 2 of them 93 to 104.
PARTITIONS_MIN: Final = 2
# On the user's own cluster, where other workers have the slots from 0 on.
FOREIGN_FIRST_SLOT: Final = 900
# The first answers wait for connections and the first batches of each size; latencies count after them.
WARM_UP_S: Final = 3.0
INVALID_S: Final = 3.0
INVALID: Final = (
    b'{"transaction_id":"bad-1","event_time":',
    b'{"transaction_id":"bad-2","event_time":1704067200000,"card_id":"card-1","terminal_id":"t","amount":-5}',
    b'{"transaction_id":"bad-3","event_time":1704067200000,"card_id":"card-1","amount":5.0}',
    b'{"transaction_id":"bad-4","event_time":12,"card_id":"card-1","terminal_id":"t","amount":5.0}',
)


@click.command()
@click.option(
    "--duration",
    type=FiniteRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds of traffic; 0: until Ctrl-C.",
)
@click.option(
    "--rate",
    type=FiniteRange(min=1, max=RATE_MAX),
    default=1000.0,
    show_default=True,
    help="Events per second, payments and clicks in equal parts.",
)
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--history-days",
    type=click.IntRange(0, 90),
    default=14,
    show_default=True,
    help="Days of payments, with labels, that are sent at once before the clock starts.",
)
@click.option("--seed", type=SEED, help="Seed of the traffic (default: another one each time).")
def demo(duration: float, rate: float, workers: int, history_days: int, seed: int | None) -> None:
    """Watch decisions and recommendations flow: Kafka, workers, traffic, one view.

    Starts an Apache Kafka in a temporary folder (or uses the cluster of STREAMS_BOOTSTRAP_SERVERS, to whose topics the
    simulated events then go), creates the topics, starts workers, and sends payments, their labels and clicks. Shows
    rates, latency from the producer's call to the decision in a consumer's hand, the latest decisions and
    recommendations; ends with a summary. Nothing keeps running and nothing is left on disk, unless the demo itself is
    killed (SIGKILL): its folder streams-demo-* then stays among the temporary files.

    The demo also sends some invalid payments, which show among the dead letters.

    \b
    Examples:
      streams demo
      streams demo --duration 0 --rate 5000 --workers 2
      STREAMS_BOOTSTRAP_SERVERS=broker:9092 streams demo --duration 30

    Exit code 1 when an event was left without its answer, or a worker ended.
    """
    from streams.settings import load_settings

    settings = load_settings()
    seed = int(time.time()) % 1_000_000 if seed is None else seed
    with _ended_in_order():
        _demo(settings, duration, rate, workers, history_days, seed)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, which stops workers and broker; after a SIGKILL their supervisors do."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _demo(settings: Settings, duration: float, rate: float, workers: int, history_days: int, seed: int) -> None:
    from rich.console import Console

    from streams.clients.connection import connect
    from streams.clients.topic_admin import create_topics
    from streams.commands.demo_tally import Tally
    from streams.commands.demo_view import DemoView
    from streams.kafka import EmbeddedKafka
    from streams.processes.worker_pool import WorkerPool
    from streams.settings import load_settings

    console = Console()
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-demo-", ignore_cleanup_errors=True))
        )
        own_broker = not settings.bootstrap_servers
        started = time.monotonic()
        click.echo(f"starting {'Apache Kafka and ' if own_broker else ''}{_count(workers, 'worker')} ...")
        # Workers import and compile while the broker starts: each takes seconds, on a core of its own.
        pool = WorkerPool(workers, folder, {}, first_slot=0 if own_broker else FOREIGN_FIRST_SLOT, ahead=True)
        with ExitStack() as pending:  # the workers stop before their broker, and both however this goes
            pending.enter_context(pool)
            if own_broker:
                kafka = stack.enter_context(EmbeddedKafka(folder / "kafka"))
                settings = load_settings(
                    bootstrap_servers=kafka.bootstrap_servers, partitions=demo_partitions(settings, workers)
                )
                click.echo(f"Apache Kafka at {kafka.bootstrap_servers}, up after {time.monotonic() - started:.1f} s")
            stack.push(pending.pop_all())
        create_topics(connect(settings), settings)
        pool.begin({"STREAMS_BOOTSTRAP_SERVERS": settings.brokers()} if own_broker else {})
        pool.wait_until_ready()
        click.echo(f"ready after {time.monotonic() - started:.1f} s")
        tally = Tally((f"tx-{seed}-", f"ev-{seed}-"), settings.topics)
        where = "embedded Kafka" if own_broker else settings.bootstrap_servers
        view = DemoView(tally, f"{where}, {_count(workers, 'worker')}", duration, console)
        interrupted = _run(settings, pool, tally, view, Scenario(duration, rate, history_days, seed))
        click.echo("stopping ...")
    _summarise(tally)
    if interrupted and duration:
        raise KeyboardInterrupt


def demo_partitions(settings: Settings, workers: int) -> int:
    """Return the partitions of a topic on a broker of the demo's own: as set, else as many as the workers use."""
    set_by_user = settings.partitions != type(settings).partitions
    return settings.partitions if set_by_user else max(PARTITIONS_MIN, workers)


@dataclass(frozen=True, slots=True)
class Scenario:
    """The traffic of a demo.

    Attributes:
        duration: seconds; 0 goes on until Ctrl-C.
        rate: events a second, payments and clicks together.
        history_days: days of payments that are sent first, as fast as they go.
        seed: of the simulator.
    """

    duration: float
    rate: float
    history_days: int
    seed: int


def _run(settings: Settings, pool: WorkerPool, tally: Tally, view: DemoView, scenario: Scenario) -> bool:
    """Send and show until the time is over; return whether Ctrl-C came first."""
    from streams.clients.event_producer import Delivery
    from streams.replaying import simulated
    from streams.replaying.pacing import Pace, Replay

    topics, rate = settings.topics, scenario.rate
    with _reading(settings, tally), Delivery(settings, linger_ms=LINGER_MS) as delivery:
        pace = Pace(rate=rate / 2, history_until=simulated.START_MS + scenario.history_days * DAY_MS)
        payments = Replay(
            simulated.payments(scenario.seed),
            topics.transactions,
            delivery,
            pace,
            label_delay_ms=LABEL_DELAY_MS,
            label_step_ms=HOUR_MS,
            sending=lambda events: tally.sending(topics.transactions.name, events),
        )
        clicks = Replay(
            simulated.clicks(scenario.seed),
            topics.clickstream,
            delivery,
            Pace(rate=rate / 2),
            sending=lambda events: tally.sending(topics.clickstream.name, events),
        )
        traffic = _Traffic(pool, tally, view, delivery)
        interrupted = False
        with view:
            try:
                while not pace.history_over:
                    traffic.turn([payments], "history")
                traffic.wait_for_answers("history")
                pace.begin()
                begun = time.monotonic()
                while not scenario.duration or time.monotonic() < begun + scenario.duration:
                    traffic.turn([payments, clicks], "live")
                    traffic.send_invalid(time.monotonic() - begun)
                    if time.monotonic() >= begun + WARM_UP_S:
                        tally.start_timing()
            except KeyboardInterrupt:
                interrupted = True
            traffic.wait_for_answers("ending")
    return interrupted


class _Traffic:
    """Turns of the demo's loop: send what is due, look after the workers, show the state."""

    def __init__(self, pool: WorkerPool, tally: Tally, view: DemoView, delivery: Delivery) -> None:
        self._pool = pool
        self._tally = tally
        self._view = view
        self._delivery = delivery
        self._checked = 0.0
        self._invalid_sent = 0

    def turn(self, replays: Sequence[Replay], phase: str) -> None:
        """Send what is due, or wait a moment."""
        sent = 0
        if self._tally.pending < WAITING_MAX:
            sent = sum(replay.advance() or 0 for replay in replays)
        now = time.monotonic()
        if now - self._checked > CHECK_S:
            self._checked = now
            self._pool.check()
        self._view.tick(phase=phase)
        if not sent:
            self._delivery.poll()
            time.sleep(TURN_S)

    def send_invalid(self, elapsed_s: float) -> None:
        """Send an invalid payment every INVALID_S."""
        if elapsed_s >= (self._invalid_sent + 1) * INVALID_S:
            value = INVALID[self._invalid_sent % len(INVALID)]
            self._delivery.send(self._tally.topics.transactions.name, [b"card-000001"], [value])
            self._invalid_sent += 1

    def wait_for_answers(self, phase: str) -> None:
        """Return when each event has its answer, or when none has come for OUTPUT_SILENCE_S_MAX."""
        self._delivery.flush()
        waiting, since = self._tally.pending, time.monotonic()
        while waiting and time.monotonic() - since < OUTPUT_SILENCE_S_MAX:
            self.turn([], phase)
            if self._tally.pending < waiting:
                waiting, since = self._tally.pending, time.monotonic()


@contextmanager
def _reading(settings: Settings, tally: Tally) -> Iterator[None]:
    """Read the outputs in a thread: an answer is timed when it is in hand, not when the sender finds time."""
    from streams.clients.topic_reader import TopicReader

    over = threading.Event()
    failures: list[StreamsError] = []

    def read() -> None:
        try:
            while not over.is_set():
                tally.receive(reader.poll(0.1))
        except StreamsError as exc:
            failures.append(exc)

    with TopicReader(settings, [topic.name for topic in settings.topics.outputs], from_beginning=False) as reader:
        thread = threading.Thread(target=read, name="outputs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    if failures:
        raise failures[0]


def _summarise(tally: Tally) -> None:
    """Print the totals of the traffic.

    Raises:
        StreamsError: an event has no answer.
    """
    from streams.commands.watch import COLOURS

    p50, p99, p999 = (
        "-" if value is None else f"{value:.1f}" for value in tally.latencies.percentiles(0.5, 0.99, 0.999)
    )
    payments, clicks = tally.topics.transactions.name, tally.topics.clickstream.name
    decided = ", ".join(f"{tally.decisions[word]:,} {word}" for word in COLOURS)
    rows = (
        ("events", f"{tally.sent.total():,}"),
        (
            "decisions",
            f"{tally.answered[payments]:,} of {tally.sent[payments]:,} payments: {decided}",
        ),
        ("slates", f"{tally.answered[clicks]:,} of {tally.sent[clicks]:,} clicks"),
        ("lost", f"{tally.pending:,}"),
        ("repeated", f"{tally.repeated:,}"),
        ("degraded", f"{tally.degraded:,}"),
        ("dead letters", f"{tally.dead_letters:,}"),
        (
            "latency",
            f"p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms, from the producer's call to the answer in hand, warm",
        ),
    )
    for name, text in rows:
        click.echo(f"{name:<14}{text}")
    if tally.pending:
        raise StreamsError(
            f"{tally.pending:,} events got no answer within {OUTPUT_SILENCE_S_MAX:.0f} s of the last one"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
