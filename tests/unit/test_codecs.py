"""Decoding of input events: what passes, what is set aside, and under which code."""

import base64
import hashlib
import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from faust.types import TP
from jsonschema import Draft202012Validator

from streams.contract.columns import Limits
from streams.contract.decoding import decode_clicks, decode_labels, decode_transactions
from streams.contract.diagnosis import REJECTION_CODES, moment
from streams.contract.documents import EXAMPLES, json_schema
from streams.contract.events import FAILED_AT, LETTER_KEY_BYTES_MAX, LETTER_VALUE_BYTES_MAX, DeadLetter, Headers
from streams.contract.letters import encode_dead_letter
from streams.contract.topics import DEAD_LETTERS, Topics
from streams.engine.publishing import Publisher
from streams.transport.outputs.producer import OutputProducer
from streams.transport.record_batch import RecordBatch

NOW_MS = 1_712_345_678_901
LIMITS = Limits()
RECORD_OVERHEAD_BYTES = 512  # of a batch of one record: lengths, timestamps, checksums, producer's id
PAYMENT: dict[str, Any] = {
    "transaction_id": "tx-1",
    "event_time": NOW_MS - 5_000,
    "card_id": "card-42",
    "terminal_id": "terminal-7",
    "amount": 57.16,
}
CLICK: dict[str, Any] = {
    "event_id": "click-1",
    "event_time": NOW_MS,
    "session_id": "session-9",
    "item_id": "item-3",
    "event_type": "view",
}
LABEL: dict[str, Any] = {key: PAYMENT[key] for key in PAYMENT if key != "amount"} | {"is_fraud": True}
GOOD = json.dumps(PAYMENT).encode()


def payment(**changes: Any) -> bytes:
    return json.dumps(PAYMENT | changes).encode()


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in PAYMENT.items() if name != key}).encode()


def with_raw(name: str, raw: bytes) -> bytes:
    return GOOD[:-1] + b', "' + name.encode() + b'": ' + raw + b"}"


def with_amount(raw: bytes) -> bytes:
    return GOOD.replace(b"57.16", raw)


