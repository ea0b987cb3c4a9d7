"""Rows for which a model fails are found; the others are scored as if nothing had happened."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.engine.isolation import FAILURES_IN_A_ROW_MAX, Isolation
from streams.errors import ModelFailed


class Model:
    """Scores a row by its number; raises for some; counts its calls."""

    def __init__(self, raises: set[int]) -> None:
        self.raises, self.calls = raises, 0

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        numbers = set(rows[:, 0].astype(int).tolist())
        if numbers & self.raises:
            raise RuntimeError(f"cannot score {numbers & self.raises}")
        return rows[:, 0]


def rows(count: int) -> NDArray[np.float32]:
    return np.arange(count, dtype=np.float32)[:, None]


@given(count=st.integers(1, 300), data=st.data())
def test_culprits_are_found_and_their_neighbours_scored(count: int, data: st.DataObject) -> None:
    """Any few failing rows alone are named, with their exceptions; every other row has its own score."""
    numbers = st.integers(0, count - 1)
    raises = data.draw(st.sets(numbers, max_size=5))
    model = Model(raises)
    results, culprits = Isolation()(model, rows(count))
    assert list(culprits) == sorted(raises)
    scored = [number for part in results for number in part.tolist()]
    assert scored == [number for number in range(count) if number not in raises]
    assert model.calls <= 1 + 2 * len(culprits) * (1 + count.bit_length())


def test_a_model_that_fails_for_everything_is_told_from_a_bad_row() -> None:
    """Single records that fail one after the other, over micro-batches, are the model's failure."""
    isolate, model = Isolation(), Model(raises=set(range(100)))
    for _ in range(FAILURES_IN_A_ROW_MAX - 1):
        assert set(isolate(model, rows(1))[1]) == {0}
    with pytest.raises(ModelFailed, match=f"{FAILURES_IN_A_ROW_MAX} records in a row.*cannot score"):
        isolate(model, rows(1))


def test_a_success_in_between_starts_the_count_again() -> None:
    """Bad records among good ones never add up to a failed model."""
    isolate = Isolation()
    for _ in range(5 * FAILURES_IN_A_ROW_MAX):
        assert isolate(Model({0}), rows(1))[1]
        assert not isolate(Model(set()), rows(1))[1]
