"""What the documents say about settings, made from `streams.settings`: `python -m tests.support.settings_docs` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

from streams.settings import SETTINGS, Setting

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


def allowed(setting: Setting) -> str:
    """Return what a setting accepts: the listed words, or its type with its range."""
    if get_origin(setting.kind) is Literal:
        return ", ".join(get_args(setting.kind))
    kind = {str: "text", int: "whole number", float: "number"}[setting.kind]
    return kind if setting.bounds is None else f"{kind}, {setting.bounds[0]:,} to {setting.bounds[1]:,}"


def settings_table() -> str:
    """Return the README's table of settings."""
    lines = ["| key | default | accepts | meaning |", "|---|---|---|---|"]
    for setting in SETTINGS:
        value = setting.default
        shown = UNFIXED[setting.name][0] if value is None else "empty" if value == "" else f"`{value}`"
        meaning = setting.meaning + (" (secret: never shown)" if setting.is_secret else "")
        lines.append(f"| `{setting.name}` | {shown} | {allowed(setting)} | {meaning} |")
    return "\n".join(lines)


def settings_file() -> str:
    """Return the text of config/streams.toml."""
    parts = [FILE_HEAD]
    group: type | None = None
    for setting in SETTINGS:
        if setting.group is not group:
            group = setting.group
            parts.append(f"# {group.__doc__}\n")
        value = setting.default
        note = "" if value is not None else f" Default: {UNFIXED[setting.name][0].strip('`')}."
        example = UNFIXED[setting.name][1] if value is None else value
        parts.append(f"# {setting.name}: {setting.meaning} ({allowed(setting)}).{note}")
        parts.append(f"#{setting.name} = {json.dumps(example)}\n")
    return "\n".join(parts)


def with_table(readme: str) -> str:
    """Return the README with its table of settings made anew."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{settings_table()}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
    SETTINGS_FILE.write_text(settings_file())