BAD: dict[str, tuple[bytes | None, str, str]] = {
    "no value": (None, "null-value", "without a value"),
    "no bytes": (b"", "empty", "got no bytes"),
    "white space": (b" \n\t ", "empty", "got white space only, 4 bytes"),
    "over the cap": (with_raw("note", b'"' + b"x" * 65_536 + b'"'), "too-large", "record_bytes_max=65536"),
    "bad UTF-8 in an id": (GOOD.replace(b"card-42", b"card\xff42"), "not-utf8", "0xff"),
    "bad UTF-8 in an unknown field": (with_raw("note", b'"\xc3("'), "not-utf8", "0xc3"),
    "bad UTF-8 in an unknown key": (GOOD[:-1] + b', "\xff": 1}', "not-utf8", "0xff"),
    "bad UTF-8 behind an escaped key": (GOOD[:-1] + b', "\\u0041": 1, "note": "\xff"}', "not-utf8", "0xff"),
    "bad UTF-8 behind a repeated key": (GOOD[:-1] + b', "x": 1, "x": "\xff"}', "not-utf8", "0xff"),
    "bad UTF-8 and too deep": (with_raw("note", b"[" * 33 + b'"\xff"' + b"]" * 33), "not-utf8", "0xff"),
    "half a character beside its other half": (GOOD[:-1] + b', "note": "\xc3", "\xa9": 1}', "not-utf8", "0xc3"),
    "surrogate as UTF-8": (with_raw("note", b'"\xed\xa0\x80"'), "not-utf8", "0xed"),
    "UTF-16": (json.dumps(PAYMENT).encode("utf-16"), "not-utf8", "0xff"),
    "cut in a string": (GOOD[:20], "truncated", "first 20 bytes"),
    "cut before the brace": (GOOD[:-1], "truncated", "complete"),
    "no JSON": (b"hello", "not-json", "hello"),
    "binary": (b"\x00\x00\x00\x00\x07Htx-1", "not-json", "malformed"),
    "two documents": (GOOD + GOOD, "not-json", "trailing"),
    "single quotes": (GOOD.replace(b'"', b"'"), "not-json", "malformed"),
    "trailing comma": (GOOD[:-1] + b",}", "not-json", "trailing comma"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "not-json", "malformed"),
    "half a surrogate pair at the end": (with_raw("note", b'"\\ud800"'), "not-json", "surrogate pair, \\ud800 alone"),
    "half a surrogate pair": (b'{"note":"\\ud83d",' + GOOD[1:], "not-json", "surrogate pair, \\ud83d alone"),
    "half a surrogate pair in a key": (GOOD[:-1] + b', "\\uDC00xxxxxxxxxxxx": 1}', "not-json", "pair, \\udc00 alone"),
    "half a surrogate pair in an id": (GOOD.replace(b"card-42", b"\\udc00"), "not-json", "pair, \\udc00 alone"),
    "half a surrogate pair, cut": (GOOD[:-1] + b', "note":"\\ud800', "truncated", "complete"),
    "NaN": (payment(amount=float("nan")), "not-finite", "NaN"),
    "Infinity": (payment(amount=float("inf")), "not-finite", "Infinity"),
    "minus Infinity": (payment(amount=float("-inf")), "not-finite", "Infinity"),
    "overflow": (with_amount(b"1e400"), "not-finite", "amount"),
    "integer of 5,000 digits": (with_amount(b"9" * 5000), "not-finite", "amount"),
    "nested 33 deep": (with_raw("note", b"[" * 32 + b"]" * 32), "too-deep", "32"),
    "nested 5,000 deep": (with_raw("note", b"[" * 5000 + b"]" * 5000), "too-deep", "32"),
    "nested without an end": (b'{"a":' * 5000, "too-deep", "32"),
    "same key twice": (with_raw("amount", b"1.0"), "duplicate-key", "twice"),
    "same key twice, one escaped": (with_raw("\\u0061mount", b"1.0"), "duplicate-key", "twice"),
    "same unknown key twice, nested": (with_raw("note", b'{"a": {"b": 1, "c": 2, "b": 3}}'), "duplicate-key", "twice"),
    "an array": (b"[" + GOOD + b"]", "not-an-object", "array"),
    "JSON null": (b"null", "not-an-object", "null"),
    "a JSON text": (b'"tx-1"', "not-an-object", "str"),
    "field absent": (without("card_id"), "missing-field", "card_id"),
    "amount as text": (payment(amount="57.16"), "wrong-type", "amount"),
    "amount as a bool": (payment(amount=True), "wrong-type", "amount"),
    "id null": (payment(card_id=None), "wrong-type", "card_id"),
    "id an object": (payment(terminal_id={"id": 7}), "wrong-type", "terminal_id"),
    "id a float": (payment(terminal_id=7.5), "wrong-type", "terminal_id"),
    "event_time a float": (payment(event_time=1.5), "wrong-type", "event_time"),
    "optional field of another type": (payment(currency=978), "wrong-type", "currency"),
    "negative amount": (payment(amount=-1.5), "out-of-range", "got -1.5"),
    "absurd amount": (payment(amount=1e13), "out-of-range", "amount"),
    "integer id beyond 64 bits": (payment(card_id=2**63), "out-of-range", "card_id"),
    "empty id": (payment(card_id=""), "bad-length", "card_id"),
    "id of 129 characters": (payment(card_id="x" * 129), "bad-length", "128"),
    "currency of 4 letters": (payment(currency="EURO"), "bad-length", "currency"),
    "time without offset": (payment(event_time="2024-04-05T19:34:38"), "bad-time", "timezone"),
    "time as a date": (payment(event_time="2024-04-05"), "bad-time", "event_time"),
    "time as words": (payment(event_time="yesterday"), "bad-time", "got 'yesterday'"),
    "time in seconds": (payment(event_time=NOW_MS // 1000), "absurd-time", "event_time"),
    "time in microseconds": (payment(event_time=NOW_MS * 1000), "absurd-time", "event_time"),
    "time of 30 digits": (payment(event_time=10**30), "absurd-time", "event_time"),
    "time a second past the horizon": (payment(event_time=NOW_MS + 86_401_000), "absurd-time", "event_time"),
    "text time before 2000": (payment(event_time="1999-12-31T23:59:59Z"), "absurd-time", "event_time"),
    "text time in year 1": (payment(event_time="0001-01-01T00:00:00+10:00"), "absurd-time", "event_time"),
}


@pytest.mark.parametrize(("value", "code", "word"), BAD.values(), ids=BAD)
def test_bad_record_is_set_aside_under_its_code(value: bytes | None, code: str, word: str) -> None:
    """A bad record gets its own code and a sentence that names what came; its neighbours are accepted."""
    batch = decode_transactions([GOOD, value, GOOD], now_ms=NOW_MS, limits=LIMITS)
    assert batch.accepted.tolist() == [0, 2]
    (rejection,) = batch.rejected
    assert (rejection.position, rejection.code) == (1, code)
    assert word in rejection.message
    assert len(rejection.message) < 400


def test_every_code_of_a_payment_is_met_by_a_kind_of_bad_record() -> None:
    """No code is listed that nothing produces; unknown-value needs an enum, model-failed a model."""
    assert {code for _, code, _ in BAD.values()} == REJECTION_CODES.keys() - {"unknown-value", "model-failed"}


def test_batch_of_all_bad_kinds_keeps_every_position_once_and_in_order() -> None:
    """Accepted and rejected positions are disjoint, complete and rising, with good records between the bad."""
    values: list[bytes | None] = []
    for value, _, _ in BAD.values():
        values += [value, GOOD]
    batch = decode_transactions(values, now_ms=NOW_MS, limits=LIMITS)
    assert batch.accepted.tolist() == list(range(1, len(values), 2))
    assert [rejection.position for rejection in batch.rejected] == list(range(0, len(values), 2))
    assert [rejection.code for rejection in batch.rejected] == [code for _, code, _ in BAD.values()]


def test_columns_hold_the_accepted_payments_in_log_order() -> None:
    """Each column row belongs to the position in `accepted`."""
    values = [payment(transaction_id="a", amount=1), None, payment(transaction_id="b", amount=2.5, card_id="c")]
    batch = decode_transactions(values, now_ms=NOW_MS, limits=LIMITS)
    assert batch.transaction_ids == ["a", "b"]
    assert batch.card_ids == ["card-42", "c"]
    assert batch.terminal_ids == ["terminal-7"] * 2
    assert batch.amounts.tolist() == [1.0, 2.5]
    assert batch.amounts.dtype == "float64"
    assert batch.event_times.tolist() == [NOW_MS - 5_000] * 2
    assert batch.event_times.dtype == "int64"


def test_records_sent_again_because_the_model_failed_are_told_apart_by_the_place_of_the_failed_one() -> None:
    """Of accepted records alone, beside others' headers; clients say "no headers" in two ways."""
    headers: list[Headers] = [
        None,
        [(FAILED_AT, b"transactions[1]@7")],
        [],
        [("replayed-from", b"dead-letters[0]@2")],
        [("replayed-from", b"dead-letters[0]@3"), (FAILED_AT, b"transactions[1]@8")],
        [(FAILED_AT, None)],
    ]
    values = [GOOD, GOOD, None, GOOD, GOOD, GOOD]
    batch = decode_transactions(values, now_ms=NOW_MS, limits=LIMITS, headers=headers)
    assert batch.failed_at == ["", "transactions[1]@7", "", "transactions[1]@8", ""]
    assert batch.is_retry().tolist() == [False, True, False, True, False]
    plain = batch.transaction_ids[0]
    assert [identity == plain for identity in batch.identities()] == [True, False, True, False, True]
    assert len(set(batch.identities())) == 3
    bare = decode_transactions(values, now_ms=NOW_MS, limits=LIMITS)
    assert bare.identities() == bare.transaction_ids and not bare.is_retry().any()


def test_empty_batch_decodes_to_empty_columns() -> None:
    """A batch without records is no error."""
    batch = decode_transactions([], now_ms=NOW_MS, limits=LIMITS)
    assert (batch.accepted.size, batch.card_ids, batch.amounts.size, batch.rejected) == (0, [], 0, [])


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2024-04-05T19:34:38.901Z", NOW_MS),
        ("2024-04-05T21:34:38.901+02:00", NOW_MS),
        ("2024-04-05t19:34:38.901999z", NOW_MS),
        ("2000-01-01T00:00:00Z", 946_684_800_000),
    ],
)
def test_rfc_3339_time_becomes_milliseconds_beside_integer_times(text: str, expected_ms: int) -> None:
    """Text times with any offset are read exactly, rounded down, also in a batch of integer times."""
    batch = decode_transactions([GOOD, payment(event_time=text)], now_ms=NOW_MS, limits=LIMITS)
    assert batch.event_times.tolist() == [NOW_MS - 5_000, expected_ms]


