"""Each script of `findings/` says what it shows and stands alone. The scripts themselves run outside of CI."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
FIELDS = ("Versions", "Question", "Guess", "Happens", "Here", "Live with it", "Source", "Date")
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def test_the_table_names_every_script() -> None:
    """The README's links and the folder are the same list."""
    linked = re.findall(r"^\| \[([\w.-]+)\]\(([\w.-]+)\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in linked] == [script.stem for script in SCRIPTS]
    assert [file for _, file in linked] == [script.name for script in SCRIPTS]


@each_script
def test_head_has_every_field_once_and_in_order(script: Path) -> None:
    """Versions to date, none of them empty, above the first command."""
    head, separator, _ = script.read_text().partition("\nset -euo pipefail\n")
    assert separator and head.startswith("#!/usr/bin/env bash\n")
    assert all(line.startswith("#") for line in head.splitlines())
    assert tuple(re.findall(r"^# ([A-Z][A-Za-z ]*): \S", head, re.MULTILINE)) == FIELDS
    assert re.search(r"^# Date: \d{4}-\d{2}-\d{2}$", head, re.MULTILINE)


@each_script
def test_script_is_executable_bash(script: Path) -> None:
    """It runs by its name, and parses."""
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@each_script
def test_packages_are_pinned(script: Path) -> None:
    """Everything that is installed has one version, which the head names, and an end of the temporary folder."""
    text = script.read_text()
    lines = re.findall(r"^(?:source \S+|.* pip install) (.+)$", text.replace('"$(dirname "$0")/', ""), re.MULTILINE)
    words = [word for line in lines for word in line.split() if not word.startswith("--")]
    assert words and all(re.fullmatch(r"[\w-]+==[\w.]+", word) for word in words)
    (versions,) = re.findall(r"^# Versions: (.+)$", text, re.MULTILINE)
    assert all(word.partition("==")[2] in versions for word in words)


@pytest.mark.parametrize("path", [*SCRIPTS, *sorted(FOLDER.glob("lib/*.sh"))], ids=lambda path: path.name)
def test_product_is_not_imported(path: Path) -> None:
    """What a script shows is the library's doing."""
    imports = r"^\s*(?:import|from) +(?:streams|models|tests)\b|pip install .*(?:-e|\.)(?:\s|$)|PYTHONPATH"
    assert not re.findall(imports, path.read_text(), re.MULTILINE)


def test_helpers_parse_and_clean_up() -> None:
    """Scripts get their temporary folder from a helper that removes it at any end."""
    for helper in FOLDER.glob("lib/*.sh"):
        subprocess.run(["bash", "-n", str(helper)], check=True)
    packages = (FOLDER / "lib" / "packages.sh").read_text()
    assert "trap finish EXIT" in packages and 'rm -rf "$scratch"' in packages
