"""Statistics of the benchmark: what counts as lost, repeated and foreign, and where a rate begins."""

import numpy as np
import pytest

from streams.benchmark.statistics import (
    BenchmarkError,
    Tally,
    events_per_second,
    percentiles_ms,
    position_of,
    tally,
    tally_seen,
)


def positions(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_each_input_answered_once_in_any_order_is_clean() -> None:
    """Order across partitions does not matter; only ids do."""
    assert tally(positions(2, 0, 3, 1), 4) == Tally(lost=0, repeated=0, foreign=0)


def test_a_repeat_does_not_make_up_for_a_loss() -> None:
    """Equal totals of inputs and outputs prove nothing."""
    assert tally(positions(0, 1, 1, 3), 4) == Tally(lost=1, repeated=1, foreign=0)


def test_every_further_output_of_an_input_counts_as_a_repeat() -> None:
    """Three outputs of one input are two repeats."""
    assert tally(positions(0, 0, 0, 1), 2) == Tally(lost=0, repeated=2, foreign=0)


def test_inputs_without_any_output_are_all_lost() -> None:
    """An empty output topic loses everything, the last position included."""
    assert tally(positions(), 3) == Tally(lost=3, repeated=0, foreign=0)


def test_outputs_of_no_input_are_foreign_and_answer_nothing() -> None:
    """Positions outside the run are neither answers nor repeats."""
    assert tally(positions(0, -1, 2, 7, 7), 2) == Tally(lost=1, repeated=0, foreign=4)


def test_arrivals_counted_by_position_give_the_same_tally() -> None:
    """The latency receiver counts while it polls; the result is that of the log."""
    assert tally_seen(positions(1, 0, 3), 2) == Tally(lost=1, repeated=2, foreign=2)


@pytest.mark.parametrize(
    ("value", "position"),
    [
        (b'{"transaction_id":"r1-000000042","score":0.5}', 42),
        (b'{"transaction_id":"r2-000000042"}', -1),
        (b'{"transaction_id":"000000042"}', -1),
        (b'{"transaction_id":"r1-"}', -1),
        (b'{"transaction_id":"r1--1"}', -1),
        (b'{"transaction_id":42}', -1),
        (b'{"score":0.5}', -1),
        (b"[1]", -1),
        (b"not json", -1),
    ],
)
def test_an_output_names_a_position_only_by_an_id_of_this_run(value: bytes, position: int) -> None:
    """Another run's ids and broken outputs are foreign, never position 0."""
    assert position_of(value, "r1") == position


def test_rate_leaves_out_the_first_tenth() -> None:
    """A slow start does not lower the rate, as long as it is within the first tenth."""
    slow_start = np.arange(100) * 100
    steady = slow_start[-1] + 1 + np.arange(900)
    assert events_per_second(np.concatenate([slow_start, steady])) == pytest.approx(1000.0, rel=0.01)


def test_rate_includes_the_tail() -> None:
    """A system that stalls before its last output has the stall in its rate."""
    times = np.append(np.arange(999), 10_000)
    assert events_per_second(times) == pytest.approx(900 / 9.9, rel=0.01)


def test_outputs_at_the_first_counted_instant_came_before_the_interval() -> None:
    """One large batch at the 10 % mark is not credited to the time after it."""
    times = np.concatenate([np.zeros(500), np.full(500, 1000)])
    assert events_per_second(times) == 500.0


def test_rate_does_not_depend_on_the_order_of_partitions() -> None:
    """Outputs are read partition by partition, so their times are not sorted."""
    times = np.arange(1000)
    assert events_per_second(np.concatenate([times[1::2], times[::2]])) == events_per_second(times)


def test_counts_by_time_give_the_rate_of_single_outputs() -> None:
    """End offsets seen now and then stand for the outputs between them."""
    times, counts = np.arange(0, 1000, 10), np.full(100, 10)
    assert events_per_second(times, counts) == pytest.approx(events_per_second(np.repeat(times, counts)))


@pytest.mark.parametrize("times", [np.array([]), np.full(1000, 5)])
def test_no_duration_has_no_rate(times: np.ndarray) -> None:
    """Nothing, or everything at one instant, is an error and not an infinite rate."""
    with pytest.raises(BenchmarkError, match=r"instant|none"):
        events_per_second(times)


def test_percentiles_are_of_latencies_in_milliseconds() -> None:
    """1 to 1000 ms, one each, for any origin of the clock."""
    sent = np.full(1000, 10**15, np.int64)
    received = sent + np.arange(1, 1001) * 1_000_000
    assert percentiles_ms(sent, received) == pytest.approx((500.5, 990.01, 999.001))


def test_what_never_arrived_is_no_latency() -> None:
    """A loss is counted as lost; it must not show as a negative latency."""
    sent, received = positions(1_000_000, 2_000_000), positions(3_000_000, 0)
    assert percentiles_ms(sent, received) == (2.0, 2.0, 2.0)


def test_no_arrival_at_all_is_an_error() -> None:
    """There is no percentile of nothing."""
    with pytest.raises(BenchmarkError, match="none"):
        percentiles_ms(positions(1, 2), positions(0, 0))