def test_integer_id_is_read_as_its_decimal_text() -> None:
    """7 and "7" name the same card, in any mix of a batch."""
    values = [payment(card_id=7), payment(card_id="7"), payment(card_id=-3)]
    assert decode_transactions(values, now_ms=NOW_MS, limits=LIMITS).card_ids == ["7", "7", "-3"]


@pytest.mark.parametrize(
    "value",
    [
        payment(card_id="x" * 128, terminal_id="\u00e9\U0001f600", amount=0),
        payment(currency="EUR", user_id=12, channel="web", merchant_id="m", country="NL"),
        payment(currency=None, user_id=None),
        payment(event_time=NOW_MS + 86_400_000),
        payment(note={"any": [1, {"thing": None}]}, amounts=[1, 2]),
        with_raw("note", b"[" * 31 + b"]" * 31),
        with_raw("note", b'{"a": 1, "b": {"a": 1}, "c": [{"a": 1}, {"a": 2}]}'),
        with_raw("note", b'"\\ud83d\\ude00"'),
        with_raw("note", b'"a \\"amount\\": 1, \\\\"'),
        with_raw("note", json.dumps({f"field {number}": number for number in range(500)}).encode()),
        with_amount(b"5.716e1"),
        b"  \n" + GOOD + b"\r\n",
    ],
)
def test_unusual_but_valid_record_is_accepted(value: bytes) -> None:
    """Unknown fields, odd spacing, non-ASCII ids, limits met exactly: none of these is a fault."""
    batch = decode_transactions([value], now_ms=NOW_MS, limits=LIMITS)
    assert (batch.accepted.tolist(), batch.rejected) == ([0], [])


