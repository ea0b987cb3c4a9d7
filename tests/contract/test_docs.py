"""The documents say what the code does: commands, settings, codes, examples, links, figures."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from jsonschema import Draft202012Validator

from streams.commands import main
from streams.contract.columns import Limits
from streams.contract.decoding import decode_transactions
from streams.contract.diagnosis import REJECTION_CODES
from streams.contract.documents import json_schema
from streams.contract.topics import DECISIONS, INPUTS, OUTPUTS, TRANSACTIONS
from streams.settings import Settings, load_settings
from tests.support.example import decide, same, shown
from tests.support.generated import REGIONS, SETTINGS_FILE, UNFIXED, leaves, renewed, settings_file
from tests.support.markdown import (
    DOCUMENTS,
    PATTERNS,
    README,
    ROOT,
    anchors,
    blocks,
    name,
    quoted,
    shell_lines,
    tables,
    without_blocks,
)
from tests.support.pictures import FLOW, flow_picture

TEXT = README.read_text()
BENCH = ROOT / "tests" / "bench" / "README.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WIDTH = 100
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name)
SPOKEN = [
    path
    for pattern in (*PATTERNS, "*.toml", "models/weights/**/*.md", "config/**/*", "docker/*", ".ci/*")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
]


def parse(arguments: list[str]) -> None:
    """Raise click's usage errors where a command or an option does not exist."""
    command: click.Command = main
    context = click.Context(main, info_name="streams")
    while isinstance(command, click.Group):
        _, rest = click.Command.make_parser(command, context).parse_args(arguments)[:2]
        if not rest:
            return
        called, *arguments = rest
        found = command.get_command(context, called)
        if found is None:
            raise click.UsageError(f"no such command: {called}")
        command, context = found, click.Context(found, parent=context, info_name=called)
    command.make_parser(context).parse_args(arguments)


