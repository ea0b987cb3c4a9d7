"""Why a value was refused: a code that programs read, and a sentence that people read."""

import json
import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from streams.contract.events import EVENT_TIME_MS_MIN, LISTED
from streams.contract.json_scan import NESTING_MAX

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


def first_bad_byte(value: bytes) -> str | None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"0x{value[error.start]:02x} at {error.start}"
    return None


def diagnose(value: bytes, error: Exception) -> tuple[str, str]:
    """Return the code and the sentence for a value that a decoder refused with `error`."""
    bad_byte = first_bad_byte(value)
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
            return "absurd-time", f"{_sentence(value, phrase)}; send milliseconds since 1970, from 2000 on"
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


def absurd_time(event_time_ms: int, stamp_ms: int, ahead_ms: int) -> str:
    """Return the sentence for an event time outside its bounds.

    Args:
        event_time_ms: of the event, since the epoch.
        stamp_ms: the record's timestamp, since the epoch.
        ahead_ms: how far behind it an event may lie in the future.
    """
    got = f"got {moment(event_time_ms)}"
    if event_time_ms < EVENT_TIME_MS_MIN:
        return f"event_time: expected {moment(EVENT_TIME_MS_MIN)} or later, {got}; the unit is milliseconds"
    if stamp_ms + ahead_ms < EVENT_TIME_MS_MIN:
        return (
            f"expected a record with a timestamp after {moment(EVENT_TIME_MS_MIN)}, got {moment(stamp_ms)}; "
            "have the producer set it, in milliseconds"
        )
    return (
        f"event_time: expected at most event_time_ahead_s_max={ahead_ms / 1000:g} s after the record's timestamp, "
        f"{moment(stamp_ms)}, {got}; give the record the time of its event, or raise the setting"
    )


def moment(ms: int) -> str:
    """Return milliseconds since the epoch as a date and the number; as the number alone beyond the calendar."""
    try:
        date = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return f"{date:%Y-%m-%dT%H:%M:%S}Z ({ms} ms)"


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
