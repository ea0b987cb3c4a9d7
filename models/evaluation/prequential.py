"""The Fraud Detection Handbook's prequential protocol: train, wait for the labels, judge a week; week after week.

For a test week that begins on day D, labels known are those of payments before D - 7 days. The Handbook's own models learn
from the seven days before that; ours may learn from all of them. What is judged:

- On day d of the week, cards with a fraud stamped in [D - 14 days, d - 7 days) are left out: they are known as compromised
  and would be blocked. (The Handbook collects the frauds of its training week and of day d - 8 for each d; the union is the
  same.)
- AUC ROC and average precision over the payments of the week that remain.
- Card precision among the top 100 (CP@100): the mean over days of the share of the 100 cards scored highest that paid
  fraudulently that day. A card's score of a day is its highest; a card found on an earlier day of the week is left out.

Days are UTC days. Source: Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection (2022),
`get_train_test_set` and `card_precision_top_k`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.features.terminals import DAY_MS, LABEL_DELAY_MS
from models.metrics import auc, average_precision, calibration_error
from models.training.reproducible import date

WEEK_DAYS: Final = 7
TRAINING_DAYS: Final = 7
TOP_CARDS: Final = 100
METRICS: Final = ("auc", "average_precision", "card_precision_100", "calibration_error")

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Week:
    """A test week.

    Attributes:
        begin: Midnight (UTC) of its first day, ms.
    """

    begin: int

    @property
    def name(self) -> str:
        """Date of its first day."""
        return date(self.begin)

    @property
    def end(self) -> int:
        """Midnight after its last day, ms."""
        return self.begin + WEEK_DAYS * DAY_MS

    @property
    def known_until(self) -> int:
        """Labels of payments before it are known when the week begins, ms."""
        return self.begin - LABEL_DELAY_MS

    @property
    def training_begin(self) -> int:
        """First moment of the Handbook's training week, ms."""
        return self.known_until - TRAINING_DAYS * DAY_MS


class Payments:
    """Labelled payments to be judged.

    Args:
        table: As `models.training.fraud.ordered` returns it: ascending in event_time.

    Raises:
        EvaluationError: no payments, no fraud at all, or a negative amount.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table
        self.event_time: Rows = table["event_time"]
        self.is_fraud: NDArray[np.bool_] = table["is_fraud"]
        numbers: dict[str, int] = {}
        self.card: Rows = np.fromiter(
            (numbers.setdefault(card, len(numbers)) for card in table["card_id"]), np.int64, len(self.event_time)
        )
        if not len(self.event_time):
            raise EvaluationError("payments: expected some, got none; give a file with rows")
        if not self.is_fraud.any():
            raise EvaluationError(
                f"labels: expected frauds, got none in {len(self.is_fraud):,} payments; name the right column"
            )
        if (table["amount"] < 0).any():
            raise EvaluationError(
                f"amount: expected >= 0, got {int((table['amount'] < 0).sum()):,} negative ones; drop these rows"
            )

    def weeks(self, first: int, count: int) -> list[Week]:
        """Return consecutive test weeks.

        Args:
            first: Midnight (UTC) of the first day of the first, ms.
            count: How many.

        Raises:
            EvaluationError: a week is not wholly covered, or what is known before it holds no training week.
        """
        weeks = [Week(first + number * WEEK_DAYS * DAY_MS) for number in range(count)]
        begin, end = int(self.event_time[0]), int(self.event_time[-1])
        # The first and the last day count as covered: payments rarely fall on midnight itself.
        if weeks[0].training_begin < begin - begin % DAY_MS or weeks[-1].end > end - end % DAY_MS + DAY_MS:
            raise EvaluationError(
                f"test weeks {weeks[0].name} to {date(weeks[-1].end - 1)}: expected payments from "
                f"{date(weeks[0].training_begin)} (7 days of training, 7 of label delay) to their end, got "
                f"{date(begin)} to {date(end)}; choose other weeks"
            )
        return weeks

    def between(self, begin: int, end: int) -> slice:
        """Return the rows stamped in [begin, end), ms."""
        return slice(*np.searchsorted(self.event_time, (begin, end)).tolist())

    def judged(self, week: Week) -> Rows:
        """Return the rows of a week that are judged: int64[R], ascending, cards known as compromised left out.

        Raises:
            EvaluationError: what remains holds one class only.
        """
        compromised = np.zeros(int(self.card.max()) + 1, np.bool_)
        rows = []
        for day in range(week.begin, week.end, DAY_MS):
            known = self.between(week.training_begin, day - LABEL_DELAY_MS)
            compromised[self.card[known][self.is_fraud[known]]] = True
            today = np.arange(*self.between(day, day + DAY_MS).indices(len(self.card)), dtype=np.int64)
            rows.append(today[~compromised[self.card[today]]])
        judged = np.concatenate(rows)
        frauds = int(self.is_fraud[judged].sum())
        if not 0 < frauds < len(judged):
            raise EvaluationError(
                f"week {week.name}: expected frauds and genuine payments, got {frauds:,} frauds in {len(judged):,} "
                "payments of cards not yet known as compromised; choose other weeks"
            )
        return judged

    def judge(self, scores: NDArray[np.floating[Any]], rows: Rows) -> dict[str, float]:
        """Return METRICS by name.

        Args:
            scores: floating[R], higher for more suspicious; finite.
            rows: int64[R], as from `judged`.

        Raises:
            EvaluationError: a score is no number.
        """
        if not np.isfinite(scores).all():
            raise EvaluationError(
                f"scores: expected finite numbers, got {int((~np.isfinite(scores)).sum()):,} others; check the model"
            )
        is_fraud = self.is_fraud[rows]
        by_day = card_precisions(scores, self.card[rows], is_fraud, self.event_time[rows] // DAY_MS)
        return {
            "auc": auc(scores, is_fraud),
            "average_precision": average_precision(scores, is_fraud),
            "card_precision_100": float(by_day.mean()),
            "calibration_error": calibration_error(scores, is_fraud),
        }


def card_precisions(
    scores: NDArray[np.floating[Any]], card: Rows, is_fraud: NDArray[np.bool_], day: Rows, top: int = TOP_CARDS
) -> NDArray[np.float64]:
    """Return the share of compromised cards among the `top` cards scored highest, for each day with a payment.

    Args:
        scores: floating[R].
        card: int64[R] card numbers.
        is_fraud: bool[R].
        day: int64[R] day numbers.
        top: Cards that can be looked at in a day. A day with fewer cards is divided by `top` all the same, as in the
            source. Of equal scores the smaller card number comes first.

    Returns:
        float64[days], in order of the days.
    """
    found = np.zeros(int(card.max()) + 1, np.bool_)
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~found[card])
        cards, of_row = np.unique(card[rows], return_inverse=True)
        highest = np.full(len(cards), -np.inf)
        np.maximum.at(highest, of_row, scores[rows])
        compromised = np.zeros(len(cards), np.bool_)
        np.logical_or.at(compromised, of_row, is_fraud[rows])
        first = np.argsort(-highest, kind="stable")[:top]
        detected = cards[first][compromised[first]]
        found[detected] = True
        shares.append(len(detected) / top)
    return np.array(shares)


def mean(of_weeks: list[dict[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the weeks."""
    return {name: float(np.mean([week[name] for week in of_weeks])) for name in METRICS}
