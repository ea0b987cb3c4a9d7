"""Decode whole batches of input events into columns, and set aside what is not valid.

A batch of good records runs through C and numba only. The first bad record turns its batch to one `decode` per record,
so that the others are still decided; a rejected record costs microseconds, never an exception to the caller.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Generic, Self, TypeVar, cast

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from streams.contract.events import (
    EVENT_TIME_MS_MIN,
    FAILED_AT,
    LETTER_KEY_BYTES_MAX,
    LETTER_MESSAGE_CHARS_MAX,
    LETTER_VALUE_BYTES_MAX,
    LISTED,
    Click,
    Headers,
    Transaction,
    TransactionLabel,
)
from streams.contract.json_scan import CLEAN, NESTING_MAX, TOO_DEEP, has_duplicate_key, scan_keys

REJECTION_CODES: Final[dict[str, str]] = {
    "null-value": "the record has no value",
    "empty": "the value has no bytes, or white space only",
    "too-large": "the value is longer than record_bytes_max",
    "not-utf8": "the value is not UTF-8 text",
    "truncated": "the JSON text ends too early",
    "not-json": "the value is not JSON, or a text in it has half a surrogate pair",
    "not-finite": "NaN, Infinity, or a number beyond 64 bits",
    "too-deep": f"objects or arrays nested deeper than {NESTING_MAX}",
    "duplicate-key": "an object has the same key twice",
    "not-an-object": "the JSON value is not an object",
    "missing-field": "a required field is absent",
    "wrong-type": "a field has another JSON type",
    "out-of-range": "a number is outside its range",
    "bad-length": "a text is empty or too long",
    "bad-time": "event_time is text but not RFC 3339 with an offset",
    "absurd-time": "event_time is before 2000 or too far in the future",
    "unknown-value": "a text is not one of the listed values",
    "model-failed": "the model raises for this record, or scores no finite number",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_HALF_A_PAIR: Final = re.compile("[\ud800-\udfff]")  # of a whole pair, json makes one character
_SHOWN_CHARS_MAX = 64  # of an offending value in a message: the dead letter has all of it

# What msgspec says, to a code, first match wins. The contract tests pin each to the installed msgspec.
_CODE_BY_PHRASE: Final = (
    ("Object missing required field", "missing-field"),
    ("Expected `object`, got", "not-an-object"),
    ("Invalid enum value", "unknown-value"),
    ("Invalid RFC3339", "bad-time"),
    ("with a timezone component", "bad-time"),
    ("Number out of range", "not-finite"),
    (" of length ", "bad-length"),
    (", got `", "wrong-type"),
    (" >= ", "out-of-range"),
    (" <= ", "out-of-range"),
    ("", "wrong-type"),
)

Event = TypeVar("Event", Transaction, Click, TransactionLabel)


Now = int | Sequence[int]


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

    Its id is remembered since its first attempt, whatever the model said then: state that is restored from the log must
    not depend on the model. So the attempts are told apart by the place of the one that failed.
    """

    __slots__ = ()
    failed_at: list[str]

    def again(self) -> NDArray[np.bool_]:
        """Return bool[n]: which records repeat one for which the model failed."""
        return np.array(list(map(bool, self.failed_at)), np.bool_)

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


