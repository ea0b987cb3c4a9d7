"""Rows of state as bytes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import payloads

Row = tuple[int, list[int], list[float]]

ages = st.one_of(st.integers(0, 1000), st.integers(0, 2**32 - 1), st.integers(2**32, 2**40))
values = st.one_of(
    st.integers(0, 2**33).map(lambda cents: cents / 100),
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, 0.1 + 0.2, 1e-300]),
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    events = draw(st.lists(st.tuples(ages, values), max_size=9))
    newest = draw(st.integers(0, 2**42))
    return newest, sorted(newest - age for age, _ in events), [value for _, value in events]


@settings(max_examples=300, deadline=None)
@given(st.lists(rows(), max_size=5))
def test_rows_come_back_bit_for_bit(table: list[Row]) -> None:
    """Any time and any amount, whole cents or not, survives; signs of zero too."""
    times = np.array([t for _, ts, _ in table for t in ts], np.int64)
    amounts = np.array([v for _, _, vs in table for v in vs], np.float64)
    count = np.array([len(ts) for _, ts, _ in table], np.int64)
    newest = np.array([n for n, _, _ in table], np.int64)
    ends = np.cumsum(count)
    data, limits = payloads.encode(ends - count, count, newest, times, amounts, 1, 100)
    parts = [data[a:b] for a, b in pairwise([0, *limits])]
    got_ends, got_newest, got_times, got_amounts = payloads.decode(parts, np.float64, 1, 100)
    assert np.array_equal(got_ends, ends) and np.array_equal(got_newest, newest) and np.array_equal(got_times, times)
    assert got_amounts.tobytes() == amounts.tobytes()


@settings(max_examples=300, deadline=None)
@given(rows(), st.data())
def test_a_payload_with_a_wrong_header_or_length_is_found(row: Row, data: st.DataObject) -> None:
    """The position of the bad payload is named, and nothing is read beyond its end."""
    newest, times, amounts = row
    encoded, _ = payloads.encode(
        np.zeros(1, np.int64), np.array([len(times)]), np.array([newest]), np.array(times, np.int64),
        np.array(amounts, np.float64), 1, 100,
    )  # fmt: skip
    damaged = bytearray(encoded)
    if data.draw(st.booleans()):
        damaged[data.draw(st.sampled_from([0, 1, 3, 6, 7]))] ^= data.draw(st.integers(1, 255))
    else:
        cut = data.draw(st.integers(1, len(damaged)))
        damaged = damaged[:-cut]
    with pytest.raises(ValueError, match=r"^1$"):
        payloads.decode([encoded, bytes(damaged), encoded], np.float64, 1, 100)


def test_a_month_of_cents_takes_eight_bytes_a_payment() -> None:
    """Checkpoints of usual cards are compact."""
    times = np.arange(60) * 43_200_000
    amounts = np.round(np.arange(60) * 1.01, 2)
    one = np.zeros(1, np.int64)
    data, _ = payloads.encode(one, one + 60, times[-1:].copy(), times, amounts, 1, 100)
    assert len(data) == payloads.HEADER_BYTES + 60 * 8
