"""`streams train`: the frozen models, from simulated events or from payments of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from streams.commands.produce import Pairs, merged


@click.group()
def train() -> None:
    """Train the fraud model or the recommender on simulated events.

    A worker loads the artifact that STREAMS_FRAUD_ARTIFACT or STREAMS_RECOMMENDER_ARTIFACT names; without them, the one
    that ships.

    \b
    Examples:
      streams train fraud --output artifacts/fraud
      STREAMS_FRAUD_ARTIFACT=artifacts/fraud faust -A streams worker
    """


@train.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the artifact."
)
@click.option(
    "--payments", type=click.IntRange(min=1), help="Simulated payments (default: what the shipped model had)."
)
@click.option("--seed", type=int, default=7, show_default=True, help="Fixes simulation, initial weights and batches.")
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Payments of your own instead of simulated."
)
@click.option("--columns", type=Pairs(), multiple=True, help="With --file: FIELD=COLUMN,... as in `streams produce`.")
@click.option("--labels", metavar="COLUMN", help="With --file: the column that tells fraud.")
def fraud(
    output: Path,
    payments: int | None,
    seed: int,
    file: Path | None,
    columns: tuple[dict[str, str], ...],
    labels: str | None,
) -> None:
    """Train the fraud model and write its artifact, metrics and model card.

    \b
    Examples:
      streams train fraud --output artifacts/fraud
      streams train fraud --output artifacts/fraud --file payments.parquet --labels fraud \\
          --columns transaction_id=tx_id,event_time=ts,card_id=customer,terminal_id=terminal
    """
    if file is None and (columns or labels):
        raise click.UsageError("--columns and --labels: only with --file")
    if file is not None and (not labels or payments is not None):
        raise click.UsageError("--file: needs --labels COLUMN, and no --payments")
    from models.training.fraud import train as train_fraud

    options: dict[str, Any] = {"seed": seed}
    if payments is not None:
        options["payments"] = payments
    if file is not None:
        options["columns"] = _payments(file, merged(columns), labels)
    with _stages() as progress:
        metrics = train_fraud(output, progress=progress, **options)
    _report(output, metrics)


@train.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the artifact."
)
@click.option(
    "--sessions", type=click.IntRange(min=1), help="Simulated sessions (default: what the shipped model had)."
)
@click.option("--seed", type=int, default=7, show_default=True, help="Fixes simulation, initial weights and batches.")
def recommender(output: Path, sessions: int | None, seed: int) -> None:
    """Train the recommender and write its artifact, metrics and model card.

    \b
    Example:
      streams train recommender --output artifacts/recommender --sessions 50000
    """
    from models.training.recommender import train as train_recommender

    options: dict[str, Any] = {"seed": seed}
    if sessions is not None:
        options["sessions"] = sessions
    with _stages() as progress:
        metrics = train_recommender(output, progress=progress, **options)
    _report(output, metrics)


def _payments(path: Path, columns: dict[str, str], label: str | None) -> dict[str, Any]:
    import numpy as np

    from streams.commands.column_files import SourceError
    from streams.commands.event_files import EventFile
    from streams.topics import TRANSACTIONS

    parts = list(EventFile(path, TRANSACTIONS, columns=columns, label=label).slices(sort=False))
    flags = [flag for part in parts for flag in part.labels or []]
    if None in flags:
        raise SourceError(f"{path}: column {label!r}: expected a label in each row, got {flags.count(None):,} without")
    table: dict[str, Any] = {
        name: [value for part in parts for value in part.fields[name]] for name in ("card_id", "terminal_id")
    }
    for name, values in table.items():
        if None in values:
            raise SourceError(f"{path}: expected a {name} in each row, got {values.count(None):,} without")
    amounts = [value for part in parts for value in part.fields["amount"]]
    table["amount"] = np.array(amounts, dtype=np.float64)
    table["event_time"] = np.concatenate([part.event_time for part in parts]) if parts else np.empty(0, np.int64)
    table["is_fraud"] = np.array(flags, dtype=np.bool_)
    return table


@contextmanager
def _stages() -> Iterator[Callable[[str, float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage, done: bar.update(task, description=stage, completed=done)


def _report(output: Path, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        click.echo(f"{name:<28} {value:.4f}")
    click.echo(f"written to {output}")
