"""No document names what does not exist: a file, a setting, a metric, a code, a name of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from streams.errors import SettingsError
from streams.settings import Settings, load_settings
from tests.support.generated import metrics
from tests.support.markdown import DOCUMENTS, ROOT, name, quoted

SETTINGS = {each.name for each in fields(Settings)}
SUFFIXES = (".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".json", ".svg")
# Files that users make, topics that workers make, layouts of rows, and a module that must not be there.
MADE = {
    ".venv/bin",
    "artifacts/fraud",
    "artifacts/recommender",
    "faults.json",
    "yoochoose-clicks.dat",
    "streams/app.py",
}
MADE |= {"streams-card-state", "streams-session-state", "cards/2", "sessions/4", "rule_..."}
# Of Kafka's clients, C's library and LLVM; no source here needs to say them so.
FOREIGN = {"acks", "partitioner", "MALLOC_ARENA_MAX", "KAFKA_JARS", "__powidf2"}
SOURCES = [
    path
    for pattern in ("streams/**/*", "models/**/*", "tests/**/*", "config/**/*", "docker/*", "findings/**/*", "*.toml")
    for path in ROOT.glob(pattern)
    if path.is_file()
    and path.suffix in (".py", ".toml", ".yaml", ".yml", ".sh", ".json", "")
    and "weights" not in path.parts
    and not path.name.startswith("test_docs")  # they name what does not exist
]
WORDS = {word for path in SOURCES for word in re.findall(r"\w+(?:-\w+)*|\w+", path.read_text())}
WORDS |= {part for word in WORDS for part in word.split("-")}
METRICS = set(re.findall(r"`(streams_\w+)`", metrics()))


def roots(document: Path) -> list[Path]:
    """Return the folders that a document may name files from: its own, the project's, and its rooms in the design."""
    found = [document.parent, ROOT, ROOT / "streams", ROOT / "models"]
    if document.name == "DESIGN.md":
        found += [path for package in ("streams", "models") for path in (ROOT / package).rglob("*") if path.is_dir()]
    return found


def unknown(document: Path, text: str) -> list[str]:
    """Return what a text quotes and the project does not have."""
    wrong = []
    for quote in set(quoted(text)) - MADE:
        file = re.fullmatch(r"(?:[\w.-]+/)*[\w.-]*(?:/|\.\w+)", quote)
        if (file and quote.endswith(SUFFIXES)) or re.fullmatch(r"(?:[\w.-]+/)+[\w.-]*", quote):
            if not any((root / quote).exists() for root in roots(document)):
                wrong.append(quote)
        elif variable := re.match(r"STREAMS_(\w+)(=\S+)?", quote):
            if variable[1].lower() not in SETTINGS | {"config", "<key>"} and f"STREAMS_{variable[1]}" not in WORDS:
                wrong.append(quote)
        elif re.fullmatch(r"streams_\w+", quote):
            if quote not in METRICS:
                wrong.append(quote)
        elif assigned := re.fullmatch(r"(\w+)=([\w.]+)", quote):
            if assigned[1] not in FOREIGN and not is_setting(*assigned.groups()):
                wrong.append(quote)
        elif re.fullmatch(r"[A-Za-z_][\w.-]*(?:\(\))?", quote) and not re.fullmatch("[A-Z]+", quote):  # FILE
            missing = [part for part in re.split(r"\.", quote.removesuffix("()")) if part not in WORDS | FOREIGN]
            if missing:
                wrong.append(quote)
    return wrong


def is_setting(key: str, value: str) -> bool:
    """Tell whether a setting takes a value."""
    try:
        load_settings(env={f"STREAMS_{key.upper()}": value})
    except SettingsError as exc:
        return key in SETTINGS and "expected" not in str(exc)  # it goes with another one
    return key in SETTINGS


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_everything_that_is_quoted_exists(document: Path) -> None:
    """Files, settings with their values, variables, metrics, codes and names between backticks are those of the code."""
    assert not unknown(document, document.read_text())


@pytest.mark.parametrize(
    "quote",
    [
        "engine/guess.py",
        "../config/guess.yaml",
        "guesses/",
        "STREAMS_GUESS=1",
        "streams_guesses_total",
        "model_failure=panic",
        "guessed_setting=1",
        "guessed_field",
        "too-guessed",
        "StateTable.guess_twice",
    ],
)
def test_names_of_nothing_would_be_seen(quote: str) -> None:
    """The check above does tell."""
    assert unknown(ROOT / "README.md", f"See `{quote}`.") == [quote]
