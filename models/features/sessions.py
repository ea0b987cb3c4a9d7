"""Latest items of each session, at the moment of each click.

Rules, all in event time:

- A click sees itself and those clicks of its session that were processed before it, are stamped no later and are still kept:
  a session keeps its newest `length` known items. Unknown items (-1) keep a session alive and take no place.
- The watermark is the largest event_time processed. A session whose newest click is more than IDLE_MS behind it starts anew
  at its next click and is evicted. A click more than IDLE_MS behind it is answered alone and leaves nothing.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import StateError
from models.features.kernels import NEVER, compiled
from models.features.keys import KeyIndex

IDLE_MS = 86_400_000
PAYLOAD_VERSION = 1
ROWS_MIN = 256


@compiled
def update_sessions(  # type: ignore[no-untyped-def]
    rows, items, event_time, count, newest, times, kept_items, dirty, watermark, idle_ms, out
):
    """Insert clicks in order and write the items each saw; return the watermark."""
    length = out.shape[1]
    for k in range(rows.size):
        t, item, row = event_time[k], items[k], rows[k]
        watermark = max(watermark, t)
        if t < watermark - idle_ms:
            for j in range(length):
                out[k, j] = -1
            out[k, length - 1] = item
            continue
        if newest[row] < watermark - idle_ms:
            count[row] = 0
        newest[row] = max(newest[row], t)
        dirty[row] = 1
        n = count[row]
        place = n
        while place > 0 and times[row, place - 1] > t:
            place -= 1
        seen = place
        alone = False
        if item >= 0:
            if n < length:
                for j in range(n, place, -1):
                    times[row, j] = times[row, j - 1]
                    kept_items[row, j] = kept_items[row, j - 1]
                times[row, place] = t
                kept_items[row, place] = item
                count[row] = n + 1
                seen = place + 1
            elif place > 0:
                for j in range(place - 1):
                    times[row, j] = times[row, j + 1]
                    kept_items[row, j] = kept_items[row, j + 1]
                times[row, place - 1] = t
                kept_items[row, place - 1] = item
            else:
                alone = True
        for j in range(length - seen):
            out[k, j] = -1
        for j in range(seen):
            out[k, length - seen + j] = kept_items[row, j]
        if alone:
            out[k, length - 1] = item
    return watermark


class SessionHistory:
    """Latest items of every session.

    Args:
        length: items kept of a session, T.
        idle_ms: silence, measured by the watermark, after which a session starts anew.
    """

    def __init__(self, length: int = 20, idle_ms: int = IDLE_MS) -> None:
        assert length >= 1 and idle_ms > 0
        self._length = length
        self._idle_ms = idle_ms
        self._index = KeyIndex()
        self._persisted: set[Any] = set()
        self._watermark = NEVER
        self._count = np.empty(0, np.int32)
        self._newest = np.empty(0, np.int64)
        self._times = np.empty((0, length), np.int64)
        self._items = np.empty((0, length), np.int32)
        self._dirty = np.empty(0, np.uint8)
        self._reserve(ROWS_MIN)

    def __len__(self) -> int:
        """Sessions held."""
        return len(self._index)

    @property
    def watermark(self) -> int:
        """Largest event_time processed, ms; saved and restored by the owner of the checkpoint."""
        return self._watermark

    @watermark.setter
    def watermark(self, event_time: int) -> None:
        self._watermark = event_time

    def _reserve(self, rows: int) -> None:
        have = len(self._count)
        if rows <= have:
            return
        more = max(rows, 2 * have) - have
        self._count = np.concatenate((self._count, np.zeros(more, np.int32)))
        self._newest = np.concatenate((self._newest, np.full(more, NEVER, np.int64)))
        self._times = np.concatenate((self._times, np.zeros((more, self._length), np.int64)))
        self._items = np.concatenate((self._items, np.zeros((more, self._length), np.int32)))
        self._dirty = np.concatenate((self._dirty, np.zeros(more, np.uint8)))

    def update(
        self, sessions: Sequence[str], items: npt.NDArray[np.int32], event_time: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        """Record clicks in the order given and return the items that each saw, itself last.

        Args:
            sessions: session ids, length B.
            items: int32[B], item indices, -1 for an item unknown to the model.
            event_time: int64[B], ms since the epoch.

        Returns:
            int32[B, T], oldest first, padded with -1 on the left.
        """
        assert len(sessions) == len(items) == len(event_time)
        rows = self._index.rows(sessions)
        self._reserve(self._index.row_count)
        out = np.empty((len(sessions), self._length), np.int32)
        self._watermark = int(
            update_sessions(
                rows, items, event_time, self._count, self._newest, self._times, self._items, self._dirty,
                self._watermark, self._idle_ms, out,
            )
        )  # fmt: skip
        return out

    def evict(self) -> list[bytes]:
        """Forget idle sessions; return those keys that a snapshot has told of before."""
        limit = self._watermark - self._idle_ms
        idle = [(str(key), row) for key, row in self._index.items() if self._newest[row] < limit]
        self._drop([row for _, row in idle])
        told = [key.encode() for key, _ in idle if key in self._persisted]
        self._persisted.difference_update(key for key, _ in idle)
        return told

    def _drop(self, rows: list[int]) -> None:
        self._count[rows] = 0
        self._newest[rows] = NEVER
        self._dirty[rows] = 0
        self._index.evict(rows)

    def snapshot(self, dirty_only: bool) -> list[tuple[bytes, bytes | None]]:
        """Evict, then return (key, payload) of the sessions touched since the last snapshot, or of all; forget the touches.

        A payload of None tells that the session was evicted.
        """
        changes: list[tuple[bytes, bytes | None]] = [(key, None) for key in self.evict()]
        for key, row in self._index.items():
            if self._dirty[row] or not dirty_only:
                changes.append((str(key).encode(), self._payload(row)))
                self._persisted.add(key)
        self._dirty[:] = 0
        return changes

    def load(self, key: bytes, payload: bytes | None) -> None:
        """Put a row of a snapshot in place, replacing what the session had; None evicts it.

        Raises:
            StateError: the payload is damaged or of another version.
        """
        self.load_many([(key, payload)])

    def load_many(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Do `load` for each pair in order."""
        for key, payload in pairs:
            session = key.decode()
            if payload is None:
                known = self._index.get(session)
                if known is not None:
                    self._drop([known])
                    self._persisted.discard(session)
                continue
            if len(payload) < 9 or payload[0] != PAYLOAD_VERSION or (len(payload) - 9) % 12:
                raise StateError(f"session {session}: expected a payload of version {PAYLOAD_VERSION}, got {payload[:1]!r}")
            count = (len(payload) - 9) // 12
            row = self._index[session]
            self._reserve(self._index.row_count)
            self._newest[row] = np.frombuffer(payload, "<i8", 1, 1)[0]
            self._times[row, :count] = np.frombuffer(payload, "<i8", count, 9)
            self._items[row, :count] = np.frombuffer(payload, "<i4", count, 9 + 8 * count)
            self._count[row] = count
            self._dirty[row] = 0
            self._persisted.add(session)

    def digest(self) -> str:
        """Return the SHA-256 of all sessions that are not idle, independent of the order they came in."""
        total = hashlib.sha256()
        for key, row in sorted((str(key).encode(), row) for key, row in self._index.items()):
            if self._newest[row] >= self._watermark - self._idle_ms:
                payload = self._payload(row)
                total.update(len(key).to_bytes(4, "little") + key + len(payload).to_bytes(4, "little") + payload)
        return total.hexdigest()

    def _payload(self, row: int) -> bytes:
        count = self._count[row]
        return b"".join(
            (
                bytes([PAYLOAD_VERSION]),
                self._newest[row].tobytes(),
                self._times[row, :count].tobytes(),
                self._items[row, :count].tobytes(),
            )
        )
