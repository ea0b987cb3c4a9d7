"""Columns of decoded events: what a batch of records comes to, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a record that settings may move."""

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
    """Rows that a model answers. One for which it failed may come again (`FAILED_AT`), to be answered after all.

    Its id is remembered since its first attempt, with or without an answer of the model: state that is restored from the log must
    not depend on the model. So the attempts are told apart by the place of the one that failed.
    """

    __slots__ = ()
    failed_at: list[str]

    def is_retry(self) -> NDArray[np.bool_]:
        """Return bool[n]: which records repeat one for which the model failed."""
        return np.array(list(map(bool, self.failed_at)), np.bool_)

    def kafka_keys(self) -> list[str]:
        """Return the Kafka key of each row: whose history it belongs to."""
        raise NotImplementedError

    def identities(self) -> list[str]:
        """Return what tells a key's records apart."""
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
        """Return what tells a card's payments apart."""
        return self._identities(self.transaction_ids)

    def kafka_keys(self) -> list[str]:
        """Return the Kafka key of each payment: whose history it belongs to."""
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
        """Return what tells a session's clicks apart."""
        return self._identities(self.event_ids)

    def kafka_keys(self) -> list[str]:
        """Return the Kafka key of each click: whose history it belongs to."""
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
