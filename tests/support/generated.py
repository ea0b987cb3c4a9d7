"""What the documents say that the code knows: `python -m tests.support.generated` writes all of it.

A region of a document stands between two comments; the first names the part that makes it. Beside the regions there
are two whole products: config/streams.toml, and the schemas with the AsyncAPI document (`streams topics schemas`).
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from streams.commands import main
from streams.contract.diagnosis import REJECTION_CODES
from streams.contract.documents import json_schema, write_schemas
from streams.contract.topics import INPUTS, OUTPUTS
from streams.engine.metrics import Metrics
from streams.settings import SETTINGS, Setting
from tests.support.example import example

ROOT = Path(__file__).parents[2]
SETTINGS_FILE = ROOT / "config" / "streams.toml"
BEGIN, END = "<!-- made by `python -m tests.support.generated`: {} -->", "<!-- end of {} -->"
WIDTH = 100  # of prose

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


def table(head: str, *rows: tuple[str, ...]) -> str:
    """Return a table of markdown; `head` names the columns, with a bar between two."""
    cells = [name.strip() for name in head.split("|")]
    lines = [cells, ["---"] * len(cells), *([each.replace("|", "\\|") for each in row] for row in rows)]
    separators = ["|".join(line) if line is lines[1] else " | ".join(line) for line in lines]
    return "\n".join(f"|{line}|" if line.startswith("---") else f"| {line} |" for line in separators)


def allowed(setting: Setting) -> str:
    """Return what a setting accepts: the listed words, or its type with its range."""
    if get_origin(setting.kind) is Literal:
        return ", ".join(get_args(setting.kind))
    kind = {str: "text", int: "whole number", float: "number"}[setting.kind]
    return kind if setting.bounds is None else f"{kind}, {setting.bounds[0]:,} to {setting.bounds[1]:,}"


def settings() -> str:
    """Return the table of settings."""
    rows = []
    for setting in SETTINGS:
        value = setting.default
        shown = UNFIXED[setting.name][0] if value is None else "empty" if value == "" else f"`{value}`"
        meaning = setting.meaning + (" (secret: never shown)" if setting.is_secret else "")
        rows.append((f"`{setting.name}`", shown, allowed(setting), meaning))
    return table("key | default | accepts | meaning", *rows)


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


def metrics() -> str:
    """Return the table of the worker's metrics."""
    rows = []
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "describe"):
            continue
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "none"
        rows.append((f"`{name}`", family.type, labels, family.documentation))
    return table("metric | type | labels | meaning", *rows)


def codes() -> str:
    """Return the table of the codes of dead letters."""
    return table("code | why", *((f"`{code}`", meaning) for code, meaning in REJECTION_CODES.items()))


def topics() -> str:
    """Return the table of the public topics."""
    rows = []
    for topic in INPUTS + OUTPUTS:
        days = int(topic.config["retention.ms"]) // 86_400_000
        key = f"`{topic.key}`" if topic.key else "the original's"
        record = (topic.schema.__doc__ or "").strip().partition(".")[0].partition(":")[0]
        rows.append((f"`{topic.name}`", "in" if topic in INPUTS else "out", key, record, f"{days} days"))
    return table("topic | direction | key | one record | kept", *rows)


def events() -> str:
    """Return a table of fields for each public topic, and for each object in its records."""
    parts = []
    for topic in INPUTS + OUTPUTS:
        schema = json_schema(topic)
        parts.append(f"### `{topic.name}`\n\n{_fields(schema)}")
        parts += [f"`{name}` has these fields:\n\n{_fields(each)}" for name, each in schema.get("$defs", {}).items()]
    return "\n\n".join(dict.fromkeys(parts))


def _fields(schema: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", _type(field), "yes" if name in schema.get("required", ()) else "no", _meaning(field))
        for name, field in schema["properties"].items()
    ]
    return table("field | JSON | required | meaning", *rows)


