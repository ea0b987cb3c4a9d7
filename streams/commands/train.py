"""`streams train`: the frozen models, from simulated events or from payments of your own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streams.commands.parameters import SEED, Pairs, merged
from streams.commands.progress import stages


def _common(folder: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    path = click.Path(file_okay=False, path_type=Path)
    options = (
        click.option(
            "--columns", type=Pairs(), multiple=True, help="With --file: FIELD=COLUMN,... as in `streams produce`."
        ),
        click.option(
            "--file", type=click.Path(dir_okay=False, path_type=Path), help="Events of your own, not simulated ones."
        ),
        click.option(
            "--seed", type=SEED, default=7, show_default=True, help="Fixes simulation, first weights and batches."
        ),
        click.option("--output", type=path, default=folder, show_default=True, help="Folder of the artifact."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in options:
            command = option(command)
        return command

    return decorate


@click.group()
def train() -> None:
    """Train the fraud model or the recommender, on simulated events or on your own.

    A worker loads the artifact that STREAMS_FRAUD_ARTIFACT or STREAMS_RECOMMENDER_ARTIFACT names; without them, the one
    that ships.

    \b
    Examples:
      streams train fraud --output artifacts/fraud
      STREAMS_FRAUD_ARTIFACT=artifacts/fraud faust -A streams worker
    """


@train.command()
@click.option("--labels", metavar="COLUMN", help="With --file: the column that tells fraud.")
@click.option("--payments", type=click.IntRange(min=1), help="Simulated payments (default: as the shipped model had).")
@_common("artifacts/fraud")
def fraud(
    output: Path,
    seed: int,
    file: Path | None,
    columns: tuple[dict[str, str], ...],
    payments: int | None,
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
    from streams.contract.topics import TRANSACTIONS
    from streams.replaying.event_files import read_events

    options: dict[str, Any] = {"seed": seed} if payments is None else {"seed": seed, "payments": payments}
    if file is not None:
        names = ("card_id", "terminal_id", "amount")
        options["columns"] = read_events(file, TRANSACTIONS, names, merged(columns), label=labels)
    with stages() as progress:
        metrics = train_fraud(output, progress=progress, **options)
    _report(output, metrics)


@train.command()
@click.option("--clicks", type=click.IntRange(min=1), help="Simulated clicks (default: as the shipped model had).")
@_common("artifacts/recommender")
def recommender(
    output: Path, seed: int, file: Path | None, columns: tuple[dict[str, str], ...], clicks: int | None
) -> None:
    """Train the recommender and write its artifact, metrics and model card.

    \b
    Examples:
      streams train recommender --clicks 300000
      streams train recommender --file clicks.parquet --columns event_time=Time,session_id=SessionId,item_id=ItemId
      streams train recommender --file sessions.npz

    An .npz holds whole sessions, the oldest first: session k is items[offsets[k]:offsets[k + 1]].
    """
    if file is None and columns:
        raise click.UsageError("--columns: only with --file")
    if file is not None and clicks is not None:
        raise click.UsageError("--file: takes no --clicks")
    if file is not None and file.suffix == ".npz" and columns:
        raise click.UsageError("--columns: an .npz has items and offsets")
    from models.evaluation.sessions import read_sessions
    from models.training.recommender import train as train_recommender
    from models.training.recommender import train_sessions
    from streams.contract.topics import CLICKSTREAM
    from streams.replaying.event_files import read_events

    if file is not None and file.suffix == ".npz":
        sessions = read_sessions(file)
        with stages() as progress:
            artifact = train_sessions(output, sessions.items, sessions.offsets, seed=seed, progress=progress)
        _report(output, artifact.manifest["metrics"])
        return

    options: dict[str, Any] = {"seed": seed} if clicks is None else {"seed": seed, "clicks": clicks}
    if file is not None:
        # The kind of a click is not used in training, so a file need not tell it.
        constants = {"event_type": "view"}
        names = ("session_id", "item_id")
        options["columns"] = read_events(file, CLICKSTREAM, names, merged(columns), constants=constants)
    with stages() as progress:
        metrics = train_recommender(output, progress=progress, **options)
    _report(output, metrics)


def _report(output: Path, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        click.echo(f"{name:<28} {value:.4f}")
    click.echo(f"written to {output}")
