"""`streams train`: the frozen models, from simulated events or from payments of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.commands.parameters import SEED, Pairs, merged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streams.topics import Topic


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
    from streams.topics import TRANSACTIONS

    options: dict[str, Any] = {"seed": seed} if payments is None else {"seed": seed, "payments": payments}
    if file is not None:
        names = ("card_id", "terminal_id", "amount")
        options["columns"] = _own_events(file, TRANSACTIONS, names, merged(columns), label=labels)
    with _stages() as progress:
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
    from models.training.recommender import train as train_recommender
    from models.training.recommender import train_sessions
    from streams.topics import CLICKSTREAM

    if file is not None and file.suffix == ".npz":
        items, offsets = _sessions(file)
        with _stages() as progress:
            artifact = train_sessions(output, items, offsets, seed=seed, progress=progress)
        _report(output, artifact.manifest["metrics"])
        return

    options: dict[str, Any] = {"seed": seed} if clicks is None else {"seed": seed, "clicks": clicks}
    if file is not None:
        # The kind of a click is not used in training, so a file need not tell it.
        constants = {"event_type": "view"}
        names = ("session_id", "item_id")
        options["columns"] = _own_events(file, CLICKSTREAM, names, merged(columns), constants=constants)
    with _stages() as progress:
        metrics = train_recommender(output, progress=progress, **options)
    _report(output, metrics)


def _sessions(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return items and offsets of a file.

    Raises:
        SourceError: unreadable, or an array is absent or holds no whole numbers.
    """
    import zipfile

    import numpy as np

    from streams.commands.column_files import SourceError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            items, offsets = arrays["items"], arrays["offsets"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: expected arrays items and offsets, got {error}; correct the file") from error
    for name, array in (("items", items), ("offsets", offsets)):
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise SourceError(f"{path}: expected whole numbers in {name}, got {array.dtype}{list(array.shape)}")
    return items.astype(np.int32), offsets.astype(np.int64)


def _own_events(
    path: Path,
    topic: Topic,
    names: Sequence[str],
    columns: dict[str, str],
    *,
    constants: dict[str, str] | None = None,
    label: str | None = None,
) -> dict[str, Any]:
    """Return columns of a file as training takes them: lists of text, arrays of numbers; no gaps.

    Raises:
        SourceError: unreadable, a column is missing, or a row lacks a value.
    """
    import numpy as np

    from streams.commands.column_files import SourceError
    from streams.commands.event_files import EventFile

    if not path.is_file():
        raise SourceError(f"{path}: expected a file, got none")
    parts = list(EventFile(path, topic, columns=columns, constants=constants, label=label).slices(sort=False))
    if not parts:
        raise SourceError(f"{path}: no rows to train on")
    table: dict[str, Any] = {name: [value for part in parts for value in part.fields[name]] for name in names}
    if label is not None:
        table["is_fraud"] = [flag for part in parts for flag in part.labels or []]
    for name, values in table.items():
        if missing := values.count(None):
            raise SourceError(f"{path}: expected {name} in each row, got {missing:,} rows without; drop them")
    for name, dtype in (("amount", np.float64), ("is_fraud", np.bool_)):
        if name in table:
            table[name] = np.array(table[name], dtype=dtype)
    table["event_time"] = np.concatenate([part.event_time for part in parts])
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
