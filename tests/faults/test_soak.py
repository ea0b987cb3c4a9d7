"""An hour under load: nothing grows. Item 20 of the catalogue of faults, by `pytest -m soak`."""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest

from tests.faults.checker import percentile
from tests.faults.conftest import Form, Report
from tests.faults.trial import Trial

SOAK_S = 3_600
SAMPLE_S = 30.0
RATE = 200
# So many pay 720,000 times in a year of event time. The histories of more would not be full within the hour; few would reach
# a time beyond today, and be refused, and payments a year after their labels, which are forgotten by then.
CARDS = 1_250
WARM_S = 900  # histories keep 67 days, which take 11 minutes; allocators fill up with them
# Ids are remembered by the clock, up to 1,024 a card: with the default of a day, 720,000 payments only add to them
# (some 90 bytes each). Twelve minutes of them are all there by then, and leave as they come.
DUPLICATES_HORIZON_H = 0.2
MEMORY_SLOPE_MB_PER_HOUR_MAX = 50.0
P99_GROWTH_MAX = 1.5

pytestmark = [pytest.mark.kafka, pytest.mark.soak, pytest.mark.timeout(SOAK_S + 1_800)]


@pytest.mark.parametrize("form", [Form("soak")])
@pytest.mark.settings(checkpoint_interval_s=10, session_timeout_s=10, duplicates_horizon_h=DUPLICATES_HORIZON_H)
def test_an_hour_under_load(trial: Trial, form: Form, report: Report) -> None:
    """20. Memory has no slope, descriptors stay as many, p99 of the last quarter is that of the second: CLEAN."""
    records = trial.produce_labels(RATE * SOAK_S, cards=CARDS)
    worker = trial.start(0, interpreter=True).wait_until_ready()
    process = psutil.Process(worker.process.pid)
    began = time.monotonic()
    load = trial.load(records, RATE)
    samples = []
    while load.is_alive():
        samples.append((time.monotonic() - began, process.memory_info().rss / 1e6, process.num_fds()))
        time.sleep(SAMPLE_S)
    verdict = trial.verdict()
    seconds, memory_mb, descriptors = np.array([each for each in samples if each[0] >= WARM_S]).T
    slope_mb = float(np.polyfit(seconds, memory_mb, 1)[0]) * 3_600
    quarter = len(records) // 4
    second_s, last_s = (
        percentile(trial.latencies(each["transaction_id"] for each in records[begin : begin + quarter]), 0.99)
        for begin in (quarter, 3 * quarter)
    )
    report(
        "20 soak", verdict, memory_mb_per_hour=slope_mb, descriptors=descriptors.max(),
        p99_second_quarter_ms=1e3 * second_s, p99_last_quarter_ms=1e3 * last_s,
    )  # fmt: skip
    assert verdict.inputs == len(records)
    assert slope_mb <= MEMORY_SLOPE_MB_PER_HOUR_MAX
    assert descriptors.max() <= descriptors[0] + 4
    assert last_s <= P99_GROWTH_MAX * second_s
    trial.assert_state_is_exact(worker)
