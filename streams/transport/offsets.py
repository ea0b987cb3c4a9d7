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
        self._spans: deque[tuple[int, int]] = deque()  # delivered, oldest first
        self._open: set[tuple[int, int]] = set()  # of these, the ones not confirmed
        self._committable: int | None = None
        self.committed: int | None = None

    def deliver(self, first: int, next_offset: int) -> None:
        """Note that the span [first, next_offset) was handed to an agent. Spans come in order."""
        assert next_offset >= first, "a span never runs backwards; this is a bug"
        assert not self._spans or first >= self._spans[-1][1], "spans are delivered in order; this is a bug"
        self._spans.append((first, next_offset))
        self._open.add((first, next_offset))

    def confirm(self, first: int, next_offset: int) -> None:
        """Note that every output of a span is confirmed by the broker; a span that is not open is passed over."""
        self._open.discard((first, next_offset))
        while self._spans and self._spans[0] not in self._open:
            self._committable = self._spans.popleft()[1]

    @property
    def committable(self) -> int | None:
        """The next offset to commit; None where nothing new is confirmed."""
        return None if self._committable == self.committed else self._committable

    @property
    def in_flight(self) -> int:
        """How many spans are delivered and not confirmed."""
        return len(self._open)
