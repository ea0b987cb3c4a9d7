"""Fraud history of each terminal, as known once labels have come in.

Rules, all in event time of the labelled payments:

- A payment at t sees labels up to cutoff(t) = floor(t, granularity) - delay, in exact windows (cutoff - W, cutoff].
- Labels are counted per terminal and bucket of one granularity, so that a busy terminal costs no more than a quiet one.
- Labels more than `kept_ms`, delay and granularity behind the newest label of all terminals are
  forgotten. A payment sees all of its windows unless it is more than `kept_ms` less 30 days behind that newest label.
- The features are therefore a function of the *set* of labels, in any order of arrival.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features import kernels
from models.features.event_log import EventLog
from models.features.history import KeyedHistory, column

HOUR_MS = 3_600_000
DAY_MS = 86_400_000

LABEL_DELAY_MS = 7 * DAY_MS
LABEL_GRANULARITY_MS = HOUR_MS
WINDOWS_MS = (DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
# A starting worker reads all labels before the first payment. Labels kept this long let a replay of a year of payments
# give the features that were given live. It costs 16 bytes for each hour and terminal with a label.
KEPT_MS = 400 * DAY_MS
RECENT_LABELS = 5
BUCKETS_PER_TERMINAL_MAX = 1 << 16  # seven years of hours
PAYLOAD_KIND = 2

TERMINAL_FEATURES: tuple[str, ...] = (
    "terminal_labelled_1d",
    "terminal_risk_1d",
    "terminal_labelled_7d",
    "terminal_risk_7d",
    "terminal_labelled_30d",
    "terminal_risk_30d",
    "terminal_hours_since_fraud",
    "terminal_recent_frauds",
    "terminal_fraud_streak",
    "terminal_streak_hours",
    "terminal_hours_since_genuine",
    "terminal_labels_since_fraud",
    "terminal_frauds_before_streak",
)


class TerminalHistory(KeyedHistory):
    """Labelled payments of every terminal, and the features they give.

    Args:
        delay_ms: how long labels take to be known; a whole number of granularities.
        granularity_ms: width of a bucket; divides a day. 1 gives the windows of the source to the millisecond.
        kept_ms: how far labels may run ahead of payments, and the longest window; at least 30 days.

    Source:
        Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection (2022), chapter 3.
    """

    def __init__(
        self, delay_ms: int = LABEL_DELAY_MS, granularity_ms: int = LABEL_GRANULARITY_MS, kept_ms: int = KEPT_MS
    ) -> None:
        assert granularity_ms > 0 and delay_ms % granularity_ms == 0 and DAY_MS % granularity_ms == 0
        assert kept_ms >= WINDOWS_MS[-1]
        self.delay_ms = delay_ms
        self._granularity_ms = granularity_ms
        kept = (kept_ms + delay_ms) // granularity_ms + 1
        super().__init__(EventLog(np.int64, BUCKETS_PER_TERMINAL_MAX), PAYLOAD_KIND, 1, kept, kept - 1)
        self._windows = np.array(WINDOWS_MS, np.int64) // granularity_ms

    def add(self, terminals: Sequence[str], event_time: npt.NDArray[np.int64], is_fraud: npt.NDArray[np.bool_]) -> None:
        """Count labels, each once; the caller drops repeats.

        Args:
            terminals: terminal ids, length B.
            event_time: int64[B], ms since the epoch, of the labelled payments.
            is_fraud: bool[B].
        """
        assert len(terminals) == len(event_time) == len(is_fraud)
        log = self._log
        rows, is_fraud = self._rows(terminals), column(is_fraud, np.bool_)
        bucket = column(-(-event_time // self._granularity_ms), np.int64)

        def step(begin: int) -> int:
            done, self._watermark = kernels.add_labels(
                begin, rows, bucket, is_fraud, log.meta, log.times, log.values, log.heap, log.dirty, self._watermark,
                self._kept, log.events_per_key_max,
            )  # fmt: skip
            return int(done)

        log.run(step, len(rows))

    def features(self, terminals: Sequence[str], event_time: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return what was known of each terminal at each time.

        Args:
            terminals: terminal ids, length B.
            event_time: int64[B], ms since the epoch, of the payments to score.

        Returns:
            float64[B, len(TERMINAL_FEATURES)]: labelled payments and their fraud share in each window; hours from the
            last known fraud to the cutoff, 720 where there is none in 30 days; frauds among the last 5 labelled
            payments (of a bucket that holds more than are wanted, its share). Then the streak, the labels in the latest
            buckets without a genuine one; hours from its first bucket to the cutoff, 0 without a streak; hours from the
            last bucket with a genuine label, 720 where there is none in 30 days; labels in the buckets since the last
            one with a fraud; frauds in 30 days before the streak.
        """
        out = np.empty((len(terminals), len(TERMINAL_FEATURES)))
        self.features_into(terminals, event_time, out, 0)
        return out

    def features_into(
        self, terminals: Sequence[str], event_time: npt.NDArray[np.int64], out: npt.NDArray[Any], first_column: int
    ) -> None:
        """Do `features`, writing to the columns of `out`, float32 or float64, from `first_column` on."""
        assert len(terminals) == len(event_time) == len(out)
        log = self._log
        kernels.terminal_features(
            self._index.find(terminals), column(event_time, np.int64), self._granularity_ms,
            self.delay_ms // self._granularity_ms, log.meta, log.times, log.values, self._watermark - self._kept,
            self._windows, self._granularity_ms / HOUR_MS, RECENT_LABELS, log.events_per_key_max, out, first_column,
        )  # fmt: skip
