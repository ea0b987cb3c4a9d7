"""Progress of a long computation: how it is reported."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]  # stage, fraction done of the whole training


def silent(stage: str, done: float) -> None:
    """Report nothing."""


def part_of(tell: Progress, begin: float, end: float, prefix: str = "") -> Progress:
    """Return a Progress for a part that makes up [begin, end] of the whole; `prefix` goes before each stage's name."""
    return lambda stage, done: tell(prefix + stage, begin + (end - begin) * done)
