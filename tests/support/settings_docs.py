"""What the documents say about settings, made from `streams.settings`: `python -m tests.support.settings_docs` writes it."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from streams.settings import _RANGES, Settings

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SETTINGS_FILE = ROOT / "config" / "streams.toml"
BEGIN, END = "<!-- settings: made by `python -m tests.support.settings_docs` -->", "<!-- end of settings -->"

# Keys whose default is no fixed value: what the documents show for it, and an example for the file.
UNFIXED: dict[str, tuple[str, str | float]] = {
    "state_dir": ("`~/.local/state/streams`", "/var/lib/streams"),
    "worker_slot": ("unset", 0),
    "commit_interval_ms": ("unset", 20),
    "review_threshold": ("unset", 0.5),
    "decline_threshold": ("unset", 0.9),
}
FILE_HEAD = """\
# Settings of the worker and of the commands. Every line is commented out: it shows the
# default, or an example where the default is no fixed value.
# Named by `streams --config FILE` or STREAMS_CONFIG; a variable STREAMS_<KEY> wins over this file.
"""


def allowed(declared: Field[Any]) -> str:
    """Return what a setting accepts: the listed words, or its type with its range."""
    hint = get_type_hints(Settings)[declared.name]
    if get_origin(hint) is Literal:
        return ", ".join(get_args(hint))
    names = [kind.__name__ for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    kind = {"str": "text", "int": "whole number", "float": "number"}[names[0]]
    bounds = {name: (low, high) for name, low, high in _RANGES}.get(declared.name)
    return kind if bounds is None else f"{kind}, {bounds[0]:,} to {bounds[1]:,}"


def default(declared: Field[Any]) -> Any:
    """Return a setting's default; None where it has no fixed one."""
    return None if declared.default is MISSING else declared.default


def settings_table() -> str:
    """Return the README's table of settings."""
    lines = ["| key | default | accepts | meaning |", "|---|---|---|---|"]
    for declared in fields(Settings):
        value = default(declared)
        shown = UNFIXED[declared.name][0] if value is None else "empty" if value == "" else f"`{value}`"
        meaning = declared.metadata["doc"] + (" (secret: never shown)" if declared.metadata["secret"] else "")
        lines.append(f"| `{declared.name}` | {shown} | {allowed(declared)} | {meaning} |")
    return "\n".join(lines)


def settings_file() -> str:
    """Return the text of config/streams.toml."""
    parts = [FILE_HEAD]
    for declared in fields(Settings):
        value = default(declared)
        note = "" if value is not None else f" Default: {UNFIXED[declared.name][0].strip('`')}."
        example = UNFIXED[declared.name][1] if value is None else value
        meaning = declared.metadata["doc"]
        parts.append(f"# {declared.name}: {meaning} ({allowed(declared)}).{note}")
        parts.append(f"#{declared.name} = {json.dumps(example)}\n")
    return "\n".join(parts)


def with_table(readme: str) -> str:
    """Return the README with its table of settings made anew."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{settings_table()}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
    SETTINGS_FILE.write_text(settings_file())
