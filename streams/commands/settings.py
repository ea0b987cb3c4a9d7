"""`streams settings`."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from typing import Any

import click

from streams.settings import Settings, load_settings


@click.command()
@click.option("--changed", is_flag=True, help="Only those that differ from their default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; secrets are masked.")
def settings(changed: bool, as_json: bool) -> None:
    """Print every setting: name, value in use, meaning.

    A `*` marks what differs from the default.
    A setting is set by a TOML file (KEY = value; named by STREAMS_CONFIG or --config), or by the variable STREAMS_KEY.

    \b
    Examples:
      streams settings --changed
      STREAMS_TOP_K=5 streams settings --json
    """
    loaded = load_settings()
    rows = []
    for declared in fields(Settings):
        value = getattr(loaded, declared.name)
        differs = value != _default(declared)
        if differs or not changed:
            shown = "***" if declared.metadata["secret"] and value else value
            rows.append((declared.name, shown, differs, declared.metadata["doc"]))
    if as_json:
        click.echo(json.dumps({name: shown for name, shown, _, _ in rows}, indent=2))
        return
    for name, shown, differs, doc in rows:
        text = '""' if shown == "" else "unset" if shown is None else str(shown)
        click.echo(f"{'*' if differs else ' '} {name:<26} {text:<28} {doc}")


def _default(declared: Field[Any]) -> Any:
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default
