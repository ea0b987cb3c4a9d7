"""Types of what is given on the command line."""

from __future__ import annotations

import math
from typing import Any, Final

import click

UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
RATE_MAX: Final = 1e9  # a thousand times what one producer sends; far beyond it counts are no whole numbers any more
SEED: Final = click.IntRange(0, 2**63 - 1)  # what numpy and torch both take


class FiniteRange(click.FloatRange):
    """A number in a range. Click lets NaN pass any range, and infinity an open one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number


class Rates(click.ParamType):
    """`NUMBER[,NUMBER...]`, events a second."""

    name = "rate,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Return the rates in the order given."""
        if isinstance(value, list):
            return value
        rate = FiniteRange(1, 1_000_000)
        return [rate.convert(part.strip(), param, ctx) for part in str(value).split(",")]


class Pairs(click.ParamType):
    """`NAME=VALUE[,NAME=VALUE...]`."""

    name = "name=value,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        """Return the pairs of one use of the option."""
        if isinstance(value, dict):
            return value
        pairs: dict[str, str] = {}
        for pair in str(value).split(","):
            name, equals, right = pair.partition("=")
            if not (name.strip() and equals and right.strip()):
                self.fail(f"expected NAME=VALUE[,NAME=VALUE...], got {pair!r}", param, ctx)
            pairs[name.strip()] = right.strip()
        return pairs


class Duration(click.ParamType):
    """`7d`, `12h`, `30m`, `90s`, `500ms` or a number of seconds, as milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = text[len(number) :] or "s"
        try:
            duration_ms = float(number) * UNITS_MS[unit]
        except (ValueError, KeyError):
            self.fail(f"expected a duration such as 7d, 12h, 30m or 90s, got {value!r}", param, ctx)
        if not 0 <= duration_ms < 1e15:
            self.fail(f"expected a duration of at least 0, got {value!r}", param, ctx)
        return int(duration_ms)


def merged(pairs: tuple[dict[str, str], ...]) -> dict[str, str]:
    """Return the pairs of every use of an option; the last wins."""
    return {name: value for group in pairs for name, value in group.items()}