def test_clicks_decode_to_columns_and_refuse_an_unknown_event_type() -> None:
    """event_type is one of view, cart, purchase."""
    values = [json.dumps(CLICK | {"event_type": kind}).encode() for kind in ("view", "hover", "purchase")]
    batch = decode_clicks(values, now_ms=NOW_MS, limits=LIMITS)
    assert batch.accepted.tolist() == [0, 2]
    assert (batch.event_ids, batch.session_ids) == (["click-1"] * 2, ["session-9"] * 2)
    assert batch.item_ids == ["item-3"] * 2
    (rejection,) = batch.rejected
    assert (rejection.position, rejection.code) == (1, "unknown-value")
    assert rejection.message.startswith("event_type: expected view, cart, purchase, got ")
    assert "'hover'" in rejection.message


def test_labels_decode_to_columns_and_refuse_a_number_for_is_fraud() -> None:
    """is_fraud is a JSON bool, nothing else."""
    values = [json.dumps(LABEL | {"is_fraud": value}).encode() for value in (True, 1, False)]
    batch = decode_labels(values, now_ms=NOW_MS, limits=LIMITS)
    assert batch.is_fraud.tolist() == [True, False]
    assert batch.is_fraud.dtype == "bool"
    assert batch.transaction_ids == ["tx-1"] * 2
    assert [(rejection.position, rejection.code) for rejection in batch.rejected] == [(1, "wrong-type")]


def test_limits_are_the_callers() -> None:
    """Size and time bounds move with the settings."""
    values = [GOOD, payment(event_time=NOW_MS + 1), payment(note="x" * 200)]
    batch = decode_transactions(values, now_ms=NOW_MS, limits=Limits(record_bytes_max=200, event_time_ahead_ms_max=0))
    assert [(rejection.position, rejection.code) for rejection in batch.rejected] == [
        (1, "absurd-time"),
        (2, "too-large"),
    ]


