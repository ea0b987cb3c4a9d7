"""The documents say what the code does: commands, settings, codes, links."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from streams.commands import main
from streams.contract.columns import Limits
from streams.contract.decoding import decode_transactions
from streams.contract.diagnosis import REJECTION_CODES
from streams.contract.topics import ALL
from streams.settings import Settings, load_settings
from tests.support.settings_docs import README, ROOT, SETTINGS_FILE, UNFIXED, settings_file, with_table

TEXT = README.read_text()
DESIGN = ROOT / "streams" / "DESIGN.md"
DOCUMENTS = [
    path
    for pattern in (
        "*.md",
        "*.toml",
        "streams/**/*.md",
        "models/**/*.md",
        "findings/*.md",
        "config/**/*",
        "docker/*",
        ".ci/*",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
]
SHELL = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def leaves(command: click.Command, path: tuple[str, ...] = ("streams",)) -> list[str]:
    if not isinstance(command, click.Group):
        return [" ".join(path)]
    context = click.Context(command)
    children = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return [leaf for name, child in children.items() if child for leaf in leaves(child, (*path, name))]


def calls() -> list[str]:
    """Return each `streams ...` of the README's shell blocks and tables, continued lines joined, without the program."""
    lines = [line for block in SHELL for line in block.replace("\\\n", " ").splitlines()]
    quoted = [quote for row in TEXT.splitlines() for quote in re.findall(r"`([^`]+)`", row)]
    found = []
    for line in lines + quoted:
        for part in re.split(r"&&|\|\|", line):
            words = part.strip().removeprefix(".venv/bin/").split(" ", 1)
            if words[0] == "streams" and len(words) == 2 and "..." not in words[1]:
                found.append(words[1])
    return sorted(set(found))


def parse(arguments: list[str]) -> None:
    """Raise click's usage errors where a command or an option does not exist."""
    command: click.Command = main
    context = click.Context(main, info_name="streams")
    while isinstance(command, click.Group):
        _, rest = click.Command.make_parser(command, context).parse_args(arguments)[:2]
        if not rest:
            return
        name, *arguments = rest
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no such command: {name}")
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_parser(context).parse_args(arguments)


def test_first_command_is_one_line_that_starts_the_demo_in_a_fresh_clone() -> None:
    """A newcomer copies one line; the second line runs the tests, and CI runs that very line."""
    first, second = (block.strip() for block in SHELL[:2])
    assert first == "python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/streams demo"
    assert second == ".venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
    (expression,) = re.findall(r"sed -n 's/(.+)/\\1/p' README\.md", (ROOT / ".ci" / "run").read_text())
    pattern = expression.replace(r"\(", "(").replace(r"\)", ")").replace(r"\/", "/")
    assert re.findall(pattern, TEXT, re.MULTILINE) == [second]


def test_every_command_is_in_the_table() -> None:
    """The table of commands is complete, and has none that does not exist."""
    named = re.findall(r"^\| `(streams [a-z -]+)` \|", TEXT, re.MULTILINE)
    assert sorted(named) == sorted(leaves(main))


@pytest.mark.parametrize("call", calls())
def test_commands_in_the_readme_parse(call: str) -> None:
    """Each call shown names commands and options that exist."""
    parse(shlex.split(call.partition(" #")[0]))


def test_wrong_calls_would_be_seen() -> None:
    """The check above does tell."""
    with pytest.raises(click.UsageError):
        parse(["topics", "invent"])
    with pytest.raises(click.UsageError):
        parse(["watch", "decisions", "--no-such-option"])


def test_settings_table_and_file_are_current() -> None:
    """Both are made from the settings; after a change run `python -m tests.support.settings_docs`."""
    assert with_table(TEXT) == TEXT
    assert SETTINGS_FILE.read_text() == settings_file()


def test_every_setting_is_named_in_the_readme() -> None:
    """Each key has a row, and no row is of a key that does not exist."""
    table = TEXT.partition("<!-- settings: made")[2].partition("<!-- end of settings -->")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [declared.name for declared in fields(Settings)]


def test_settings_file_is_the_defaults_and_its_lines_work(tmp_path: Path) -> None:
    """As it stands the file changes nothing; with every line active it is accepted, and fixed defaults are the defaults."""
    assert load_settings(SETTINGS_FILE, env={}) == Settings()
    active = tmp_path / "streams.toml"
    active.write_text(re.sub(r"^#(\w+ = )", r"\1", SETTINGS_FILE.read_text(), flags=re.MULTILINE))
    loaded, default = load_settings(active, env={}), Settings()
    for declared in fields(Settings):
        expected: Any = getattr(default, declared.name)
        if declared.name in UNFIXED:
            expected = UNFIXED[declared.name][1]
        assert getattr(loaded, declared.name) == expected
    assert {f.name for f in fields(Settings) if f.default is None or f.default is MISSING} == UNFIXED.keys()


def test_topics_and_codes_are_listed() -> None:
    """The README's tables of topics (with key and retention) and of codes are those of the code."""
    tables = TEXT.partition("\n## Topics\n")[2].partition("\n## Commands\n")[0]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", tables, re.MULTILINE))
    for topic in ALL:
        _, key, _, kept = rows.pop(topic.name).split(" | ")
        assert key == (f"`{topic.key}`" if topic.key else "the original's")
        assert kept == f"{int(topic.config['retention.ms']) // 86_400_000} days"
    assert rows == REJECTION_CODES


