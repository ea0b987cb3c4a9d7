"""The documents of the project, and what stands in them: blocks, tables, links, quoted names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATTERNS = ("*.md", "streams/**/*.md", "models/**/*.md", "config/*.md", "docker/*.md", "findings/*.md", "tests/**/*.md")
# Model cards are written by the training that makes the model.
DOCUMENTS = sorted(path for each in PATTERNS for path in ROOT.glob(each) if "weights" not in path.parts)
README = ROOT / "README.md"


def name(path: Path) -> str:
    """Return how a document is called in the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    """Return a text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def quoted(text: str) -> list[str]:
    """Return what stands between backticks outside of blocks; a quote may go on in the next line."""
    return [" ".join(quote.split()) for quote in re.findall(r"`([^`]+)`", without_blocks(text))]


def shell_lines(text: str) -> list[str]:
    """Return the lines of the shell blocks, continued ones joined, those of a quoted program as one."""
    lines: list[str] = []
    for block in blocks(text, "sh"):
        open_quote = False
        for line in block.replace("\\\n", " ").splitlines():
            if open_quote:
                lines[-1] += "\n" + line
            else:
                lines.append(line)
            open_quote ^= line.count('"') % 2 == 1
    return lines


def tables(section: str) -> list[tuple[list[str], list[list[str]], str]]:
    """Return header, rows and the text that follows, up to the next table, of each table in a section."""
    found = re.findall(r"((?:^\|.*\|\n)+)((?:^(?!\|).*\n)*)", section, re.MULTILINE)
    parsed = []
    for lines, after in found:
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.splitlines()]
        parsed.append((header, rows, after))
    return parsed


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
