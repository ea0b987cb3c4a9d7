"""History of each card: spending in rolling windows, at the moment of each payment.

Rules, all in event time:

- A payment sees itself and those payments of its card that were processed before it and are stamped no later, in exact
  windows (t - W, t].
- The watermark is the largest event_time processed. A payment more than HORIZON_MS behind it is late: it is scored without
  history and leaves none.
- A card's events count while newer than its newest one less KEPT_MS, and among its newest `events_per_key_max`.
- A card whose newest event is more than 2 * HORIZON_MS behind the watermark is evicted. No payment that is not late could see
  any of its events, so eviction never changes a feature.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import StateError
from models.features import kernels
from models.features.event_log import EventLog
from models.features.keys import KeyIndex, Rows

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

HORIZON_MS = 30 * DAY_MS
# A week beyond the longest window: a payment up to a week behind its card's newest still sees all of its 30 days.
KEPT_MS = HORIZON_MS + 7 * DAY_MS
# 34 payments a day for 30 days; beyond that the windows of a card tell no more, and a hot key stays cheap.
EVENTS_PER_CARD_MAX = 1024

SUM_WINDOWS_MS = (10 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS)
MEAN_WINDOWS_MS = (DAY_MS, 7 * DAY_MS, HORIZON_MS)

CARD_FEATURES: tuple[str, ...] = (
    "card_count_10min",
    "card_sum_10min",
    "card_count_1h",
    "card_sum_1h",
    "card_count_6h",
    "card_sum_6h",
    "card_count_1d",
    "card_mean_1d",
    "card_count_7d",
    "card_mean_7d",
    "card_count_30d",
    "card_mean_30d",
    "card_seconds_since_last",
    "card_amount_over_mean",
    "card_amount_zscore",
    "card_amount_share_of_max",
)

PAYLOAD_VERSION = 1


class CardHistory:
    """Payments of every card, and the features they give.

    Args:
        events_per_key_max: the newest payments of a card that count.

    Source:
        Windows of 1, 7 and 30 days as in Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection
        (2022), chapter 3; velocity windows are ours.
    """

    def __init__(self, events_per_key_max: int = EVENTS_PER_CARD_MAX) -> None:
        self._index = KeyIndex()
        self._log = EventLog(np.float64, events_per_key_max)
        self._windows = np.array(SUM_WINDOWS_MS + MEAN_WINDOWS_MS, np.int64)
        self._persisted: set[Any] = set()
        self._watermark = kernels.NEVER

    def __len__(self) -> int:
        """Cards held."""
        return len(self._index)

    @property
    def watermark(self) -> int:
        """Largest event_time processed, ms; saved and restored by the owner of the checkpoint."""
        return self._watermark

    @watermark.setter
    def watermark(self, event_time: int) -> None:
        self._watermark = event_time

    def update(
        self, cards: Sequence[str], event_time: npt.NDArray[np.int64], amount: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Record payments in the order given and return what each saw.

        Args:
            cards: card ids, length B.
            event_time: int64[B], ms since the epoch.
            amount: float64[B], finite.

        Returns:
            float64[B, len(CARD_FEATURES)].
        """
        out = np.empty((len(cards), len(CARD_FEATURES)))
        self.update_into(cards, event_time, amount, out, 0)
        return out

    def update_into(
        self,
        cards: Sequence[str],
        event_time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64],
        out: npt.NDArray[Any],
        column: int,
    ) -> None:
        """Do `update`, writing the features to `out[:, column:column + len(CARD_FEATURES)]`, float32 or float64."""
        assert len(cards) == len(event_time) == len(amount) == len(out)
        rows = self._index.rows(cards)
        log = self._log
        log.reserve_rows(self._index.row_count)

        def step(begin: int) -> int:
            done, self._watermark = kernels.update_cards(
                begin, rows, event_time, amount, log.meta, log.times, log.values, log.heap, log.dirty, self._watermark,
                self._windows, len(SUM_WINDOWS_MS), KEPT_MS, log.events_per_key_max, out, column,
            )  # fmt: skip
            return int(done)

        log.run(step, len(rows))

    def evict(self) -> list[bytes]:
        """Forget cards that no payment can see any more; return those keys that a snapshot has told of before."""
        newest = self._log.newest
        limit = self._watermark - 2 * HORIZON_MS
        gone = [(str(key), row) for key, row in self._index.items() if newest[row] < limit]
        rows = [row for _, row in gone]
        self._log.clear(np.array(rows, np.int64))
        self._index.evict(rows)
        told = [key.encode() for key, _ in gone if key in self._persisted]
        self._persisted.difference_update(key for key, _ in gone)
        return told

    def snapshot(self, dirty_only: bool) -> list[tuple[bytes, bytes | None]]:
        """Evict, then return (key, payload) of the cards touched since the last snapshot, or of all; forget the touches.

        A payload of None tells that the card was evicted.
        """
        changes: list[tuple[bytes, bytes | None]] = [(key, None) for key in self.evict()]
        for key, row in self._index.items():
            if self._log.dirty[row] or not dirty_only:
                changes.append((str(key).encode(), self._payload(row)))
                self._persisted.add(key)
        self._log.dirty[:] = 0
        return changes

    def load(self, key: bytes, payload: bytes | None) -> None:
        """Put a row of a snapshot in place, replacing what the card had; None evicts it.

        Raises:
            StateError: the payload is damaged or of another version.
        """
        self.load_many([(key, payload)])

    def load_many(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Do `load` for each pair in order."""
        for key, payload in pairs:
            card = key.decode()
            if payload is None:
                row = self._index.get(card)
                if row is not None:
                    self._log.clear(np.array([row]))
                    self._index.evict([row])
                    self._persisted.discard(card)
                continue
            if not payload or payload[0] != PAYLOAD_VERSION or (len(payload) - 1) % 16:
                raise StateError(f"card {card}: expected a payload of version {PAYLOAD_VERSION}, got {payload[:1]!r}")
            count = (len(payload) - 1) // 16
            row = self._index[card]
            self._log.reserve_rows(self._index.row_count)
            times = np.frombuffer(payload, "<i8", count, 1).copy()
            self._log.restore(row, times, np.frombuffer(payload, "<f8", count, 1 + 8 * count).copy())
            self._log.dirty[row] = 0
            self._persisted.add(card)

    def digest(self) -> str:
        """Return the SHA-256 of all cards that a payment can still see, independent of the order they came in."""
        total = hashlib.sha256()
        rows = sorted((str(key).encode(), row) for key, row in self._index.items())
        for key, row in rows:
            if self._log.newest[row] >= self._watermark - 2 * HORIZON_MS:
                payload = self._payload(row)
                total.update(len(key).to_bytes(4, "little") + key + len(payload).to_bytes(4, "little") + payload)
        return total.hexdigest()

    def _payload(self, row: int) -> bytes:
        times, values = self._log.read(row, KEPT_MS, kernels.NEVER)
        return bytes([PAYLOAD_VERSION]) + times.tobytes() + values.tobytes()
