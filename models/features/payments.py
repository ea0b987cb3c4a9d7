"""The row of features that the fraud model sees, the same in training and in serving."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import TrainingDataError
from models.features.cards import CARD_FEATURES, CardHistory
from models.features.compilation import compiled
from models.features.history import column
from models.features.terminals import TERMINAL_FEATURES, TerminalHistory

PAYMENT_FEATURES: tuple[str, ...] = (
    "amount",
    "amount_log",
    "is_night",
    "is_weekend",
    "hour_sin",
    "hour_cos",
)
FRAUD_FEATURES: tuple[str, ...] = PAYMENT_FEATURES + CARD_FEATURES + TERMINAL_FEATURES

_MINUTES = np.arange(24 * 60) * (2 * np.pi / (24 * 60))
_SINE, _COSINE = np.sin(_MINUTES), np.cos(_MINUTES)


@compiled
def write_columns(event_time, amount, sine, cosine, out, column):  # type: ignore[no-untyped-def]
    """Write the features of the payment's own fields; `sine` and `cosine` hold the daily circle by minute."""
    for k in range(event_time.size):
        day = event_time[k] // 86_400_000
        minute = (event_time[k] - day * 86_400_000) // 60_000
        out[k, column] = amount[k]
        out[k, column + 1] = math.log1p(amount[k])
        out[k, column + 2] = minute < 7 * 60
        out[k, column + 3] = (day + 3) % 7 >= 5
        out[k, column + 4] = sine[minute]
        out[k, column + 5] = cosine[minute]


class PaymentFeatures:
    """Features of payments from their own fields, their card's history and their terminal's.

    Args:
        cards: recorded into by `build`.
        terminals: read by `build`.
    """

    def __init__(self, cards: CardHistory, terminals: TerminalHistory) -> None:
        self.cards = cards
        self.terminals = terminals

    def build(
        self,
        cards: Sequence[str],
        terminals: Sequence[str],
        event_time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64],
        out: npt.NDArray[np.float32] | None = None,
        is_retry: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Record payments in the order given and return the features of each, as it was known at its time.

        Args:
            cards: card ids, length B.
            terminals: terminal ids, length B.
            event_time: int64[B], ms since the epoch.
            amount: float64[B], finite and >= 0.
            out: float32[B, F], C-contiguous, to write to instead of a new matrix.
            is_retry: bool[B], as for `CardHistory.update`.

        Returns:
            float32[B, F], columns in FRAUD_FEATURES order. Night is before 07:00, weekend Saturday and Sunday, in UTC.
        """
        if out is None:
            out = np.empty((len(cards), len(FRAUD_FEATURES)), np.float32)
        event_time, amount = column(event_time, np.int64), column(amount, np.float64)
        assert len(cards) == len(terminals) == len(event_time) == len(amount) == len(out) and out.flags.c_contiguous
        write_columns(event_time, amount, _SINE, _COSINE, out, 0)
        first = len(PAYMENT_FEATURES)
        self.cards.update_into(cards, event_time, amount, out, first, is_retry)
        self.terminals.features_into(terminals, event_time, out, first + len(CARD_FEATURES))
        return out


def warm_up() -> None:
    """Compile, or read from the cache, all kernels that payments and labels need, so that no record waits for them."""
    features, moment, amount = PaymentFeatures(CardHistory(), TerminalHistory()), np.ones(1, np.int64), np.ones(1)
    features.build(["card"], ["terminal"], moment, amount)
    features.terminals.add(["terminal"], moment, np.ones(1, np.bool_))
    for history in (features.cards, features.terminals):
        history.load_many(history.snapshot(dirty_only=True))
        history.evict()


def replay(features: PaymentFeatures, columns: dict[str, Any], batch_records: int = 2048) -> npt.NDArray[np.float32]:
    """Return the features of labelled payments of the past, as a worker would have seen them with labels 7 days late.

    Args:
        features: history before the first payment; holds the history after the last one on return.
        columns: card_id and terminal_id (sequences of str), event_time (int64[N], ms, ascending), amount (float64[N]),
            is_fraud (bool[N]).
        batch_records: records a step; changes nothing but speed.

    Returns:
        float32[N, F], columns in FRAUD_FEATURES order.

    Raises:
        TrainingDataError: event_time is not ascending.
    """
    event_time, is_fraud = columns["event_time"], columns["is_fraud"]
    falls = np.flatnonzero(np.diff(event_time) < 0)
    if len(falls):
        raise TrainingDataError(f"event_time[{falls[0] + 1}]: expected ascending times, got a fall; sort by event_time")
    out = np.empty((len(event_time), len(FRAUD_FEATURES)), np.float32)
    end = 0
    while end < len(event_time):
        begin = end
        # A step spans less than the delay, so that no payment in it could see a label of it.
        limit = np.searchsorted(event_time, event_time[begin] + features.terminals.delay_ms)
        end = min(begin + batch_records, int(limit))
        part = slice(begin, end)
        terminals = columns["terminal_id"][part]
        features.build(columns["card_id"][part], terminals, event_time[part], columns["amount"][part], out[part])
        features.terminals.add(terminals, event_time[part], is_fraud[part])
    return out
