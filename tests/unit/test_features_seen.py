"""A record that comes twice within the horizon is told from two records, in any batches; checked against a list."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.features.history import HistoryGroup
from models.features.seen import EVENTS_PER_KEY_MAX, SeenRecords, warm_up

HORIZON_MS = 100
warm_up()  # so that no example is timed with the compiler

Record = tuple[str, str, int]  # key, identity, time

records = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("123456"), st.integers(0, 1_000)), min_size=1, max_size=60
)


def by_hand(given_records: list[Record]) -> list[bool]:
    """Return which records repeat an earlier one, by the rules as they are written."""
    kept: list[Record] = []
    watermark, found = -1, []
    for key, identity, time in given_records:
        watermark = max(watermark, time)
        oldest = watermark - HORIZON_MS
        repeat = any(k == key and i == identity and t > oldest for k, i, t in kept)
        if not repeat and time > oldest:
            kept.append((key, identity, time))
        found.append(repeat)
    return found


def ask(seen: SeenRecords, part: list[Record]) -> list[bool]:
    return seen.duplicates(
        [r[0] for r in part], [r[1] for r in part], np.array([r[2] for r in part], np.int64)
    ).tolist()


@given(records, st.integers(1, 60))
def test_repeats_are_those_of_a_list(given_records: list[Record], size: int) -> None:
    """Late, shuffled, in any batches: the same records are repeats as by the rule."""
    seen = SeenRecords(HORIZON_MS)
    found = [flag for i in range(0, len(given_records), size) for flag in ask(seen, given_records[i : i + size])]
    assert found == by_hand(given_records)


@given(records, records)
def test_a_restored_history_knows_what_was_seen(before: list[Record], after: list[Record]) -> None:
    """After a checkpoint and a restore, beside another history, the same records are repeats as without."""
    live = SeenRecords(HORIZON_MS)
    ask(live, before)
    group = HistoryGroup(SeenRecords(1), live)
    restored = SeenRecords(HORIZON_MS)
    copy = HistoryGroup(SeenRecords(1), restored)
    copy.watermarks = group.watermarks
    copy.load_many(list(group.freeze(dirty_only=False)))
    assert ask(restored, after) == ask(live, after)
    assert copy.digest() == group.digest()


def test_a_key_remembers_its_newest_records_only() -> None:
    """A key with endless records costs bounded memory: what lies further back than the bound is forgotten."""
    seen = SeenRecords(10**9)
    many = [("a", str(number), number) for number in range(EVENTS_PER_KEY_MAX + 1)]
    assert not any(ask(seen, many))
    assert ask(seen, [("a", str(EVENTS_PER_KEY_MAX), 5_000), ("a", "0", 5_000)]) == [True, False]
