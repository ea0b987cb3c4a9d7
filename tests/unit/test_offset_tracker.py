"""The committable offset never passes an unconfirmed span, with confirmations in any order."""

from hypothesis import given
from hypothesis import strategies as st

from streams.transport.offsets import OffsetTracker

Spans = list[tuple[int, int]]


@st.composite
def spans_and_confirmations(draw: st.DrawFn) -> tuple[Spans, list[int]]:
    position, spans = draw(st.integers(0, 10**12)), []
    for length, gap in draw(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), min_size=1, max_size=30)):
        position += gap
        spans.append((position, position + length))
        position += length
    order = draw(st.permutations(range(len(spans))))
    return spans, order[: draw(st.integers(0, len(spans)))]


@given(spans_and_confirmations())
def test_committable_is_the_end_of_the_confirmed_prefix(case: tuple[Spans, list[int]]) -> None:
    """After any confirmations the committable offset is the end of the longest prefix of confirmed spans."""
    spans, confirmed = case
    tracker = OffsetTracker()
    for span in spans:
        tracker.deliver(*span)
    done: set[int] = set()
    for index in confirmed:
        tracker.confirm(*spans[index])
        done.add(index)
        prefix = next((i for i in range(len(spans)) if i not in done), len(spans))
        assert tracker.committable == (spans[prefix - 1][1] if prefix else None)
        assert tracker.in_flight == len(spans) - len(done)


def test_confirmation_of_an_unknown_span_commits_nothing() -> None:
    """A late confirmation from an earlier assignment does not confirm a longer span that begins at the same place."""
    tracker = OffsetTracker()
    tracker.deliver(100, 300)
    tracker.confirm(100, 200)
    assert tracker.committable is None
    tracker.confirm(100, 300)
    assert tracker.committable == 300


def test_a_committed_offset_is_not_committed_again() -> None:
    """Once the broker has answered, there is nothing new to commit."""
    tracker = OffsetTracker()
    tracker.deliver(0, 5)
    tracker.confirm(0, 5)
    tracker.committed = 5
    assert tracker.committable is None
