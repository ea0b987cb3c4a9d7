"""Keys to rows."""

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.features.keys import KeyIndex


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), max_size=60))
def test_rows_are_stable_distinct_and_reused(operations: list[tuple[bool, str]]) -> None:
    """A held key keeps its row, no two share one, and no more rows are handed out than keys were ever held at once."""
    index, held, most = KeyIndex(), dict[str, int](), 0
    for look_up, key in operations:
        if look_up:
            (row,) = index.rows([key])
            assert held.setdefault(key, int(row)) == row
        elif key in held:
            index.evict(np.array([held.pop(key)]))
        most = max(most, len(held))
        assert len(set(held.values())) == len(held) == len(index)
        assert index.keys_of(np.array(list(held.values()), np.int64)) == list(held)
        assert index.row_count == most == len(held) + len(index.free_rows)


def test_find_never_makes_a_key_known() -> None:
    """An unknown key is -1 and stays unknown."""
    index = KeyIndex()
    index.rows(["a", "b"])
    assert index.find(["b", "c", "a"]).tolist() == [1, -1, 0]
    assert len(index) == 2 and index.rows([]).dtype == np.int64


def test_garbage_collection_does_not_walk_the_keys() -> None:
    """What holds the keys is nothing that the collector looks into: a full collection takes as long as without them."""
    index = KeyIndex()
    index.rows([f"key-{number}" for number in range(1_000)])
    index.evict(np.arange(500))
    assert len(index) == 500 and len(index.free_rows) == 500
    walked = [held for name in KeyIndex.__slots__ if gc.is_tracked(held := getattr(index, name))]
    assert sum(len(gc.get_referents(held)) for held in walked) < 5


distinct = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(distinct, distinct, st.integers(0, 3), distinct)
def test_distinct_keys_get_the_rows_that_any_keys_get(
    first: list[str], second: list[str], gone: int, third: list[str]
) -> None:
    """The fast way for a whole snapshot and the usual one hand out the same rows, also where some were given back."""
    fast, usual = KeyIndex(), KeyIndex()
    for keys in (first, second):
        assert fast.rows_of_distinct(keys).tolist() == usual.rows(keys).tolist()
    for index in (fast, usual):
        index.evict(np.arange(min(gone, len(index))))
    assert fast.rows_of_distinct(third).tolist() == usual.rows(third).tolist()
    assert fast.keys() == usual.keys() and fast.held_rows.tolist() == usual.held_rows.tolist()
    assert fast.row_count == usual.row_count
