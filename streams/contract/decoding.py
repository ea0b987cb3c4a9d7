"""Decode whole batches of input events into columns, and set aside what is not valid.

A batch of good records runs through C and numba only. The first bad record turns its batch to one `decode` per record,
so that the others are still decided; a rejected record costs microseconds, never an exception to the caller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.contract.columns import Clicks, Labels, Limits, Rejection, Transactions
from streams.contract.diagnosis import absurd_time, diagnose, first_bad_byte
from streams.contract.events import (
    EVENT_TIME_MS_MIN,
    FAILED_AT,
    Click,
    Headers,
    Transaction,
    TransactionLabel,
)
from streams.contract.json_scan import CLEAN, NESTING_MAX, TOO_DEEP, has_duplicate_key, scan_keys

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Event = TypeVar("Event", Transaction, Click, TransactionLabel)


Now = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class _Batch(Generic[Event]):
    accepted: NDArray[np.int64]
    events: list[Event]
    event_times: NDArray[np.int64]
    rejected: list[Rejection]


_decode_transaction: Final = msgspec.json.Decoder(Transaction).decode
_decode_click: Final = msgspec.json.Decoder(Click).decode
_decode_label: Final = msgspec.json.Decoder(TransactionLabel).decode


def decode_transactions(
    values: Sequence[bytes | None], *, now_ms: Now, limits: Limits, headers: Sequence[Headers] = ()
) -> Transactions:
    """Decode the values of a batch of `transactions`; reject invalid ones, and raise for none.

    Args:
        values: B record values; None is a record without one.
        now_ms: milliseconds since the epoch, the bound of event times: one for all, or one a record (its
            Kafka timestamp, so that a record read again meets the same bound).
        limits: size and time bounds.
        headers: B records' headers; empty where none has any.

    Returns:
        n <= B rows; every position is either in `accepted` or in `rejected`, each in rising order.
    """
    batch = _decode(values, _decode_transaction, now_ms, limits)
    events = batch.events
    return Transactions(
        accepted=batch.accepted,
        transaction_ids=_texts([event.transaction_id for event in events]),
        card_ids=_texts([event.card_id for event in events]),
        terminal_ids=_texts([event.terminal_id for event in events]),
        event_times=batch.event_times,
        amounts=np.fromiter([event.amount for event in events], np.float64, len(events)),
        failed_at=_failed_at(headers, batch.accepted),
        rejected=batch.rejected,
    )


def decode_clicks(
    values: Sequence[bytes | None], *, now_ms: Now, limits: Limits, headers: Sequence[Headers] = ()
) -> Clicks:
    """Decode the values of a batch of `clickstream`, as `decode_transactions` does."""
    batch = _decode(values, _decode_click, now_ms, limits)
    events = batch.events
    return Clicks(
        accepted=batch.accepted,
        event_ids=_texts([event.event_id for event in events]),
        session_ids=_texts([event.session_id for event in events]),
        item_ids=_texts([event.item_id for event in events]),
        event_times=batch.event_times,
        failed_at=_failed_at(headers, batch.accepted),
        rejected=batch.rejected,
    )


def decode_labels(values: Sequence[bytes | None], *, now_ms: Now, limits: Limits) -> Labels:
    """Decode the values of a batch of `transaction-labels`, as `decode_transactions` does."""
    batch = _decode(values, _decode_label, now_ms, limits)
    events = batch.events
    return Labels(
        accepted=batch.accepted,
        transaction_ids=_texts([event.transaction_id for event in events]),
        terminal_ids=_texts([event.terminal_id for event in events]),
        event_times=batch.event_times,
        is_fraud=np.fromiter([event.is_fraud for event in events], np.bool_, len(events)),
        rejected=batch.rejected,
    )


def _failed_at(headers: Sequence[Headers], accepted: NDArray[np.int64]) -> list[str]:
    """Return for each accepted record the place in its header `FAILED_AT`, "" without the header."""
    if not any(headers):
        return [""] * len(accepted)
    places = (dict(headers[position] or ()).get(FAILED_AT) or b"" for position in accepted.tolist())
    return [place.decode(errors="replace") for place in places]


def _decode(
    values: Sequence[bytes | None], decode: Callable[[bytes], Event], now_ms: Now, limits: Limits
) -> _Batch[Event]:
    events = _decode_all(values, decode, limits)
    accepted = np.arange(len(values), dtype=np.int64)
    rejected: list[Rejection] = []
    if events is None:
        events, accepted, rejected = _decode_each(values, decode, limits)
    doubtful = _doubtful([values[position] for position in accepted.tolist()] if rejected else values)
    if doubtful:
        refusals = {row: Rejection(int(accepted[row]), *reason) for row, reason in doubtful.items()}
        events, accepted = _without(events, accepted, refusals)
        rejected += refusals.values()
    event_times = _event_times(events)
    stamps = np.broadcast_to(np.asarray(now_ms, np.int64), len(values))[accepted]
    latest_ms = stamps + limits.event_time_ahead_ms_max
    absurd = np.flatnonzero((event_times > latest_ms) | (event_times < EVENT_TIME_MS_MIN))
    if absurd.size:
        refusals = {
            row: Rejection(
                int(accepted[row]),
                "absurd-time",
                absurd_time(int(event_times[row]), int(stamps[row]), limits.event_time_ahead_ms_max),
            )
            for row in absurd.tolist()
        }
        events, accepted = _without(events, accepted, refusals)
        event_times = np.delete(event_times, absurd)
        rejected += refusals.values()
    rejected.sort(key=lambda rejection: rejection.position)
    return _Batch(accepted, events, event_times, rejected)


def _decode_all(values: Sequence[bytes | None], decode: Callable[[bytes], Event], limits: Limits) -> list[Event] | None:
    """Return the events of a batch without a bad record, else None."""
    try:
        # Sizes first: a value over the cap must not cost its parsing.
        if max(map(len, values), default=0) > limits.record_bytes_max:  # type: ignore[arg-type]
            return None
        return list(map(decode, values))  # type: ignore[arg-type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):  # TypeError: a None among the values
        return None


def _decode_each(
    values: Sequence[bytes | None], decode: Callable[[bytes], Event], limits: Limits
) -> tuple[list[Event], NDArray[np.int64], list[Rejection]]:
    events: list[Event] = []
    accepted: list[int] = []
    rejected: list[Rejection] = []
    for position, value in enumerate(values):
        if value is None:
            rejected.append(Rejection(position, "null-value", "expected a JSON object, got a record without a value"))
            continue
        if len(value) > limits.record_bytes_max:
            reason = f"expected at most record_bytes_max={limits.record_bytes_max} bytes, got {len(value)}"
            rejected.append(Rejection(position, "too-large", reason))
            continue
        try:
            events.append(decode(value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            rejected.append(Rejection(position, *diagnose(value, error)))
        else:
            accepted.append(position)
    return events, np.array(accepted, np.int64), rejected


def _without(
    events: list[Event], accepted: NDArray[np.int64], refusals: dict[int, Rejection]
) -> tuple[list[Event], NDArray[np.int64]]:
    return [event for row, event in enumerate(events) if row not in refusals], np.delete(accepted, list(refusals))


def _doubtful(values: Sequence[bytes | None]) -> dict[int, tuple[str, str]]:
    """Return row -> (code, sentence) of the faults that decoders let pass: unread bytes, depth, repeated keys."""
    if not values:
        return {}
    text = b"".join(values)  # type: ignore[arg-type]
    found: dict[int, tuple[str, str]] = {}
    # msgspec skips unknown fields without looking for UTF-8. Decoded values begin and end with ASCII: no sequence of
    # bytes joins two of them, and one look at all tells whether any is at fault.
    if not text.isascii() and first_bad_byte(text) is not None:
        for row, value in enumerate(values):
            bad_byte = first_bad_byte(value or b"")
            if bad_byte is not None:
                found[row] = "not-utf8", f"expected UTF-8 text, got byte {bad_byte}"
    ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))  # type: ignore[arg-type]
    flags = scan_keys(np.frombuffer(text, np.uint8), ends)
    for row in np.flatnonzero(flags != CLEAN).tolist():
        if row in found:
            continue
        if flags[row] == TOO_DEEP:
            found[row] = "too-deep", f"expected at most {NESTING_MAX} levels of nesting, got more"
        elif has_duplicate_key(values[row] or b""):
            found[row] = "duplicate-key", "expected each key once in an object, got one twice"
    return found


def _event_times(events: list[Event]) -> NDArray[np.int64]:
    times = [event.event_time for event in events]
    try:
        return np.fromiter(times, np.int64, len(times))
    except TypeError:  # some are RFC 3339 text, which msgspec has made a datetime
        milliseconds = [time if isinstance(time, int) else (time - _EPOCH) // _MILLISECOND for time in times]
        return np.array(milliseconds, np.int64)


def _texts(ids: list[str | int]) -> list[str]:
    try:
        "".join(texts := cast("list[str]", ids))  # the cheapest test that all are text: 17 ns an id
    except TypeError:
        return [str(identifier) for identifier in ids]
    return texts
