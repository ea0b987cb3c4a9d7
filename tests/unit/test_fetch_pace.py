"""FetchPace: how much a fetch asks for."""

from __future__ import annotations

import pytest

from streams.transport.pace import FAST_RECORDS_MIN, FetchPace


@pytest.mark.parametrize("records, wait_ms", [(1, 3), (FAST_RECORDS_MIN - 1, 3), (FAST_RECORDS_MIN, 12), (5_000, 12)])
def test_the_broker_may_collect_longer_where_many_records_come_at_once(records: int, wait_ms: int) -> None:
    patience = FetchPace(3).after(records)
    assert patience.wait_ms_max == wait_ms
    assert patience.bytes_min > 1  # else the broker would answer with the first record


@pytest.mark.parametrize("wait_ms, fast_ms", [(200, 500), (1_000, 1_000)])
def test_it_collects_no_longer_than_an_idle_fetch_hangs_unless_told_so(wait_ms: int, fast_ms: int) -> None:
    assert FetchPace(wait_ms).after(FAST_RECORDS_MIN).wait_ms_max == fast_ms