def _type(field: dict[str, Any]) -> str:
    """Return the JSON type of a field with its limits, in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(each) for each in field["anyOf"]))
    if "enum" in field:
        return " or ".join(f"`{each}`" for each in field["enum"])
    if "$ref" in field:
        return f"object `{field['$ref'].rpartition('/')[2]}`"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    kind = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
    words = [kind[field["type"]]]
    low, high = field.get("minLength"), field.get("maxLength")
    if high is not None:
        words.append(f"of {high} characters" if low == high else f"of {low} to {high} characters")
    if field["type"] == "number" and "minimum" in field:
        words.append(f"from {field['minimum']:,g}" + (f" to {field['maximum']:,.0f}" if "maximum" in field else ""))
    return " ".join(words)


def _meaning(field: dict[str, Any]) -> str:
    parts = (field, *field.get("anyOf", ()))
    meaning = next((each["description"] for each in parts if "description" in each), "")
    return str(meaning.partition(" At stage decode: ")[0])  # the codes have a table of their own


def leaves(command: click.Command, path: tuple[str, ...] = ("streams",)) -> list[tuple[str, click.Command]]:
    """Return each command that does something, with its full name, in the order of the help."""
    if not isinstance(command, click.Group):
        return [(" ".join(path), command)]
    context = click.Context(command)
    children = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [leaf for name, child in children if child for leaf in leaves(child, (*path, name))]


def command_names() -> str:
    """Return the names of the commands, those of a group in brackets."""
    context = click.Context(main)
    names = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None, f"{name}: listed and not found; this is a bug"
        below = ", ".join(command.commands) if isinstance(command, click.Group) else ""
        names.append(f"`{name}`" + (f" ({below})" if below else ""))
    return textwrap.fill("`streams` has " + ", ".join(names) + ".", WIDTH, break_on_hyphens=False)


def commands() -> str:
    """Return a section for each command: what it does, how it is called, its options."""
    parts = [f"## Options of all commands\n\n{_options(main)}\n\nThey stand before the command's name."]
    for name, command in leaves(main):
        context = click.Context(command, info_name=name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        parts.append(f"## {name}\n\n`{usage}`\n\n" + "\n\n".join(_prose(command, examples=True)))
        if options := _options(command):
            parts[-1] += f"\n\n{options}"
    return "\n\n".join(parts)


def _prose(command: click.Command, *, examples: bool = False) -> list[str]:
    """Return the paragraphs of a command's help, its examples as a block of shell."""
    found = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b"):
            words = re.sub(
                r"(?<![`\w-])--[a-z][a-z-]*(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"`\g<0>`", " ".join(paragraph.split())
            )
            found.append(textwrap.fill(words, WIDTH, break_on_hyphens=False))
        elif examples:
            _, title, *lines = paragraph.split("\n")
            assert title.startswith("Example"), f"{command.name}: expected Example or Examples, got {title!r}"
            found.append("```sh\n" + textwrap.dedent("\n".join(lines)) + "\n```")
    return found


def _options(command: click.Command) -> str:
    """Return the table of a command's options, or nothing where it has none."""
    rows = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.is_eager:  # --help, --version
            continue
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        default = option.default
        shown = f"`{default}`" if isinstance(default, str | int | float | Path) and not option.is_flag else ""
        rows.append((names, "" if option.is_flag else _value(option), shown, option.help or ""))
    return table("option | value | default | meaning", *rows) if rows else ""


def _value(option: click.Option) -> str:
    """Return what an option takes, in words."""
    kind = option.type
    if isinstance(kind, click.Choice):
        words = ", ".join(map(str, kind.choices))
    elif isinstance(kind, click.IntRange | click.FloatRange):
        words = "whole number" if isinstance(kind, click.IntRange) else "number"
        if kind.min is not None:
            words += f" {'above' if kind.min_open else 'from'} {kind.min:,}"
        if kind.max is not None:
            words += f" to {kind.max:,}"
    else:
        words = f"`{option.metavar or kind.name.upper()}`"
    return words + (", repeatable" if option.multiple else "")


REGIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"example": example, "topics": topics, "command names": command_names},
    "config/README.md": {"settings": settings, "metrics": metrics},
    "streams/contract/README.md": {"codes": codes, "events": events},
    "streams/commands/README.md": {"commands": commands},
}


def renewed(document: str) -> str:
    """Return a document with its regions made anew."""
    text = (ROOT / document).read_text()
    for name, make in REGIONS[document].items():
        begin, end = BEGIN.format(name), END.format(name)
        assert text.count(begin) == text.count(end) == 1, f"{document}: expected one region {name!r} with its end"
        made = f"{begin}\n{make()}\n{end}"
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _, made=made: made, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for each in REGIONS:
        (ROOT / each).write_text(renewed(each))
    SETTINGS_FILE.write_text(settings_file())
    write_schemas(ROOT / "config")
