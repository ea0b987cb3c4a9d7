"""Micro-batches keep the order of arrival, never exceed their size, and start as soon as they may."""

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.engine.batching import MicroBatcher
from streams.transport.record_batch import RecordBatch


def batch(count: int, first: int = 0, fetched_at: float = 0.0) -> RecordBatch:
    values: list[bytes | None] = [b"{}"] * count
    return RecordBatch(
        TP("transactions", 0), first, first + count, list(range(first, first + count)), [None] * count, values,
        [0] * count, [()] * count, 1, fetched_at,
    )  # fmt: skip


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(1, 64))
def test_everything_comes_out_once_in_order_and_within_the_size(sizes: list[int], records_max: int) -> None:
    """What is taken is what was added, in order; only a single larger batch may exceed the size."""
    batcher = MicroBatcher(records_max)
    added = [batch(size, first=i * 100) for i, size in enumerate(sizes)]
    for each in added:
        batcher.add(each)
    assert batcher.records == sum(sizes)
    taken = []
    while micro_batch := batcher.take():
        assert len(micro_batch) == 1 or sum(map(len, micro_batch)) <= records_max
        taken += micro_batch
    assert taken == added
    assert (batcher.records, len(batcher)) == (0, 0)


def test_a_free_device_takes_what_is_there() -> None:
    """Without a holding time one record is due at once."""
    batcher = MicroBatcher(2048)
    assert batcher.due_in(0.0) is None
    batcher.add(batch(1, fetched_at=5.0))
    assert batcher.due_in(5.0) == 0.0


def test_holding_ends_with_time_or_size() -> None:
    """With a holding time a micro-batch is due when its oldest record has waited long enough, or when it is full."""
    batcher = MicroBatcher(10, wait_ms_max=20.0)
    batcher.add(batch(4, fetched_at=1.0))
    due_in = batcher.due_in(1.005)
    assert due_in is not None and abs(due_in - 0.015) < 1e-9
    assert batcher.due_in(1.021) == 0.0
    batcher.add(batch(6, fetched_at=1.006))
    assert batcher.due_in(1.006) == 0.0


def test_clearing_abandons_what_waits() -> None:
    """Abandoned records are counted and gone."""
    batcher = MicroBatcher(10)
    batcher.add(batch(3))
    assert batcher.clear() == 3
    assert batcher.due_in(0.0) is None and batcher.take() == []
