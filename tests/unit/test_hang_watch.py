"""Calls that never return."""

from __future__ import annotations

import pytest

from streams.clients import hang_watch
from streams.clients.hang_watch import HangWatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, as the watch reads it."""
    now = [0.0]
    monkeypatch.setattr(hang_watch.time, "monotonic", lambda: now[0])
    return now


def test_a_call_hangs_that_is_over_its_time_for_a_while(clock: list[float]) -> None:
    """At one look, or two in a row, it may have been a pause of the whole process, in which no thread could have answered."""
    watch = HangWatch(5.0)

    def looks() -> list[bool]:
        found = []
        for clock[0] in (1.0, 5.0, 60.0, 60.0, 60.9, 61.0, 70.0):
            found.append(watch.look())
        return found

    assert watch.run(looks) == [False] * 5 + [True] * 2
    assert not watch.look()


def test_each_call_has_its_own_time(clock: list[float]) -> None:
    """One that was over its time and has returned says nothing of the next."""
    watch = HangWatch(5.0)

    def late(at: float) -> bool:
        clock[0] = at
        return watch.look()

    assert [watch.run(lambda at=at: late(at)) for at in (6.0, 12.0, 18.0)] == [False] * 3  # type: ignore[misc]