def test_event_times_are_held_each_against_its_own_records_time() -> None:
    """With one `now_ms` a record, a replay of the log accepts what the first reading accepted, and nothing else."""
    values = [None, payment(event_time=NOW_MS), payment(event_time=NOW_MS), payment(event_time=NOW_MS)]
    limits = Limits(event_time_ahead_ms_max=1_000)
    now_ms = [0, NOW_MS - 1_001, NOW_MS - 1_000, NOW_MS + 10**9]
    batch = decode_transactions(values, now_ms=now_ms, limits=limits)
    assert batch.accepted.tolist() == [2, 3]
    assert [rejection.code for rejection in batch.rejected] == ["null-value", "absurd-time"]
    assert f"1 s after the record's timestamp, {moment(NOW_MS - 1_001)}" in batch.rejected[1].message


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("event_time", "stamp", "message"),
    [
        (
            1_700_000_000_000,
            1_700_000_000_000 - 3 * DAY_MS,
            "event_time: expected at most event_time_ahead_s_max=86400 s after the record's timestamp, "
            "2023-11-11T22:13:20Z (1699740800000 ms), got 2023-11-14T22:13:20Z (1700000000000 ms); "
            "give the record the time of its event, or raise the setting",
        ),
        (
            1_700_000_000,
            1_700_000_000_000,
            "event_time: expected `int` >= 946684800000, got 1700000000; send milliseconds since 1970, from 2000 on",
        ),
        (
            1_700_000_000_000,
            1_700_000_000,
            "expected a record with a timestamp after 2000-01-01T00:00:00Z (946684800000 ms), "
            "got 1970-01-20T16:13:20Z (1700000000 ms); have the producer set it, in milliseconds",
        ),
        (1_700_000_000_000_000, 1_700_000_000_000, "got 1700000000000000; send milliseconds since 1970"),
        ("1999-12-31T23:59:59Z", 1_700_000_000_000, "got 1999-12-31T23:59:59Z (946684799000 ms); the unit"),
        (200_000_000_000_000, 1_700_000_000_000, "got 8307-10-01T19:33:20Z (200000000000000 ms); give"),
    ],
    ids=[
        "backfill stamped too early",
        "event in seconds",
        "record in seconds",
        "event in microseconds",
        "text",
        "a far year",
    ],
)
def test_a_refused_time_is_told_as_a_date_with_the_rule_and_the_remedy(
    event_time: int | str, stamp: int, message: str
) -> None:
    """The time at fault is named: the event's, or the record's."""
    (rejection,) = decode_transactions([payment(event_time=event_time)], now_ms=stamp, limits=LIMITS).rejected
    assert rejection.code == "absurd-time"
    assert message in rejection.message


@pytest.mark.parametrize("value", [b"\x00\xff not text", b"", None])
def test_dead_letter_carries_origin_reason_and_the_original_bytes(value: bytes | None) -> None:
    """A dead letter is enough to find, judge and replay the record."""
    letter = msgspec.json.decode(
        encode_dead_letter(
            topic="transactions",
            partition=3,
            offset=48_213,
            key=b"card-42",
            value=value,
            stage="decode",
            code="not-utf8",
            message="expected UTF-8 text, got byte 0xff at 1",
        ),
        type=DeadLetter,
        strict=True,
    )
    assert (letter.topic, letter.partition, letter.offset, letter.key) == ("transactions", 3, 48_213, "card-42")
    assert (letter.stage, letter.code) == ("decode", "not-utf8")
    assert (None if letter.value_base64 is None else base64.b64decode(letter.value_base64)) == value


@pytest.mark.parametrize(("key", "text", "key_base64"), [(b"\xff", None, "/w=="), (None, None, None), (b"", "", None)])
def test_dead_letter_keeps_a_key_that_is_not_text(key: bytes | None, text: str | None, key_base64: str | None) -> None:
    """A key that is not UTF-8 travels as base64, so that a replay can restore it."""
    encoded = encode_dead_letter(
        topic="t", partition=0, offset=0, key=key, value=b"", stage="decode", code="empty", message="m"
    )
    letter = msgspec.json.decode(encoded, type=DeadLetter)
    assert (letter.key, letter.key_base64) == (text, key_base64)


