"""The watchdog reports the partitions that stand still, and no others."""

from streams.worker.standstill import Watchdog


def test_a_partition_stands_still_from_its_last_progress_on() -> None:
    """Any change of the observed value counts as progress."""
    watchdog: Watchdog[str] = Watchdog()
    assert watchdog.observe(1.0, {"a": (5, 0), "b": (7, 0)}) == {"a": 0.0, "b": 0.0}
    assert watchdog.observe(3.0, {"a": (5, 0), "b": (8, 0)}) == {"a": 2.0, "b": 0.0}
    assert watchdog.observe(4.0, {"a": (5, 1), "b": (8, 0)}) == {"a": 0.0, "b": 1.0}


def test_a_partition_that_has_caught_up_begins_anew() -> None:
    """Having nothing to do is not standing still, and is not held against it later."""
    watchdog: Watchdog[str] = Watchdog()
    watchdog.observe(1.0, {"a": 5})
    assert watchdog.observe(50.0, {}) == {}
    assert watchdog.observe(100.0, {"a": 5}) == {"a": 0.0}
