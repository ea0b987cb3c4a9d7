"""`streams bench`: throughput and latency of the whole job, Kafka in to Kafka out, every decision checked by id."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click

from streams.benchmark import BenchmarkError, System, run_latency, run_throughput
from streams.benchmark.engine import new_run
from streams.benchmark.plot import plot_rows, read_rows
from streams.benchmark.traffic import CARDS
from streams.benchmark.worker import cluster_of_run, prepare_worker, worker_system
from streams.clients.connection import command_config, connect
from streams.commands.parameters import FiniteRange, Rates
from streams.settings import Settings

Row = dict[str, Any]
Measure = Callable[[System, dict[str, Any], str], Row]


@click.group()
def bench() -> None:
    """Measure throughput and latency, Kafka in to Kafka out.

    Worker processes are started for the run, with the settings in force, in a consumer group of their own. Without an
    address in the settings a broker is started for the run, too. On your own cluster the topics must be empty.

    \b
    Examples:
      streams bench throughput --events 500000
      streams bench latency --rate 1000 --seconds 30 --json latency.jsonl
      streams --bootstrap-servers kafka-1:9092 bench throughput --workers 4 --json -
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes."),
        click.option("--cards", type=click.IntRange(1), default=CARDS, show_default=True, help="Cards that pay."),
        click.option("--recreate-topics", is_flag=True, help="DELETE the project's topics, if they exist, beforehand."),
        click.option(
            "--json", "json_file", type=click.File("w"), help="Write the result as one JSON line; - for stdout."
        ),
    ):
        command = option(command)
    return command


@bench.command()
@click.option("--events", type=click.IntRange(1_000), default=500_000, show_default=True, help="Payments to preload.")
@_options
def throughput(events: int, workers: int, cards: int, recreate_topics: bool, json_file: TextIO | None) -> None:
    """Preload payments, start the workers, time their decisions.

    The rate is taken between the broker's timestamps of the first 10 % and of the last decision: start-up is outside.
    With several workers the rebalances of their joining may fall inside: use enough events that seconds do not matter.

    \b
    Examples:
      streams bench throughput
      streams bench throughput --events 2000000 --workers 2 --json throughput.jsonl
    """

    row = _run(_preloaded(events, cards), workers, recreate_topics)
    _report(row, _speed(row), json_file)


@bench.command()
@click.option("--rate", type=FiniteRange(1, 1_000_000), default=1_000.0, show_default=True, help="Payments a second.")
@click.option("--seconds", type=FiniteRange(1, 3_600), default=30.0, show_default=True, help="Measured time.")
@click.option("--warm-up", type=FiniteRange(0, 600), default=15.0, show_default=True, help="Seconds left out before.")
@_options
def latency(
    rate: float,
    seconds: float,
    warm_up: float,
    workers: int,
    cards: int,
    recreate_topics: bool,
    json_file: TextIO | None,
) -> None:
    """Send payments at a fixed rate, time each from the producer's call to its decision in a consumer's hand.

    The producer does not wait for answers. Both clocks are this machine's: run it beside the cluster.

    \b
    Examples:
      streams bench latency
      streams bench latency --rate 10000 --seconds 60 --json latency.jsonl
    """

    row = _run(_paced(rate, seconds, warm_up, cards), workers, recreate_topics)
    _report(row, _percentiles(row), json_file)


@bench.command()
@click.option(
    "--rates", type=Rates(), default="1000,2000,5000,10000,20000", show_default=True, help="Payments a second."
)
@click.option("--events", type=click.IntRange(1_000), default=300_000, show_default=True, help="Payments to preload.")
@click.option("--seconds", type=FiniteRange(1, 3_600), default=20.0, show_default=True, help="Measured time a rate.")
@click.option("--warm-up", type=FiniteRange(0, 600), default=10.0, show_default=True, help="Seconds left out before.")
@_options
def sweep(
    rates: list[float],
    events: int,
    seconds: float,
    warm_up: float,
    workers: int,
    cards: int,
    recreate_topics: bool,
    json_file: TextIO | None,
) -> None:
    """Measure the throughput, then the latency at each rate, on one cluster. `bench plot` draws the rows.

    Each measurement is as by `bench throughput` and `bench latency`, with workers and topics of its own.

    \b
    Examples:
      streams bench sweep --json sweep.jsonl
      streams bench sweep --rates 500,1000 --events 50000 --seconds 10
    """

    with cluster_of_run() as (settings, own):
        if not own and not recreate_topics:
            raise click.UsageError(
                "on your own cluster each measurement deletes the topics of the last one: give --recreate-topics"
            )
        row = _measured(settings, _preloaded(events, cards), workers, replace=True)
        _report(row, _speed(row), json_file)
        for rate in rates:
            row = _measured(settings, _paced(rate, seconds, warm_up, cards), workers, replace=True)
            _report(row, _percentiles(row), json_file)


@bench.command()
@click.argument("rows", type=click.File(), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="SVG to write.")
def plot(rows: tuple[TextIO, ...], output: Path) -> None:
    """Draw rows of `--json` files: latency against the rate, and where throughput ends.

    Rows of several guarantees or runs go into one picture.

    \b
    Examples:
      streams bench plot sweep.jsonl -o sweep.svg
      streams bench plot at-least-once.jsonl exactly-once.jsonl -o latency.svg
    """
    plot_rows([row for file in rows for row in read_rows(file.name, file)], output)


def _preloaded(events: int, cards: int) -> Measure:
    return lambda system, kafka, run: run_throughput(system, kafka, run, events, cards)


def _paced(rate: float, seconds: float, warm_up: float, cards: int) -> Measure:
    return lambda system, kafka, run: run_latency(system, kafka, run, rate, seconds, warm_up_s=warm_up, cards=cards)


def _run(measure: Measure, workers: int, recreate_topics: bool) -> Row:
    with cluster_of_run() as (settings, own):
        return _measured(settings, measure, workers, replace=own or recreate_topics)


def _measured(settings: Settings, measure: Measure, workers: int, *, replace: bool) -> Row:
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        connect(settings)
        prepare_worker(settings, replace=replace)
        run = new_run()
        row = measure(worker_system(settings, Path(folder), run, workers), command_config(settings), run)
    return row | {"guarantee": settings.guarantee}


def _speed(row: Row) -> str:
    return f"{row['events_per_second']:,.0f} events/s of {row['events']:,} events"


def _percentiles(row: Row) -> str:
    return (
        f"p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f}, p99.9 {row['p999_ms']:.1f} ms at {row['rate']:,.0f} events/s "
        f"(the generator itself was up to {row['generator_late_p99_ms']:.1f} ms late, p99)"
    )


def _report(row: Row, measured: str, json_file: TextIO | None) -> None:
    click.echo(f"{measured}; lost {row['lost']}, repeated {row['repeated']}", err=json_file is not None)
    if json_file is not None:
        json_file.write(json.dumps(row) + "\n")
    if row["lost"] or row["foreign"]:
        raise BenchmarkError(
            f"expected a decision for each of the {row['events']:,} payments and no other, "
            f"got {row['lost']} without and {row['foreign']} unknown; do not use the figures"
        )