def letter_of(key: bytes | None, value: bytes | None, message: str = "m") -> tuple[bytes, DeadLetter]:
    encoded = encode_dead_letter(
        topic="t" * 249, partition=2**31 - 1, offset=2**63 - 1, key=key, value=value, stage="decode", code="not-an-object",
        message=message,
    )  # fmt: skip
    return encoded, msgspec.json.decode(encoded, type=DeadLetter)


@pytest.mark.parametrize("key", [b"\x01" * 400_000, b"\xff" * 900_000, b'"' * 5_000, "\u20ac".encode() * 5_000, None])
@pytest.mark.parametrize("value", [b"\xff" * 16_777_216, b"\x01" * (LETTER_VALUE_BYTES_MAX + 1), None])
def test_dead_letter_fits_a_topic_as_brokers_make_them(key: bytes | None, value: bytes | None) -> None:
    """For any record, the letter and its Kafka key take less than 1,000,000 bytes, and the schema describes it."""
    encoded, _ = letter_of(key, value, "\x01" * 20_000)
    assert len(encoded) + LETTER_KEY_BYTES_MAX + RECORD_OVERHEAD_BYTES < 1_000_000
    Draft202012Validator(json_schema(DEAD_LETTERS)).validate(json.loads(encoded))


def test_dead_letter_of_a_long_record_has_its_first_bytes_length_and_digest() -> None:
    """What is cut is told in fields and in the sentence, and the whole can be recognised elsewhere."""
    key, value = b"k" * (LETTER_KEY_BYTES_MAX + 1), bytes(range(256)) * 4_096
    _, letter = letter_of(key, value)
    assert letter.key == "k" * LETTER_KEY_BYTES_MAX
    assert (letter.key_bytes, letter.key_sha256) == (len(key), hashlib.sha256(key).hexdigest())
    assert base64.b64decode(letter.value_base64 or "") == value[:LETTER_VALUE_BYTES_MAX]
    assert (letter.value_bytes, letter.value_sha256) == (len(value), hashlib.sha256(value).hexdigest())
    assert letter.is_cut
    assert (
        letter.message
        == "m; the letter has 4096 of 4097 bytes of the key; the letter has 655360 of 1048576 bytes of the value"
    )


def test_key_that_a_cut_splits_inside_a_character_is_base64() -> None:
    """The bytes that are there are exact, also where they are no longer text."""
    key = "\u20ac".encode() * LETTER_KEY_BYTES_MAX
    _, letter = letter_of(key, None)
    assert letter.key is None
    assert base64.b64decode(letter.key_base64 or "") == key[:LETTER_KEY_BYTES_MAX]


def test_dead_letter_at_the_limits_is_whole() -> None:
    """A key and a value that just fit carry no fields of a cut."""
    encoded, letter = letter_of(b"k" * LETTER_KEY_BYTES_MAX, b"v" * LETTER_VALUE_BYTES_MAX)
    assert not letter.is_cut
    assert json.loads(encoded).keys() == EXAMPLES["dead-letters"][0].keys()
    assert letter.message == "m"


def test_publisher_cuts_the_kafka_key_as_the_letter_does() -> None:
    """The key travels beside the letter: a long one would count again, whole."""
    publisher = Publisher(
        cast(OutputProducer, SimpleNamespace(partition_counts=lambda names: dict.fromkeys(names, 1))), Topics()
    )
    keys = [None, b"", b"card-42", b"\xff" * 900_000]
    batch = RecordBatch(TP("transactions", 0), 0, 4, [0, 1, 2, 3], keys, [None] * 4, [NOW_MS] * 4, [()] * 4, 1, 0.0)
    rejected = decode_transactions(batch.values, now_ms=NOW_MS, limits=LIMITS).rejected
    assert publisher.dead_letters(batch, rejected).keys == [
        None,
        b"",
        b"card-42",
        b"\xff" * LETTER_KEY_BYTES_MAX,
    ]
