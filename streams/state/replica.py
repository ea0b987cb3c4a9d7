"""Replica: what a partition's checkpoint log says, read up to an offset. A restore starts from one and reads on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

ROW, MARKER = b"r", b"m"
Records = tuple[list[bytes], list[bytes | None]]


class Replica:
    """A copy of a checkpoint log, with one row for each key. One thread at a time.

    Readers see a log up to the first record of a transaction that is open. Where another writer left one open among a
    checkpoint's rows, the first of these can be read, the rest and the marker cannot: rows count once their marker is read.

    Attributes:
        rows: those of the last checkpoint that was read as a whole.
        behind: those whose marker has not come yet; None buries a key.
        marker: of the last whole checkpoint, as it was written; None where there is none.
        next_offset: where to read on.
    """

    __slots__ = ("behind", "marker", "next_offset", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.behind: dict[bytes, bytes | None] = {}
        self.marker: bytes | None = None
        self.next_offset = 0

    def apply(self, keys: Sequence[bytes], payloads: Sequence[bytes | None], next_offset: int) -> None:
        """Read on: records from `self.next_offset` on, in order, up to `next_offset`."""
        begin = 0
        if MARKER in keys:  # few of a million are
            for at in [at for at, key in enumerate(keys) if key == MARKER and payloads[at] is not None]:
                self._put(keys[begin:at], payloads[begin:at])
                self._close(payloads[at])
                begin = at + 1
        self._put(keys[begin:], payloads[begin:])
        self.next_offset = next_offset

    def _put(self, keys: Sequence[bytes], payloads: Sequence[bytes | None]) -> None:
        names = [key[1:] for key in keys if key[:1] == ROW]
        if len(names) < len(keys):
            payloads = [payload for key, payload in zip(keys, payloads, strict=True) if key[:1] == ROW]
        self.behind.update(zip(names, payloads, strict=True))

    def _close(self, marker: bytes | None) -> None:
        behind, self.behind, self.marker = self.behind, {}, marker
        buried = [key for key, payload in behind.items() if payload is None]
        rows: dict[bytes, bytes | None] = self.rows or behind  # type: ignore[assignment]
        if rows is not behind:
            rows.update(behind)
        for key in buried:
            del rows[key]
        self.rows = rows  # type: ignore[assignment]

    def drained(self, count_max: int) -> Iterator[Records]:
        """Yield the fewest records that say the same, `count_max` at most in each list, and let go of each meanwhile.

        To free a million rows at once holds the interpreter for a tenth of a second.
        """
        while part := [self.rows.popitem() for _ in range(min(count_max, len(self.rows)))]:
            yield [ROW + key for key, _ in part], [payload for _, payload in part]
        if self.marker is not None:
            yield [MARKER], [self.marker]
        while self.behind:
            keys = list(islice(self.behind, count_max))
            yield [ROW + key for key in keys], [self.behind.pop(key) for key in keys]
