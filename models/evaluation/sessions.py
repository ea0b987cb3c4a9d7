"""Next-click evaluation of session-based recommendation: one example a prefix, all items ranked, seen ones too.

- Every prefix of a test session is an example; its target is the session's next click.
- P@20: share of the examples whose target is among the first 20. MRR@20: mean of 1 / rank of the target, 0 beyond 20.
- Skip items of a prefix that the model does not know. Count a target that it does not know as a miss.
- Where test sessions are the newest tenth of a file, items absent from the other nine are dropped first, as in the source.
- Coverage: share of the vocabulary that some example is shown. Popularity: mean percentile, by clicks in training, of the
  items shown; a uniform draw of items has 0.5. Compare it with the mean percentile of the targets.

Source: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks (2016); Ludewig and Jannach, Evaluation of
Session-based Recommendation Algorithms (2018).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.progress import Progress
from models.recommender.examples import TOP_K, Examples, Int32, Int64, Sessions, hits, prefixes
from models.recommender.network import Vocabulary
from models.recommender.runner import Part, RecommenderRunner

TEST_SHARE: Final = 0.1
ITEM_MAX: Final = 2**31 - 1
EXAMPLES_PER_STEP: Final = 4_096


def read_sessions(path: Path) -> Sessions:
    """Return the sessions of an .npz file with `items` and `offsets`, without the empty ones.

    Raises:
        EvaluationError: no such file, an array is missing or of another type, or offsets do not fit.
    """
    items, offsets = _read(path, ("items", "offsets"))
    sessions = Sessions(_items(path, "items", items), np.unique(_offsets(path, offsets, len(items))))
    if not len(sessions):
        raise EvaluationError(f"{path}: expected sessions, got none; give a file with clicks")
    return sessions


def read_examples(path: Path) -> Examples:
    """Return the examples of an .npz file with `items`, `offsets` and `targets`.

    Raises:
        EvaluationError: as for `read_sessions`, or there are not as many targets as prefixes, or a prefix is empty.
    """
    items, offsets, targets = _read(path, ("items", "offsets", "targets"))
    offsets, targets = _offsets(path, offsets, len(items)), _items(path, "targets", targets)
    if len(targets) != len(offsets) - 1:
        raise EvaluationError(
            f"{path}: targets: expected one for each of the {len(offsets) - 1:,} prefixes, got {len(targets):,}; "
            "write both anew"
        )
    if not len(targets):
        raise EvaluationError(f"{path}: expected examples, got none; give a file with some")
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise EvaluationError(
            f"{path}: offsets: expected a click before each target, got none before {len(empty):,} of them "
            f"(targets[{empty[0]}] first); drop these"
        )
    return Examples(_items(path, "items", items), offsets[:-1], offsets[1:], targets)


def split(sessions: Sessions) -> tuple[Sessions, Examples]:
    """Return the oldest nine tenths, and the examples of the newest tenth without items absent from the former.

    Raises:
        EvaluationError: no session of two known items is left to test with.
    """
    cut = len(sessions) - int(TEST_SHARE * len(sessions))
    training, test = sessions.part(0, cut), sessions.part(cut, len(sessions))
    examples = prefixes(test.without(~np.isin(test.items, training.items)))
    if not len(examples):
        raise EvaluationError(
            f"test part: expected sessions of two or more items that the first {cut:,} sessions hold, got none in the "
            f"last {len(test):,}; give more sessions"
        )
    return training, examples


@dataclass(frozen=True, slots=True)
class Task:
    """Examples as a model sees them.

    Attributes:
        sequences: int32[E, T] item indices of the newest T clicks of each prefix, -1 for an unknown item or none.
        targets: int32[E] item indices, -1 for a target that the model does not know: a miss.
        popularity: float64[N] percentile of each item by its clicks in training, ties in the middle.
    """

    sequences: Int32
    targets: Int32
    popularity: NDArray[np.float64]

    @classmethod
    def of(cls, examples: Examples, runner: RecommenderRunner, vocabulary: Vocabulary) -> Task:
        """Return the examples in the indices of a runner."""
        index, targets = (_index(runner, items) for items in (examples.items, examples.targets))
        sequences = replace(examples, items=index).newest(runner.length)
        clicks = np.sort(vocabulary.clicks)
        below, up_to = (np.searchsorted(clicks, vocabulary.clicks, side) for side in ("left", "right"))
        return cls(sequences, targets, (below + up_to) / 2 / len(clicks))

    def rank(self, runner: RecommenderRunner, part: Part, tell: Progress) -> Int32:
        """Return int32[E, TOP_K] item indices as a part of the recommender ranks them, seen ones too, -1 for none."""
        shown = np.full((len(self.targets), TOP_K), -1, np.int32)
        for begin in range(0, len(shown), EXAMPLES_PER_STEP):
            tell(f"rank by {part}", begin / len(shown))
            ranked = runner.rank(self.sequences[begin : begin + EXAMPLES_PER_STEP], TOP_K, part)
            shown[begin : begin + EXAMPLES_PER_STEP, : ranked.shape[1]] = ranked
        return shown

    def judge(self, shown: Int32) -> dict[str, float]:
        """Return p_at_20, mrr_at_20, coverage_at_20 and popularity_at_20 of slates, int32[E, K], best first, -1 for none."""
        there = shown[shown >= 0]
        return {
            **hits(shown, self.targets)._asdict(),
            "coverage_at_20": len(np.unique(there)) / len(self.popularity),
            "popularity_at_20": float(self.popularity[there].mean()) if len(there) else 0.0,
        }

    def target_popularity(self) -> float:
        """Return the mean percentile of the targets that the model knows; 0 where it knows none."""
        known = self.targets[self.targets >= 0]
        return float(self.popularity[known].mean()) if len(known) else 0.0


def _index(runner: RecommenderRunner, items: Int32) -> Int32:
    distinct, place = np.unique(items, return_inverse=True)
    index: Int32 = runner.item_index(list(map(str, distinct.tolist())))[place]
    return index


def _read(path: Path, names: tuple[str, ...]) -> list[NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise EvaluationError(
                    f"{path}: expected the arrays {', '.join(names)}, got no {', '.join(missing)} but "
                    f"{', '.join(file.files) or 'nothing'}; add them"
                )
            return [file[name] for name in names]
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as bad:
        raise EvaluationError(
            f"{path}: expected an .npz file of number arrays, got {bad or type(bad).__name__}; write it with numpy.savez"
        ) from bad


def _whole(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise EvaluationError(
            f"{path}: {name}: expected one row of whole numbers, got {values.ndim} dimensions of {values.dtype}; write it "
            "anew"
        )
    return values


def _items(path: Path, name: str, values: NDArray[Any]) -> Int32:
    values = _whole(path, name, values)
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= ITEM_MAX:
        raise EvaluationError(
            f"{path}: {name}: expected item numbers from 0 to {ITEM_MAX}, got {values.min()} to {values.max()}; number anew"
        )
    return values.astype(np.int32)


def _offsets(path: Path, values: NDArray[Any], clicks: int) -> Int64:
    offsets = _whole(path, "offsets", values).astype(np.int64)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != clicks or (np.diff(offsets) < 0).any():
        ends = f"from {offsets[0]} to {offsets[-1]}" if len(offsets) else "none"
        falls = ", with falls" if (np.diff(offsets) < 0).any() else ""
        raise EvaluationError(
            f"{path}: offsets: expected a rise from 0 to the {clicks} items, got {ends}{falls}; write both anew"
        )
    return offsets