@dataclass(frozen=True, slots=True)
class Labels(Columns):
    """Accepted labels as columns of n rows, in log order. `accepted` are int64[n] positions in the batch."""

    accepted: NDArray[np.int64]
    transaction_ids: list[str]
    terminal_ids: list[str]
    event_times: NDArray[np.int64]
    is_fraud: NDArray[np.bool_]
    rejected: list[Rejection]


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
    """Decode the values of a batch of `transactions`; never raises for what they hold.

    Args:
        values: B record values; None is a record without one.
        now_ms: milliseconds since the epoch, that event times are held against: one for all, or one a record (its
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
    """Return for each accepted record the place of the one that it repeats because the model failed for it, else ""."""
    if not any(headers):
        return [""] * len(accepted)
    places = (dict(headers[position] or ()).get(FAILED_AT) or b"" for position in accepted.tolist())
    return [place.decode(errors="replace") for place in places]


def encode_dead_letter(
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    stage: str,
    code: str,
    message: str,
) -> bytes:
    """Return the JSON value of a dead letter: origin, reason and the original bytes (see events.DeadLetter).

    With its Kafka key, cut alike to LETTER_KEY_BYTES_MAX, it takes less than 1,000,000 bytes whatever the record was.
    """
    message = message[:LETTER_MESSAGE_CHARS_MAX]
    letter: dict[str, Any] = {"topic": topic, "partition": partition, "offset": offset, "key": None}
    if key is not None:
        head = key[:LETTER_KEY_BYTES_MAX]
        try:
            letter["key"] = head.decode()
        except UnicodeDecodeError:
            letter["key_base64"] = base64.b64encode(head).decode()
        if len(key) > len(head):
            letter |= {"key_bytes": len(key), "key_sha256": sha256(key).hexdigest()}
            message += f"; the letter has {len(head)} of {len(key)} bytes of the key"
    letter["value_base64"] = None
    if value is not None:
        head = value[:LETTER_VALUE_BYTES_MAX]
        letter["value_base64"] = base64.b64encode(head).decode()
        if len(value) > len(head):
            letter |= {"value_bytes": len(value), "value_sha256": sha256(value).hexdigest()}
            message += f"; the letter has {len(head)} of {len(value)} bytes of the value"
    letter |= {"stage": stage, "code": code, "message": message}
    return orjson.dumps(letter)


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
    latest_ms = np.broadcast_to(np.asarray(now_ms, np.int64), len(values))[accepted] + limits.event_time_ahead_ms_max
    absurd = np.flatnonzero((event_times > latest_ms) | (event_times < EVENT_TIME_MS_MIN))
    if absurd.size:
        refusals = {
            row: Rejection(
                int(accepted[row]),
                "absurd-time",
                f"expected event_time from {EVENT_TIME_MS_MIN} to {latest_ms[row]} ms, got {event_times[row]}",
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
            rejected.append(Rejection(position, *_diagnose(value, error)))
        else:
            accepted.append(position)
    return events, np.array(accepted, np.int64), rejected


def _without(
    events: list[Event], accepted: NDArray[np.int64], refusals: dict[int, Rejection]
) -> tuple[list[Event], NDArray[np.int64]]:
    return [event for row, event in enumerate(events) if row not in refusals], np.delete(accepted, list(refusals))


def _doubtful(values: Sequence[bytes | None]) -> dict[int, tuple[str, str]]:
    """Return row -> (code, sentence) of decoded values that decoders let pass: unread bytes, depth, repeated keys."""
    if not values:
        return {}
    text = b"".join(values)  # type: ignore[arg-type]
    found: dict[int, tuple[str, str]] = {}
    # msgspec skips unknown fields without looking for UTF-8. Decoded values begin and end with ASCII: no sequence of
    # bytes joins two of them, and one look at all tells whether any is at fault.
    if not text.isascii() and _first_bad_byte(text) is not None:
        for row, value in enumerate(values):
            bad_byte = _first_bad_byte(value or b"")
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


def _first_bad_byte(value: bytes) -> str | None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"0x{value[error.start]:02x} at {error.start}"
    return None


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


def _diagnose(value: bytes, error: Exception) -> tuple[str, str]:
    """Return the code and the sentence for a value that a decoder refused with `error`."""
    bad_byte = _first_bad_byte(value)
    if bad_byte is not None:
        return "not-utf8", f"expected UTF-8 text, got byte {bad_byte}"
    if not value.strip():
        return (
            "empty",
            f"expected a JSON object, got {f'white space only, {len(value)} bytes' if value else 'no bytes'}",
        )
    if isinstance(error, RecursionError):
        return "too-deep", f"expected at most {NESTING_MAX} levels of nesting, got more"
    phrase = str(error)
    if isinstance(error, msgspec.ValidationError):
        code = next(code for part, code in _CODE_BY_PHRASE if part in phrase)
        if code == "out-of-range" and "$.event_time" in phrase:
            code = "absurd-time"
        return code, _sentence(value, phrase)
    lenient = _read_leniently(value)
    if lenient is not None:
        text, constants = lenient
        if constants:
            return "not-finite", f"expected finite numbers, got {constants[0]}"
        # Of half a pair msgspec says one of four things, "truncated" among them; other decoders accept it.
        half = _HALF_A_PAIR.search(text)
        if half is not None:
            return (
                "not-json",
                f"expected text that UTF-8 can hold, got half a surrogate pair, \\u{ord(half[0]):04x} alone",
            )
    elif "truncated" in phrase:
        return "truncated", f"expected a complete JSON object, got the first {len(value)} bytes of one"
    return "not-json", f"expected JSON, got {_shown(value)}: {phrase}"


def _sentence(value: bytes, phrase: str) -> str:
    """Return msgspec's phrase with the offending value where it names none."""
    expected, _, path = phrase.partition(" - at `$")
    field = path.rstrip("`").removeprefix(".")
    if field in LISTED and expected.startswith("Invalid enum value "):
        got = _shortened(expected.removeprefix("Invalid enum value "))
        return f"{field}: expected {', '.join(LISTED[field])}, got {got}"
    sentence = f"{field}: {expected[:1].lower()}{expected[1:]}" if field else f"{expected[:1].lower()}{expected[1:]}"
    if ", got " in sentence or not field:
        return sentence
    try:
        document = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):  # broken after the field at fault: the phrase alone must do
        return sentence
    return f"{sentence}, got {_shortened(repr(document.get(field)))}"


def _shown(value: bytes) -> str:
    return _shortened(value[: 4 * _SHOWN_CHARS_MAX].decode(errors="replace"))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def _read_leniently(value: bytes) -> tuple[str, list[str]] | None:
    """Return what is JSON but for NaN, Infinity and half surrogate pairs: as text without escapes, and each constant.

    None where it is not even that.
    """
    constants: list[str] = []
    try:
        document = json.loads(value, parse_constant=constants.append, parse_int=str, parse_float=str)
        return json.dumps(document, ensure_ascii=False), constants
    except (ValueError, RecursionError):
        return None
