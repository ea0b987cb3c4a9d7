"""`streams version`."""

from __future__ import annotations

import platform
from importlib import metadata

import click

import streams

# Those whose private API is used, or whose version changes a result.
DISTRIBUTIONS = ("faust-streaming", "aiokafka", "confluent-kafka", "torch", "numba", "numpy", "msgspec", "orjson")


@click.command()
def version() -> None:
    """Print the versions of streams and of what it stands on.

    \b
    Example:
      streams version
    """
    rows = [("streams", streams.__version__), ("python", platform.python_version())]
    for name in DISTRIBUTIONS:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    for name, found in rows:
        click.echo(f"{name:<16} {found}")
