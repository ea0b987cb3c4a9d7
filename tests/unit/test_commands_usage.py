"""Mistakes on the command line that need no broker to be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from streams.commands import main
from streams.commands.parameters import Duration, Pairs
from streams.commands.watch import dead_letter_line, decision_line, recommendation_line
from streams.contract.events import DeadLetter, Decision, RankedItem, Reason, Recommendation, Timings


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["produce", "missing.parquet"], "does not exist"),
        (["produce", "simulate", "--rate", "5", "--speedup", "2"], "exclude each other"),
        (["produce", "simulate", "--columns", "event_time=ts"], "--columns: only for a FILE"),
        (["produce", "simulate", "--rate", "0"], "--rate"),
        (["produce", __file__, "--topic", "clickstream", "--labels", "x"], "clicks have no labels"),
        (["produce", __file__, "--labels", "x", "--order", "file"], "needs --order time"),
        (["produce", __file__, "--speedup", "2", "--order", "file"], "needs --order time"),
        (["produce", "simulate", "--label-delay", "soon"], "expected a duration"),
        (["watch", "decisions", "--labels", "x.csv"], "only with --summary"),
        (["watch", "decisions", "--decision", "maybe"], "maybe"),
        (["topics", "describe", "nothing"], "nothing"),
        (["train", "fraud", "--labels", "fraud"], "only with --file"),
        (["train", "fraud", "--file", "x.csv"], "needs --labels"),
        (["train", "recommender", "--file", "x.npz", "--columns", "item_id=a"], "items and offsets"),
        (["demo", "--workers", "0"], "--workers"),
        (["produce", "."], "'.' is a folder"),
        *(
            ([*command, option, value], f"'{option}': expected a finite number, got '{value}'")
            for *command, option in (
                ("produce", "simulate", "--rate"),
                ("produce", "simulate", "--speedup"),
                ("demo", "--rate"),
                ("demo", "--duration"),
                ("bench", "latency", "--rate"),
                ("bench", "latency", "--warm-up"),
                ("watch", "decisions", "--min-score"),
            )
            for value in ("nan", "NaN")
        ),
        (["produce", "simulate", "--speedup", "inf"], "expected a finite number, got 'inf'"),
        (["produce", "simulate", "--rate", "inf"], "--rate"),
        (["demo", "--duration", "inf"], "expected a finite number, got 'inf'"),
        (["produce", "simulate", "--seed", "-1"], "-1 is not in the range"),
        (["train", "fraud", "--seed", "-1"], "-1 is not in the range"),
        (["train", "recommender", "--seed", str(2**63)], "is not in the range"),
        (["demo", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_usage_is_told_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    """A call that cannot work is refused before anything is connected."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


def test_bad_file_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there but does not fit is named in one line."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    path = tmp_path / "p.csv"
    path.write_text("a,b\n1,2\n")
    result = CliRunner().invoke(main, ["produce", str(path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("streams: SourceError:") and result.stderr.count("\n") == 1
    assert "the file has a, b" in result.stderr


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (None, "expected an .npz file of number arrays"),
        ({"items": np.arange(4)}, "offsets"),
        ({"items": np.array([0.5]), "offsets": np.array([0, 1])}, "items: expected one row of whole numbers"),
        ({"items": np.arange(4), "offsets": np.array([0, 3])}, "expected a rise from 0 to the 4 items"),
    ],
)
def test_sessions_that_cannot_be_read_are_exit_code_1(tmp_path: Path, arrays: Any, sentence: str) -> None:
    """A file of sessions that does not fit is named in one line, and nothing is trained."""
    path = tmp_path / "sessions.npz"
    if arrays is None:
        path.write_text("no arrays")
    else:
        np.savez(path, **arrays)
    result = CliRunner().invoke(main, ["train", "recommender", "--file", str(path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("7d", 604_800_000), ("1.5h", 5_400_000), ("90s", 90_000), ("250ms", 250), ("3", 3_000), ("0", 0)],
)
def test_durations(text: str, duration_ms: int) -> None:
    """A duration has a unit; a bare number is seconds."""
    assert Duration().convert(text, None, None) == duration_ms


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    """A column's name may hold an equals sign, and blanks around do not matter."""
    assert Pairs().convert("a=b, c = d=e", None, None) == {"a": "b", "c": "d=e"}


T0 = 1_522_540_831_000
DECISION = Decision(
    "d-1", "tx-1", "card-1", "t-1", 12.5, T0, 0.91, "decline", 0.91,
    [Reason("baseline", -4.0), Reason("night", 2.5)], "fraud", "0" * 64, T0, Timings(1.0, 1.0),
)  # fmt: skip
ITEMS = [RankedItem(f"i{k}", 1.0) for k in range(9)]
SLATE = Recommendation("d-1", "e-1", "s", ITEMS, "popular", 1.0, "r", "0" * 64, 0, T0, Timings(1.0, 1.0))
LETTER = DeadLetter("transactions", 1, 5, "key", None, "decode", "not-json", "no JSON")


def test_lines_of_watch() -> None:
    """Each kind of output has one line for people."""
    line = decision_line(DECISION)
    for text in ("2018-04-01 00:00:31", "decline", "0.9100", "card-1", "t-1", "12.50", "tx-1", "night +2.5"):
        assert text in line
    assert "baseline" not in line
    line = recommendation_line(SLATE)
    assert "i0 1.00" in line and "i4" in line and "i5" not in line
    assert "transactions[1]@5" in dead_letter_line(LETTER)


def test_lines_of_watch_tell_what_is_degraded() -> None:
    """In the place of a score stands what decided, in that of a contribution the value; a slate's strategy is marked."""
    rule = Reason("amount_over_typical", None, 8.25, 5.0)
    line = decision_line(
        msgspec.structs.replace(
            DECISION, score=None, confidence=None, decision="review", reasons=[rule], strategy="rules", degraded=True
        )
    )
    assert " rules  card" in line and line.endswith("amount_over_typical 8.25")
    assert "popular! " in recommendation_line(msgspec.structs.replace(SLATE, degraded=True))
    assert "popular  " in recommendation_line(SLATE)


def test_lines_of_watch_leave_the_terminal_alone() -> None:
    """What a record holds cannot colour, clear, reorder or break a line; letters of any language stay."""
    evil = "a\x1b[2J\n\x9b1m\u202eß漢"
    shown = "a\\x1b[2J\\n\\x9b1m\\u202eß漢"
    timings = Timings(1.0, 1.0)
    lines = (
        decision_line(Decision("d", evil, evil, evil, 1.0, 0, 0.5, "review", 0.5, [Reason(evil, 1.0)], "f", "", 0, timings)),
        recommendation_line(Recommendation("d", "e", evil, [RankedItem(evil, 1.0)], "popular", 1.0, "r", "", 0, 0, timings)),
        dead_letter_line(DeadLetter(evil, 1, 5, None, None, evil, evil, evil)),
    )  # fmt: skip
    for line, count in zip(map(click.unstyle, lines), (4, 2, 4), strict=True):
        assert line.isprintable()
        assert line.count(shown) == count
