"""History of each card: spending in rolling windows, at the moment of each payment.

Rules, all in event time:

- A payment sees itself and those payments of its card that were processed before it and are stamped no later, in exact
  windows (t - W, t].
- A payment that comes again because the model failed for it does not count twice. It sees what it saw at first, and
  the payments stamped no later that came out of order since.
- The watermark is the largest event_time processed. A payment more than HORIZON_MS behind it is late: it is scored
  without history and leaves none.
- A card's events count while newer than its newest one less KEPT_MS, and among its newest `events_per_key_max`.
- What a card usually pays is the mean of its amounts in (t - TYPICAL_MS, t] before the payment, without those more than
  two standard deviations above it. The exclusion runs twice, so that the outliers of a theft do not hide the next one. An
  outlier is a payment of more than OUTLIER_RATIO times that mean.
- A card whose newest event is more than EVICT_AFTER_MS behind the watermark is evicted. Only a late payment could have
  seen any of its events, so eviction never changes a feature.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features import kernels
from models.features.event_log import EventLog
from models.features.history import KeyedHistory, column, none_of

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

HORIZON_MS = 30 * DAY_MS
# What a card usually pays is known better from two months than from one: 0.002 to 0.003 of average precision.
TYPICAL_MS = 60 * DAY_MS
# Labels come 7 days late: after two weeks they show a theft.
RECENT_MS = 14 * DAY_MS
# Amounts of one card vary by half their mean; five times that is a common theft.
OUTLIER_RATIO = 2.5
# A week beyond the longest window: a payment up to a week behind its card's newest still sees all of it.
KEPT_MS = TYPICAL_MS + 7 * DAY_MS
EVICT_AFTER_MS = HORIZON_MS + TYPICAL_MS
# 34 payments a day for 30 days; beyond that the windows of a card add nothing, and a hot key stays cheap.
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
    "card_typical_amount",
    "card_amount_over_typical",
    "card_amount_deviation",
    "card_previous_over_typical",
    "card_largest_14d_over_typical",
    "card_second_14d_over_typical",
    "card_outliers_7d",
    "card_outliers_14d",
    "card_hours_since_outlier",
)

PAYLOAD_KIND = 1
CENTS = 100


class CardHistory(KeyedHistory):
    """Payments of every card, and the features they give.

    Args:
        events_per_key_max: the newest payments of a card that count.

    Source:
        Windows of 1, 7 and 30 days as in Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud
        Detection (2022), chapter 3; the shorter ones are ours.
    """

    def __init__(self, events_per_key_max: int = EVENTS_PER_CARD_MAX) -> None:
        super().__init__(EventLog(np.float64, events_per_key_max), PAYLOAD_KIND, CENTS, KEPT_MS, EVICT_AFTER_MS)
        self._windows = np.array(SUM_WINDOWS_MS + MEAN_WINDOWS_MS, np.int64)

    def update(
        self,
        cards: Sequence[str],
        event_time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64],
        is_retry: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Record payments in the order given and return what each saw.

        Args:
            cards: card ids, length B.
            event_time: int64[B], ms since the epoch.
            amount: float64[B], finite and >= 0.
            is_retry: bool[B], payments given before: recorded only where the history no longer holds them. None: no payment.

        Returns:
            float64[B, len(CARD_FEATURES)].
        """
        out = np.empty((len(cards), len(CARD_FEATURES)))
        self.update_into(cards, event_time, amount, out, 0, is_retry)
        return out

    def update_into(
        self,
        cards: Sequence[str],
        event_time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64],
        out: npt.NDArray[Any],
        first_column: int,
        is_retry: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Do `update`, writing to the columns of `out`, float32 or float64, from `first_column` on."""
        known = none_of(cards) if is_retry is None else column(is_retry, np.bool_)
        assert len(cards) == len(event_time) == len(amount) == len(out) == len(known)
        event_time, amount = column(event_time, np.int64), column(amount, np.float64)
        assert ((amount >= 0) & (amount < np.inf)).all()
        log, rows = self._log, self._rows(cards)

        def step(begin: int) -> int:
            done, self._watermark = kernels.update_cards(
                begin, rows, event_time, amount, known, log.meta, log.times, log.values, log.heap, log.dirty,
                self._watermark, self._windows, len(SUM_WINDOWS_MS), HORIZON_MS, TYPICAL_MS, RECENT_MS, OUTLIER_RATIO,
                KEPT_MS, log.events_per_key_max, out, first_column,
            )  # fmt: skip
            return int(done)

        log.run(step, len(rows))
