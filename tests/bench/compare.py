"""Compare this project's worker, doing its whole job, with other systems doing a stateless one, on the same traffic.

    python tests/bench/compare.py --peers plain,faust,bytewax,quix,flink --runs 5 --json results.jsonl
    python tests/bench/compare.py --mode latency --rate 1000 --peers plain --runs 3

Each round runs every system once, on fresh topics of its own, in an order that rotates from round to round; ratios are
taken within a round. One worker process of ours stands against one process of a peer (PyFlink: one JVM and one Python
process, parallelism 1). Ours validates, keeps card state, builds features, scores, explains and publishes; the peers
decode, make 32 floats of the record's fields, run an MLP 32-64-64-1 and publish, at least once. A peer that fails is
reported with its reason, and the exit code is 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
from confluent_kafka.admin import NewTopic
from environments import PEERS, Environment, Peer, PeerUnavailable, environment_of
from rich.console import Console
from rich.table import Table

from streams.benchmark import Launch, System, run_latency, run_throughput
from streams.benchmark.cluster import LOG_APPEND_TIME, fresh_topics, remove_topics
from streams.benchmark.engine import new_run
from streams.benchmark.worker import cluster_of_run, prepare_worker, worker_system
from streams.clients.connection import command_config
from streams.errors import StreamsError
from streams.settings import Settings

SCRIPTS = Path(__file__).parent / "peers"
OURS = "streams"
Row = dict[str, Any]


@click.command(help=__doc__, context_settings={"max_content_width": 110})
@click.option(
    "--peers", default=",".join(PEERS), show_default=True, help="Systems to run beside ours, comma-separated."
)
@click.option("--mode", type=click.Choice(["throughput", "latency"]), default="throughput", show_default=True)
@click.option(
    "--runs", type=click.IntRange(1), default=3, show_default=True, help="Rounds; each runs every system once."
)
@click.option(
    "--events", type=click.IntRange(10_000), default=500_000, show_default=True, help="Events a throughput run."
)
@click.option("--rate", type=click.FloatRange(1), default=1_000.0, show_default=True, help="Events a second (latency).")
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True, help="Measured time (latency).")
@click.option("--ours/--no-ours", default=True, help="Leave this project's worker out.")
@click.option("--recreate-topics", is_flag=True, help="DELETE this project's topics on the cluster where they exist.")
@click.option("--json", "json_file", type=click.File("w", lazy=False), help="Write one JSON line a run.")
def main(
    peers: str,
    mode: str,
    runs: int,
    events: int,
    rate: float,
    seconds: float,
    ours: bool,
    recreate_topics: bool,
    json_file: TextIO | None,
) -> None:
    wanted = [name for name in peers.split(",") if name]
    if unknown := set(wanted) - PEERS.keys():
        raise click.BadParameter(
            f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}", param_hint="--peers"
        )
    console = Console(stderr=True)
    rows: list[Row] = []
    failures: dict[str, str] = {}
    environments: dict[str, Environment] = {}
    for name in wanted:
        try:
            environments[name] = environment_of(PEERS[name])
        except PeerUnavailable as exc:
            failures[name] = f"not installed: {exc}"
    systems = ([OURS] if ours else []) + list(environments)
    with cluster_of_run() as (settings, own_cluster):
        for number in range(runs):
            # Rotated, so that no system always follows the same neighbour or always has the coldest broker.
            turn = number % max(len(systems), 1)
            for name in systems[turn:] + systems[:turn]:
                if name in failures:
                    continue
                try:
                    if name == OURS:
                        row = _run_ours(settings, own_cluster or recreate_topics, mode, events, rate, seconds)
                    else:
                        row = _run_peer(PEERS[name], environments[name], settings, mode, events, rate, seconds)
                except StreamsError as exc:
                    failures[name] = f"run {number + 1}: {exc}"
                    console.print(f"[{number + 1}/{runs}] {name} failed: {exc}", markup=False, highlight=False)
                    continue
                rows.append(row | {"round": number + 1})
                _write(json_file, rows[-1])
                console.print(f"[{number + 1}/{runs}] {_summary(row)}", markup=False, highlight=False)
    for name, reason in failures.items():
        _write(json_file, {"system": name, "mode": mode, "error": reason})
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows, failures, mode))
    for name, reason in failures.items():
        click.echo(f"{name}: failed: {reason}", err=True)
    if failures:
        sys.exit(1)


def _measure(system: System, settings: Settings, run: str, mode: str, events: int, rate: float, seconds: float) -> Row:
    kafka = command_config(settings)
    if mode == "throughput":
        return run_throughput(system, kafka, run, events)
    return run_latency(system, kafka, run, rate, seconds)


def _run_ours(settings: Settings, replace: bool, mode: str, events: int, rate: float, seconds: float) -> Row:
    run = new_run()
    prepare_worker(settings, replace=replace)
    with tempfile.TemporaryDirectory(prefix="streams-compare-") as folder:
        return _measure(
            worker_system(settings, Path(folder), run, workers=1), settings, run, mode, events, rate, seconds
        )


def _run_peer(
    peer: Peer, environment: Environment, settings: Settings, mode: str, events: int, rate: float, seconds: float
) -> Row:
    run = new_run()
    topics = [f"compare-{run}-in", f"compare-{run}-out"]
    kafka = command_config(settings)
    new = [
        NewTopic(name, settings.partitions, settings.replication_factor, config=dict(LOG_APPEND_TIME))
        for name in topics
    ]
    fresh_topics(kafka, new, replace=False)
    try:
        with tempfile.TemporaryDirectory(prefix=f"streams-compare-{peer.name}-") as folder:
            asked = {
                "--bootstrap": settings.brokers(),
                "--input": topics[0],
                "--output": topics[1],
                "--group": f"compare-{run}",
                "--folder": folder,
            }
            command = [str(environment.python), str(SCRIPTS / peer.script)]
            command += [word for option in asked.items() for word in option]
            command += ["--low-latency"] if mode == "latency" else []
            variables = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment.variables}
            system = System(peer.name, [Launch(command, variables)], *topics, versions=peer.versions)
            return _measure(system, settings, run, mode, min(events, peer.events_max or events), rate, seconds)
    finally:
        remove_topics(kafka, topics)


def table(rows: Sequence[Row], failures: Mapping[str, str], mode: str) -> Table:
    """Return the ratio table: median and min-max over the rounds, ratios of ours to a peer taken within each round."""
    columns = ["events_per_second"] if mode == "throughput" else ["p50_ms", "p99_ms", "p999_ms"]
    ratio_of = columns[0] if mode == "throughput" else "p99_ms"
    shown = Table(title=f"{mode}: median (min-max) over paired runs")
    shown.add_column("system")
    for column in [*columns, f"ours / it ({ratio_of})", "lost", "repeated", "events", "runs"]:
        shown.add_column(column, justify="right")
    by_system: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_system.setdefault(row["system"], {})[row["round"]] = row
    ours = by_system.get(OURS, {})
    for name, rounds in by_system.items():
        ratios = [ours[number][ratio_of] / row[ratio_of] for number, row in rounds.items() if number in ours]
        shown.add_row(
            name,
            *(spread([row[column] for row in rounds.values()], 0 if mode == "throughput" else 1) for column in columns),
            "1" if name == OURS else spread(ratios, 2),
            str(sum(row["lost"] for row in rounds.values())),
            str(sum(row["repeated"] for row in rounds.values())),
            f"{next(iter(rounds.values()))['events']:,}",
            str(len(rounds)),
        )
    for name in failures:
        if name not in by_system:
            shown.add_row(name, "failed", *[""] * (len(columns) + 4))
    return shown


def spread(values: Sequence[float], digits: int) -> str:
    """Return median (min-max), "-" where there is nothing."""
    if not values:
        return "-"
    return f"{np.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def _write(json_file: TextIO | None, row: Row) -> None:
    if json_file is not None:
        json_file.write(json.dumps(row) + "\n")
        json_file.flush()


def _summary(row: Row) -> str:
    measured = (
        f"{row['events_per_second']:,.0f}/s"
        if row["mode"] == "throughput"
        else f"p50 {row['p50_ms']:.1f} p99 {row['p99_ms']:.1f} p99.9 {row['p999_ms']:.1f} ms"
    )
    return f"{row['system']}: {measured}, lost {row['lost']}, repeated {row['repeated']}"


if __name__ == "__main__":
    main()
