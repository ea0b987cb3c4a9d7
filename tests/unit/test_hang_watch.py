"""Calls that never return."""

from __future__ import annotations

from streams.transport.hang_watch import HangWatch


def test_a_call_hangs_that_is_over_its_time_at_two_looks() -> None:
    """At one look it may have been a pause of the whole process, in which nobody could have answered."""
    watch = HangWatch(-1.0)
    assert [watch.run(watch.hangs) for _ in range(3)] == [False] * 3
    assert watch.run(lambda: [watch.hangs() for _ in range(3)]) == [False, True, True]
    assert not watch.hangs()


def test_a_call_does_not_hang_in_its_time() -> None:
    """However often it is looked at."""
    watch = HangWatch(60.0)
    assert watch.run(lambda: [watch.hangs() for _ in range(3)]) == [False] * 3
