"""OffsetTracker: which offset of a partition may be committed. No I/O, no clock."""

from __future__ import annotations

from collections import deque


class OffsetTracker:
    """Spans of one partition, from delivery to confirmation.

    The committable offset never passes the lowest span whose outputs are not confirmed, however the confirmations
    arrive. A gap between two spans (compaction, transaction markers) counts for neither: it is passed with the span
    that follows it.
    """

    def __init__(self) -> None:
        self._spans: deque[tuple[int, int]] = deque()
        self._confirmed: set[int] = set()
        self._committable: int | None = None
        self.committed: int | None = None

    def deliver(self, first: int, next_offset: int) -> None:
        """Note that the span [first, next_offset) was handed to an agent. Spans come in order."""
        assert next_offset >= first, "a span never runs backwards"
        assert not self._spans or first >= self._spans[-1][1], "spans are delivered in order; this is a bug"
        self._spans.append((first, next_offset))

    def confirm(self, first: int) -> None:
        """Note that every output of the span beginning at `first` is confirmed by the broker."""
        self._confirmed.add(first)
        while self._spans and self._spans[0][0] in self._confirmed:
            first, next_offset = self._spans.popleft()
            self._confirmed.discard(first)
            self._committable = next_offset

    @property
    def committable(self) -> int | None:
        """The next offset to commit; None where nothing new is confirmed."""
        return None if self._committable == self.committed else self._committable

    @property
    def in_flight(self) -> int:
        """Spans delivered and not confirmed."""
        return len(self._spans) - len(self._confirmed)