def check_shell(line: str) -> None:
    """Raise where a line calls what does not exist: a command, an option, a file, an extra, a setting."""
    for part in re.split(r"&&|\|\|?|;", line) if "-c" not in line.split() else [line]:
        words = shlex.split(part.strip().removeprefix("("), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            check_variable(words.pop(0))
        if words:
            program, *arguments = words
            check_call(Path(program).name, arguments)


def check_variable(assignment: str) -> None:
    variable, _, value = assignment.partition("=")
    key = variable.removeprefix("STREAMS_").lower()
    if variable.startswith("STREAMS_"):
        assert key in {each.name for each in fields(Settings)} | {"config"}, f"{variable}: no such setting"
        assert value


def check_call(program: str, arguments: list[str]) -> None:
    match program, arguments:
        case "streams", _:
            parse(arguments)
        case "faust", _:
            assert arguments[:3] == ["-A", "streams", "worker"]
        case "export", _:
            for each in arguments:
                check_variable(each)
        case "python" | "python3", ["-m", "venv", ".venv"]:
            pass
        case "python", ["-m", "pytest", *rest]:
            check_pytest(rest)
        case "python", ["-c", code]:
            ast.parse(code)
        case "python", [file, *rest]:
            source = (ROOT / file).read_text()
            assert all(each in source for each in rest if each.startswith("--")), f"{file}: {rest}"
        case "pip", ["install", *what]:
            for extras in re.findall(r"\[(.+)\]", " ".join(what)):
                assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
        case "docker", ["compose", *rest]:
            files = [ROOT / file for option, file in pairwise(rest) if option == "--file"]
            services = set().union(*(yaml.safe_load(file.read_text())["services"] for file in files))
            assert files and ("exec" not in rest or rest[rest.index("exec") + 1] in services)
        case "docker", ["build", "--file", file, "--target", target, *_]:
            assert re.search(rf"^FROM .* AS {target}$", (ROOT / file).read_text(), re.MULTILINE), (
                f"{target}: no such target"
            )
        case ("git", ["clone", *_]) | ("echo" | "head" | "jq" | "base64", _):
            pass
        case _:
            assert program.endswith(".sh") and (ROOT / "findings" / program).is_file(), f"{program}: not known here"


def check_pytest(arguments: list[str]) -> None:
    """Raise where a marker or a file does not exist."""
    markers = {each.partition(":")[0] for each in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    for option, each in zip(["", *arguments], arguments, strict=False):
        if option == "-m":
            assert each in markers, f"{each}: no such marker"
        elif option not in ("-k", "-n") and not each.startswith("-"):
            assert (ROOT / each).exists(), f"{each}: no such file"


def test_first_command_is_one_line_that_starts_the_demo_in_a_fresh_clone() -> None:
    """A newcomer copies one line; the second line runs the tests, and CI runs that very line."""
    first, second = (block.strip() for block in blocks(TEXT, "sh")[:2])
    assert first == "python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/streams demo"
    assert second == ".venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
    (expression,) = re.findall(r"sed -n 's/(.+)/\\1/p' README\.md", (ROOT / ".ci" / "run").read_text())
    pattern = expression.replace(r"\(", "(").replace(r"\)", ")").replace(r"\/", "/")
    assert re.findall(pattern, TEXT, re.MULTILINE) == [second]


def test_the_readme_is_a_front_door() -> None:
    """It is read in one go; what it has no room for stands beside what it speaks of, and is linked."""
    assert 120 <= len(TEXT.splitlines()) <= 150
    linked = {(ROOT / link).resolve() for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)}
    assert not [name(path) for path in DOCUMENTS if path != README and path not in linked]


def test_the_decision_shown_is_the_decision_of_the_payment_shown() -> None:
    """The README's payment is decided by the job and the model that ship; only moments differ."""
    payment, decision = shown()
    made = decide(payment)
    assert same(made, decision)
    for value, topic in ((payment, TRANSACTIONS), (decision, DECISIONS)):
        Draft202012Validator(json_schema(topic)).validate(value)
    for key, other in {
        "decision": "approve",
        "score": made["score"] + 0.01,
        "card_id": "card-43",
        "reasons": [],
    }.items():
        assert not same(made | {key: other}, decision)
    assert not same(decide(payment | {"amount": 1200.0}), decision)


@pytest.mark.parametrize("document", REGIONS)
def test_generated_regions_are_current(document: str) -> None:
    """After a change run `python -m tests.support.generated`."""
    assert renewed(document) == (ROOT / document).read_text()


def test_topics_codes_and_settings_are_listed() -> None:
    """The tables hold each of the code's and no other, told without the generator that writes them."""
    pattern = re.compile(r"^\| `([\w-]+)` \| (.+) \|$", re.MULTILINE)
    rows = dict(pattern.findall(TEXT.partition("\n## Topics\n")[2].partition("\n## ")[0]))
    assert rows.keys() == {topic.name for topic in INPUTS + OUTPUTS}
    for topic in INPUTS + OUTPUTS:
        _, key, _, kept = rows[topic.name].split(" | ")
        assert key == (f"`{topic.key}`" if topic.key else "the original's")
        assert kept == f"{int(topic.config['retention.ms']) // 86_400_000} days"
    contract = (ROOT / "streams" / "contract" / "README.md").read_text()
    codes = contract.partition("| code | why |")[2].partition("\n\n")[0]
    assert dict(pattern.findall(codes.partition("<!--")[0])) == REJECTION_CODES
    table = (ROOT / "config" / "README.md").read_text().partition("| key | default |")[2].partition("<!--")[0]
    assert [key for key, _ in pattern.findall(table)] == [declared.name for declared in fields(Settings)]


def test_every_command_is_described() -> None:
    """Each command has a section with its help, and no section is of a command that does not exist."""
    text = (ROOT / "streams" / "commands" / "README.md").read_text()
    assert re.findall(r"^## (streams .+)$", text, re.MULTILINE) == [called for called, _ in leaves(main)]


@each_document
def test_shell_of_documents_calls_what_exists(document: Path) -> None:
    """Each line of a shell block names commands, options, files and settings that exist."""
    text = document.read_text()
    assert not re.findall(r"^```(?!sh\n|python\n|json\n|\n)", text, re.MULTILINE), "a block that no test reads"
    for line in shell_lines(text):
        check_shell(line)


@each_document
def test_calls_that_documents_quote_exist(document: Path) -> None:
    """So does each call between backticks."""
    for quote in quoted(document.read_text()):
        first = re.sub(r"^([A-Z_]+=\S+ )+", "", quote).split(" ")[0]
        if " " in quote and first in ("streams", "faust", "python", "pip", "pytest") and "[OPTIONS]" not in quote:
            call = quote.replace(" ...", "").replace("pytest", "python -m pytest", first == "pytest")
            if not call.startswith("python -m tests."):
                check_shell(call)
            else:
                module = call.split()[2]
                assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{module}: no such module"


@pytest.mark.parametrize(
    "line",
    [
        "streams topics invent",
        "streams watch decisions --no-such-option",
        "faust -A stream worker",
        "python tests/bench/restore.py --locks 3",
        "python tests/bench/guess.py",
        "python -m pytest -m guess",
        "python -m pytest tests/unit/test_guess.py",
        "pip install -q '.[guess]'",
        "STREAMS_GUESS=1 streams demo",
        "export STREAMS_GUESS=1",
        "docker compose --file docker/compose.yaml exec worker-7 streams version",
        "docker compose --file docker/guess.yaml up",
        "docker build --file docker/Dockerfile --target guess .",
        "python -c 'import'",
        "guess",
    ],
)
def test_wrong_calls_would_be_seen(line: str) -> None:
    """The checks above do tell."""
    with pytest.raises((click.UsageError, AssertionError, OSError, SyntaxError)):
        check_shell(line)


def test_settings_file_is_the_defaults_and_its_lines_work(tmp_path: Path) -> None:
    """As it stands the file changes nothing; with every line active it is accepted, and fixed defaults are the defaults."""
    assert SETTINGS_FILE.read_text() == settings_file()
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


def test_python_in_the_readme_compiles_and_its_payment_is_valid() -> None:
    """The example of a producer sends a payment that would be decided."""
    (example,) = [block for document in DOCUMENTS for block in blocks(document.read_text(), "python")]
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


@each_document
def test_links_lead_to_files_and_headings(document: Path) -> None:
    """Every relative link is to a file or folder of this repository, and to a heading where it names one."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        file, _, anchor = target.partition("#")
        path = document.parent / file if file else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@each_document
def test_prose_wraps_at_100(document: Path) -> None:
    """Lines of prose are short; tables, blocks and what has no space to break at are free."""
    lines = without_blocks(document.read_text()).splitlines()
    long = [line for line in lines if len(line) > WIDTH and not line.startswith("|")]
    assert not [line for line in long if " " in line.strip()[: WIDTH - 2].removeprefix("- ")]


def test_the_picture_is_current() -> None:
    """It is what `python -m tests.support.pictures flow` draws, and the README shows it."""
    assert FLOW.read_text() == flow_picture()
    assert "](streams/flow.svg)" in TEXT


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script that measures peers."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    import compare

    yield compare
    sys.modules.pop("compare")


def check_figures(text: str, compare: ModuleType) -> None:
    """Raise where a row of figures has no command that works, in its last cell or right below its table."""
    shell = [" ".join(line.split()) for line in shell_lines(text)]
    for header, found, after in tables(text):
        if header[-1] == "command":
            for *_, what in found:
                command, above = re.fullmatch(r"`(.+?)`( as above)?", what).groups()  # type: ignore[union-attr]
                if above:
                    assert any(line.startswith(command.removesuffix(" ...")) for line in shell), f"{what}: not above"
                else:
                    check_shell(command.replace(" ...", ""))
        elif header[0].startswith("peer"):
            (arguments,) = re.findall(r"python tests/bench/compare\.py (--[^`]+)`", after)
            measured = compare.main.make_context("compare", shlex.split(arguments)).params["peers"].split(",")
            assert set(measured) <= compare.PEERS.keys()
            assert len(found) == len(measured)
            for peer, *_ in found:
                assert sum(each in peer.lower() for each in measured) == 1, f"{peer}: not in {arguments}"


FIGURES = {
    "README.md": TEXT.partition("\n## Figures\n")[2].partition("\n## ")[0],
    "tests/bench/README.md": BENCH.read_text(),
}


@pytest.mark.parametrize("document", FIGURES)
def test_figures_have_a_command(document: str, compare: ModuleType) -> None:
    """Each row names the command that makes its figure, and that command exists."""
    found = tables(FIGURES[document])
    assert sum("command" in header[-1] or "peer" in header[0] for header, _, _ in found) >= (
        1 if document == "README.md" else 3
    )
    assert all(each for _, each, _ in found)
    check_figures(FIGURES[document], compare)


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
    """The check above fails for a row added to any of the tables."""
    text = FIGURES["tests/bench/README.md"]
    head = "| peer, " if row.startswith("| peer") else "| what | figure | command |"
    at = text.index("\n", text.index("|---", text.index(head)))
    with pytest.raises((AssertionError, AttributeError, click.UsageError)):
        check_figures(text[:at] + f"\n{row}" + text[at:], compare)


@pytest.mark.parametrize("document", SPOKEN, ids=name)
def test_documents_speak_of_this_project_alone(document: Path) -> None:
    """No paths of a developer's machine and no numbers of a tracker."""
    forbidden = r"(?<![\w.])/(work|root|tmp|home/\w+)/|\bissues? #?\d|(?<![\w&])#\d+\b"
    text = document.read_text()
    assert not [match[0] for match in re.finditer(forbidden, text, re.IGNORECASE)]
