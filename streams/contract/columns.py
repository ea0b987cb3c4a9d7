"""Columns of decoded events: one row for each valid record of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a record, from the settings."""

    record_bytes_max: int = 65_536
    event_time_ahead_ms_max: int = 86_400_000


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that will not be decided: its position in the batch, a code of REJECTION_CODES, a sentence, where it failed."""

    position: int
    code: str
    message: str
    stage: str = "decode"


class Columns:
    """Rows of a batch, one attribute a column; `accepted` and `rejected` are positions in the batch."""

    __slots__ = ()
    accepted: NDArray[np.int64]
    rejected: list[Rejection]

    def without(self, drop: NDArray[np.bool_], rejected: Sequence[Rejection] = ()) -> Self:
        """Return the rows where `drop`, bool[n], is False, with `rejected` added to the rejections."""
        if not drop.any():
            return self
        kept = np.flatnonzero(~drop)
        places = kept.tolist()
        columns: dict[str, Any] = {"rejected": [*self.rejected, *rejected]}
        for each in fields(self):  # type: ignore[arg-type]
            if each.name not in columns:
                column = getattr(self, each.name)
                columns[each.name] = column[kept] if isinstance(column, np.ndarray) else [column[p] for p in places]
        return replace(self, **columns)  # type: ignore[type-var]


class Decidable(Columns):
    """Rows that a model answers. A record for which the model failed may come again, with the header `FAILED_AT`.

    State remembers an id at its first attempt, whether the model answered or failed: state that is restored from the log
    must not depend on the model. The header tells a second attempt from a repeat by the place of the failed record.
    """

    __slots__ = ()
    failed_at: list[str]

    def is_retry(self) -> NDArray[np.bool_]:
        """Return bool[n], True for a second attempt at a record for which the model failed."""
        return np.array(list(map(bool, self.failed_at)), np.bool_)

    def kafka_keys(self) -> list[str]:
        """Return the Kafka key of each row, which is also the key of its history."""
        raise NotImplementedError

    def identities(self) -> list[str]:
        """Return the identity of each row, unique under its key."""
        raise NotImplementedError

    def _identities(self, ids: list[str]) -> list[str]:
        if not any(self.failed_at):
            return ids
        return [f"{id_}\0{place}" if place else id_ for id_, place in zip(ids, self.failed_at, strict=True)]


@dataclass(frozen=True, slots=True)
class Transactions(Decidable):
    """Accepted payments as columns of n rows, in log order. `accepted` are int64[n] positions in the batch."""

    accepted: NDArray[np.int64]
    transaction_ids: list[str]
    card_ids: list[str]
    terminal_ids: list[str]
    event_times: NDArray[np.int64]
    amounts: NDArray[np.float64]
    failed_at: list[str]
    rejected: list[Rejection]

    def identities(self) -> list[str]:
        """Return the identity of each payment, unique under its card."""
        return self._identities(self.transaction_ids)

    def kafka_keys(self) -> list[str]:
        """Return the card of each payment, its Kafka key."""
        return self.card_ids


@dataclass(frozen=True, slots=True)
class Clicks(Decidable):
    """Accepted clicks as columns of n rows, in log order. `accepted` are int64[n] positions in the batch."""

    accepted: NDArray[np.int64]
    event_ids: list[str]
    session_ids: list[str]
    item_ids: list[str]
    event_times: NDArray[np.int64]
    failed_at: list[str]
    rejected: list[Rejection]

    def identities(self) -> list[str]:
        """Return the identity of each click, unique under its session."""
        return self._identities(self.event_ids)

    def kafka_keys(self) -> list[str]:
        """Return the session of each click, its Kafka key."""
        return self.session_ids


@dataclass(frozen=True, slots=True)
class Labels(Columns):
    """Accepted labels as columns of n rows, in log order. `accepted` are int64[n] positions in the batch."""

    accepted: NDArray[np.int64]
    transaction_ids: list[str]
    terminal_ids: list[str]
    event_times: NDArray[np.int64]
    is_fraud: NDArray[np.bool_]
    rejected: list[Rejection]
