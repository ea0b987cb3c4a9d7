"""`streams produce`: events of the simulator or of a file, with progress and a count of what the broker confirmed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from streams.commands.parameters import RATE_MAX, SEED, Duration, FiniteRange, Pairs, merged

if TYPE_CHECKING:
    from streams.clients.event_producer import Delivery
    from streams.replaying.pacing import Replay

SIMULATE: Final = "simulate"


@click.command(context_settings={"max_content_width": 110})
@click.argument("source", metavar="simulate|FILE")
@click.option(
    "--topic",
    type=click.Choice(["transactions", "clickstream"]),
    help="Topic of the events. FILE: transactions unless given; simulate: both, half of the rate each.",
)
@click.option("--columns", type=Pairs(), multiple=True, help="FIELD=COLUMN,...: which column of FILE holds a field.")
@click.option(
    "--constant", type=Pairs(), multiple=True, help="FIELD=VALUE,...: the same value for each record of FILE."
)
@click.option("--labels", metavar="COLUMN", help="Column of FILE that tells fraud (1, true); published as labels.")
@click.option(
    "--label-delay", type=Duration(), default="7d", show_default=True, help="Event time from a payment to its label."
)
@click.option(
    "--rate",
    type=FiniteRange(min=0, min_open=True, max=RATE_MAX),
    help="Records per second (default: as fast as they go).",
)
@click.option(
    "--speedup",
    type=FiniteRange(min=0, min_open=True),
    help="Event time goes this many times faster than the clock; the end tells what was reached.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many records.")
@click.option(
    "--order",
    type=click.Choice(["time", "file"]),
    default="time",
    show_default=True,
    help="Send FILE by event time (sorted in memory where it is not), or as its rows stand.",
)
@click.option("--seed", type=SEED, default=7, show_default=True, help="Seed of the simulator.")
def produce(
    source: str,
    topic: str | None,
    columns: tuple[dict[str, str], ...],
    constant: tuple[dict[str, str], ...],
    labels: str | None,
    label_delay: int,
    rate: float | None,
    speedup: float | None,
    limit: int | None,
    order: str,
    seed: int,
) -> None:
    """Produce events, simulated or those of a parquet, CSV or NDJSON file.

    The end tells how many the broker confirmed.

    FILE needs a column for each required field of the topic (`streams topics describe transactions`). Columns called as
    the fields are found; others are named with --columns FIELD=COLUMN. Other columns are not sent. Types are
    converted: identifiers become text, a time may be a timestamp (UTC without a zone), RFC 3339 text, or seconds or
    milliseconds since the epoch; the first row tells which. Without a column for transaction_id or event_id, the file's
    name and the row's number make one. The whole file is read once before its first record goes: a row that cannot be
    converted, or is not of the years 2000 to 2099, is refused by its number (the first is 1), and no record is sent.

    --labels publishes each payment's label to transaction-labels when the event time of the payments sent has moved on
    by --label-delay: before the payments of that time, and what is left at the end.

    \b
    Examples:
      streams produce simulate --rate 1000
      streams produce simulate --topic clickstream --limit 100000
      streams produce payments.parquet --labels fraud \\
          --columns transaction_id=tx_id,event_time=ts,card_id=customer,terminal_id=terminal
      streams produce clicks.csv --topic clickstream --speedup 3600 \\
          --columns event_time=Time,session_id=SessionId,item_id=ItemId --constant event_type=view

    Exit code 1 when a record was not confirmed.
    """
    if rate is not None and speedup is not None:
        raise click.UsageError("--rate and --speedup exclude each other: one clock decides when a record goes")
    sending = Sending(rate, speedup, limit, label_delay)
    if source == SIMULATE:
        given = {"--columns": columns, "--constant": constant, "--labels": labels}
        if wrong := [name for name, value in given.items() if value]:
            raise click.UsageError(
                f"{', '.join(wrong)}: only for a FILE; the simulator names its own fields and labels"
            )
        _produce_simulated(topic, sending, seed)
        return
    path = Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise click.BadParameter(f"expected 'simulate' or a file: {source!r} {what}", param_hint="simulate|FILE")
    if labels and topic == "clickstream":
        raise click.UsageError("--labels: clicks have no labels; leave it out or use --topic transactions")
    if labels and order == "file":
        raise click.UsageError("--labels: a delay in event time needs --order time")
    if speedup and order == "file":
        raise click.UsageError("--speedup: event time that may step back needs --order time")
    mapping = {"columns": merged(columns), "constants": merged(constant), "label": labels}
    _produce_file(path, topic or "transactions", mapping, sending, in_time_order=order == "time")


@dataclass(frozen=True, slots=True)
class Sending:
    """When records go, and how many.

    Attributes:
        rate: records a second; None is as fast as the broker takes them.
        speedup: event time over time; None has no such clock.
        limit: records at most; None sends all.
        label_delay_ms: event time by which labels follow their payments.
    """

    rate: float | None
    speedup: float | None
    limit: int | None
    label_delay_ms: int


def _produce_file(
    path: Path, topic_name: str, mapping: dict[str, Any], sending: Sending, *, in_time_order: bool
) -> None:
    from streams.clients.cluster import require_topics
    from streams.clients.connection import connect
    from streams.clients.event_producer import Delivery
    from streams.replaying.event_files import EventFile
    from streams.replaying.pacing import Pace, Replay
    from streams.settings import load_settings

    settings = load_settings()
    topics = settings.topics
    topic = topics.called(topic_name)
    file = EventFile(path, topic, **mapping)
    labels = bool(mapping["label"])
    require_topics(connect(settings), [topic.name, *([topics.labels.name] if labels else [])])
    extent = file.extent()
    total = extent.records if sending.limit is None else min(sending.limit, extent.records)
    sort = in_time_order and not extent.in_time_order
    click.echo(
        f"{path.name}: {extent.records:,} records from {_utc(extent.event_time_min)} to {_utc(extent.event_time_max)}"
        + (", sorted by event time" if sort else ""),
        err=True,
    )
    with Delivery(settings) as delivery:
        replay = Replay(
            file.slices(sort=sort, limit=sending.limit),
            topic,
            delivery,
            Pace(rate=sending.rate, speedup=sending.speedup),
            label_delay_ms=sending.label_delay_ms if labels else None,
        )
        _run([replay], delivery, total)


def _produce_simulated(topic_name: str | None, sending: Sending, seed: int) -> None:
    from streams.clients.cluster import require_topics
    from streams.clients.connection import connect
    from streams.clients.event_producer import Delivery
    from streams.replaying import simulated
    from streams.replaying.pacing import Pace, Replay
    from streams.settings import load_settings

    settings = load_settings()
    topics = settings.topics
    payments, clicks = topics.transactions, topics.clickstream
    chosen = [payments, clicks] if topic_name is None else [topics.called(topic_name)]
    require_topics(connect(settings), [topic.name for topic in chosen + [topics.labels] * (payments in chosen)])
    share = None if sending.rate is None else sending.rate / len(chosen)
    limit = sending.limit
    with Delivery(settings) as delivery:
        replays = []
        for topic in chosen:
            pace = Pace(rate=share, speedup=sending.speedup)
            # An odd record goes to the payments.
            count = None if limit is None else (limit + (topic is payments and len(chosen) > 1)) // len(chosen)
            if topic is payments:
                slices = simulated.payments(seed, limit=count)
                replays.append(Replay(slices, topic, delivery, pace, label_delay_ms=sending.label_delay_ms))
            else:
                replays.append(Replay(simulated.clicks(seed, limit=count), topic, delivery, pace))
        _run(replays, delivery, limit)


def _run(replays: list[Replay], delivery: Delivery, total: int | None) -> None:
    from streams.replaying.pacing import run

    started = time.monotonic()
    try:
        with _progress_bar(replays, delivery, total) as tick:
            run(replays, delivery, tick=tick)
    finally:
        delivery.give_up()
        seconds = time.monotonic() - started
        for replay in replays:
            line = f"{replay.events:,} records to {replay.topic.name}"
            if replay.labels:
                line += f", {replay.labels:,} labels"
            reached = replay.pace.speedup_reached()
            if replay.pace.speedup is not None and reached is not None:
                line += f", speed-up {reached:,.1f} of {replay.pace.speedup:,.1f}"
            click.echo(line)
        click.echo(
            f"{delivery.confirmed:,} confirmed by the broker, {delivery.failed:,} failed, {delivery.waiting:,} unknown "
            f"in {seconds:.1f} s: {delivery.confirmed / seconds:,.0f} records/s"
        )


@contextmanager
def _progress_bar(replays: list[Replay], delivery: Delivery, total: int | None) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>12}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
        refresh_per_second=5,
    )
    started = time.monotonic()
    shown = started
    with bar:
        task = bar.add_task("sending", total=total, rate="")

        def tick() -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.2:
                return
            shown = now
            events = sum(replay.events for replay in replays)
            clock = max(replay.event_time for replay in replays)
            problem = f"  {delivery.failed:,} failed" if delivery.failed else ""
            bar.update(
                task,
                completed=events,
                description=_utc(clock) + problem if clock else "sending",
                rate=f"{events / (now - started):,.0f}/s",
            )

        yield tick


def _utc(event_time: int) -> str:
    try:
        return datetime.fromtimestamp(event_time / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{event_time} ms"