def test_python_in_the_readme_compiles_and_its_payment_is_valid() -> None:
    """The example of a producer sends a payment that would be decided."""
    (example,) = PYTHON
    assert len(example.splitlines()) <= 10
    sent: list[bytes] = []

    class Producer:
        def __init__(self, config: dict[str, Any]) -> None:
            assert config["partitioner"] == "murmur2_random"

        def produce(self, topic: str, value: str, key: str) -> None:
            assert (topic, key) == ("transactions", "card-42")
            sent.append(value.encode())

        def flush(self) -> None:
            assert sent

    code = example.replace("from confluent_kafka import Producer\n", "")
    exec(compile(code, "README.md", "exec"), {"Producer": Producer})
    now_ms = 4_102_444_800_000
    assert len(decode_transactions(sent, now_ms=now_ms, limits=Limits()).accepted) == 1


@pytest.mark.parametrize("document", [README, DESIGN], ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    """Every relative link is to a file or folder of this repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())
    assert links
    assert not [link for link in links if not (document.parent / link).exists()]


def test_files_named_in_the_design_exist() -> None:
    """The life of a record and the file map name real files."""
    named = set(re.findall(r"`((?:\.\./)?[\w/.]+(?:\.py|\.yaml|/))`", DESIGN.read_text())) - {"streams/app.py"}
    folders = (DESIGN.parent, DESIGN.parent / "kafka", DESIGN.parents[1] / "models" / "features", DESIGN.parents[1])
    folders += (DESIGN.parents[1] / "models" / "training", DESIGN.parents[1] / "models" / "evaluation")
    assert len(named) > 20
    assert not [name for name in named if not any((folder / name).exists() for folder in folders)]


def tables(section: str) -> list[tuple[list[str], list[list[str]], str]]:
    """Return header, rows and the text that follows, up to the next table, of each table in a section."""
    found = re.findall(r"((?:^\|.*\|\n)+)((?:^(?!\|).*\n)*)", section, re.MULTILINE)
    parsed = []
    for lines, after in found:
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.splitlines()]
        parsed.append((header, rows, after))
    return parsed


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script that measures peers."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    import compare

    yield compare
    sys.modules.pop("compare")


def check_figures(section: str, compare: ModuleType) -> None:
    """Raise where a row of a benchmark table has no command that works, in its last cell or right below its table."""
    for header, rows, after in tables(section):
        if header[-1] == "command":
            for *_, what in rows:
                command, above = re.fullmatch(r"`(.+?)`( as above)?", what).groups()  # type: ignore[union-attr]
                program, _, arguments = command.partition(" ")
                assert program == "streams", what
                if above:
                    assert any(command.removesuffix("...") in block for block in SHELL), f"{what}: not above"
                else:
                    parse(shlex.split(arguments))
        else:
            (arguments,) = re.findall(r"python tests/bench/compare\.py (--[^`]+)`", after)
            measured = compare.main.make_context("compare", shlex.split(arguments)).params["peers"].split(",")
            assert set(measured) <= compare.PEERS.keys()
            assert len(rows) == len(measured)
            for name, *_ in rows:
                assert sum(peer in name.lower() for peer in measured) == 1, f"{name}: not in {arguments}"


BENCHMARK = TEXT.partition("\n## Benchmark\n")[2].partition("\n## ")[0]


def test_benchmark_figures_have_a_command(compare: ModuleType) -> None:
    """Each row of the benchmark names the command that makes its figure, and that command exists."""
    assert len(tables(BENCHMARK)) >= 3
    assert all(rows for _, rows, _ in tables(BENCHMARK))
    check_figures(BENCHMARK, compare)


@pytest.mark.parametrize(
    "row",
    [
        "| throughput | 1,000,000 events/s | |",
        "| throughput | 1,000,000 events/s | believe us |",
        "| throughput | 1,000,000 events/s | `streams bench guess` |",
        "| throughput | 1,000,000 events/s | `streams bench throughput --no-such-option` |",
        "| throughput | 1,000,000 events/s | `streams produce nothing.parquet ...` as above |",
        "| peer that nobody measured | 1 | 9 |",
    ],
)
def test_figures_without_a_command_would_be_seen(row: str, compare: ModuleType) -> None:
    """The check above does tell, whichever table the row is added to."""
    head = "| peer, " if row.startswith("| peer") else "| what | figure | command |"
    at = BENCHMARK.index("\n", BENCHMARK.index("|---", BENCHMARK.index(head)))
    with pytest.raises((AssertionError, AttributeError, click.UsageError)):
        check_figures(BENCHMARK[:at] + f"\n{row}" + BENCHMARK[at:], compare)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_speak_of_this_project_alone(document: Path) -> None:
    """No paths of somebody's machine and no numbers of a tracker."""
    forbidden = r"(?<![\w.])/(work|root|tmp|home/\w+)/|\bissues? #?\d|(?<![\w&])#\d+\b"
    text = document.read_text()
    assert not [match[0] for match in re.finditer(forbidden, text, re.IGNORECASE)]
