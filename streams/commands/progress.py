"""How far a long command is: one bar on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models.progress import Progress as Tell


@contextmanager
def stages() -> Iterator[Tell]:
    """Yield a function that shows (stage, fraction done of all) as a bar on stderr, where that is a terminal."""
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
