"""Next-click evaluation against loops over examples; and files that it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import EvaluationError
from models.evaluation.sessions import Task, read_examples, read_sessions, split
from models.recommender.examples import Examples, Sessions, prefixes
from models.recommender.network import Vocabulary


def sessions_of(lists: list[list[int]]) -> Sessions:
    return Sessions(
        np.array([item for one in lists for item in one], np.int32), np.cumsum([0, *map(len, lists)]).astype(np.int64)
    )


def lists_of(examples: Examples) -> list[tuple[list[int], int]]:
    return [
        (examples.items[begin:end].tolist(), target)
        for begin, end, target in zip(examples.begin, examples.end, examples.targets.tolist(), strict=True)
    ]


LISTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=30)


@settings(deadline=None)
@given(LISTS)
def test_every_prefix_is_an_example(lists: list[list[int]]) -> None:
    """One for each click that has one before it, with the click as its target."""
    expected = [(one[:length], one[length]) for one in lists for length in range(1, len(one))]
    assert lists_of(prefixes(sessions_of(lists))) == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=10, max_size=40))
@example([[1, 2]] * 9 + [[1, 3, 2]])
def test_newest_tenth_is_the_test_without_what_training_lacks(lists: list[list[int]]) -> None:
    """Items absent from the first nine tenths are dropped from test sessions before prefixes are made."""
    cut = len(lists) - len(lists) // 10
    known = {item for one in lists[:cut] for item in one}
    test = [[item for item in one if item in known] for one in lists[cut:]]
    expected = [(one[:length], one[length]) for one in test for length in range(1, len(one))]
    if not expected:
        with pytest.raises(EvaluationError, match="test part"):
            split(sessions_of(lists))
        return
    training, examples = split(sessions_of(lists))
    assert lists_of(examples) == expected
    assert training.items.tolist() == [item for one in lists[:cut] for item in one]
    assert training.offsets[-1] == len(training.items) and len(training) == cut


class Runner:
    """Knows the items 1 to 5 as indices 0 to 4 and keeps three clicks."""

    length = 3

    def item_index(self, ids):
        return np.array([int(each) - 1 if 1 <= int(each) <= 5 else -1 for each in ids], np.int32)

    def rank(self, sequences, k, part):
        return np.argsort(np.random.default_rng(len(sequences)).random((len(sequences), 5)), axis=1)[:, :k].astype(
            np.int32
        )


def task(examples: Examples) -> Task:
    return Task.of(examples, Runner(), Vocabulary(list("12345"), np.array([50, 20, 20, 9, 1])))  # type: ignore[arg-type]


def test_model_sees_the_newest_clicks_and_unknown_targets_are_misses() -> None:
    """Of an unknown item only the place is kept, as in a worker; a target that is unknown is -1 and never found."""
    examples = Examples(
        np.array([1, 9, 2, 3, 4, 9], np.int32), np.array([0, 1, 5]), np.array([6, 2, 6]), np.array([5, 7, 1])
    )
    seen = task(examples)
    assert seen.sequences.tolist() == [[2, 3, -1], [-1, -1, -1], [-1, -1, -1]]
    assert seen.targets.tolist() == [4, -1, 0]
    assert seen.popularity.tolist() == pytest.approx([0.9, 0.6, 0.6, 0.3, 0.1])
    assert seen.target_popularity() == pytest.approx((0.1 + 0.9) / 2)
    shown = np.array([[0, 4], [1, -1], [-1, -1]], np.int32)
    figures = seen.judge(shown)
    assert figures["p_at_20"] == pytest.approx(1 / 3) and figures["mrr_at_20"] == pytest.approx(1 / 6)
    assert figures["coverage_at_20"] == pytest.approx(3 / 5)
    assert figures["popularity_at_20"] == pytest.approx((0.9 + 0.1 + 0.6) / 3)


@settings(deadline=None)
@given(LISTS.filter(lambda lists: any(len(one) > 1 for one in lists)))
def test_quality_is_that_of_a_loop_over_examples(lists: list[list[int]]) -> None:
    """P@20 and MRR@20 as the literature counts them: hits and reciprocal ranks, one example after the other."""
    examples = prefixes(sessions_of(lists))
    seen = task(examples)
    shown = seen.rank(Runner(), "blend", lambda stage, done: None)  # type: ignore[arg-type]
    hits, ranks = 0, 0.0
    for slate, target in zip(shown.tolist(), examples.targets.tolist(), strict=True):
        if target <= 5 and target - 1 in slate:
            hits += 1
            ranks += 1 / (slate.index(target - 1) + 1)
    figures = seen.judge(shown)
    assert figures["p_at_20"] == pytest.approx(hits / len(examples))
    assert figures["mrr_at_20"] == pytest.approx(ranks / len(examples))


def test_empty_sessions_are_passed_over(tmp_path: Path) -> None:
    """Offsets that stand still hold no click: the session is not there."""
    path = tmp_path / "s.npz"
    np.savez(path, items=np.array([1, 2, 3]), offsets=np.array([0, 0, 2, 2, 3, 3]))
    sessions = read_sessions(path)
    assert sessions.offsets.tolist() == [0, 2, 3] and sessions.items.dtype == np.int32


GOOD = {"items": np.array([1, 2, 3]), "offsets": np.array([0, 2, 3]), "targets": np.array([4, 5])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": None}, "got no offsets"),
        ({"targets": None}, "got no targets"),
        ({"targets": np.array([1])}, "one for each of the 2 prefixes, got 1"),
        ({"offsets": np.array([0, 3, 2])}, "offsets: expected a rise"),
        ({"offsets": np.array([0, 2, 4])}, "got from 0 to 4"),
        ({"offsets": np.array([1, 2, 3])}, "got from 1 to 3"),
        ({"offsets": np.array([], np.int64)}, "got none"),
        ({"offsets": np.array([0.0, 2.0, 3.0])}, "whole numbers"),
        ({"items": np.array([1.5, 2, 3])}, "whole numbers"),
        ({"items": np.array([[1], [2], [3]])}, "2 dimensions"),
        ({"items": np.array([1, -2, 3])}, "got -2"),
        ({"items": np.array([1, 2**40, 3])}, "item numbers"),
        ({"items": np.array(["a", "b", "c"])}, "whole numbers"),
        ({"items": np.array([1, "b", None], dtype=object)}, "number arrays"),
        ({"offsets": np.array([0, 0, 3])}, r"targets\[0\] first"),
        ({"items": GOOD["items"][:0], "offsets": np.array([0]), "targets": GOOD["targets"][:0]}, "got none"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    """The sentence names file and array, what was expected and what is there."""
    path = tmp_path / "test.npz"
    np.savez(path, **{name: values for name, values in {**GOOD, **change}.items() if values is not None})
    with pytest.raises(EvaluationError, match=message) as refused:
        read_examples(path)
    assert str(path) in str(refused.value)


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    """Text, nothing, a single array, a cut file, no file."""
    np.save(tmp_path / "array.npy", GOOD["items"])
    np.savez(tmp_path / "whole.npz", **GOOD)
    (tmp_path / "text.npz").write_text("items")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-40])
    for name in ("array.npy", "text.npz", "empty.npz", "cut.npz", "missing.npz"):
        with pytest.raises(EvaluationError, match="npz file"):
            read_sessions(tmp_path / name)
