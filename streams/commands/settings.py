"""`streams settings`."""

from __future__ import annotations

import json

import click

from streams.settings import SETTINGS, load_settings


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
    for setting in SETTINGS:
        value = getattr(loaded, setting.name)
        differs = value != setting.initial()
        if differs or not changed:
            rows.append((setting.name, "***" if setting.is_secret and value else value, differs, setting.meaning))
    if as_json:
        click.echo(json.dumps({name: shown for name, shown, _, _ in rows}, indent=2))
        return
    for name, shown, differs, doc in rows:
        text = '""' if shown == "" else "unset" if shown is None else str(shown)
        click.echo(f"{'*' if differs else ' '} {name:<26} {text:<28} {doc}")
