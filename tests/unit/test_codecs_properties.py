"""Properties of decoding that must hold for any bytes."""

import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from streams.contract.columns import Limits
from streams.contract.decoding import decode_clicks, decode_labels, decode_transactions
from streams.contract.diagnosis import REJECTION_CODES
from streams.contract.json_scan import CLEAN, NESTING_MAX, SUSPECT, has_duplicate_key, scan_keys

NOW_MS = 1_712_345_678_901
LIMITS = Limits(record_bytes_max=4_096)
PAYMENT = {
    "transaction_id": "tx-1",
    "event_time": NOW_MS,
    "card_id": "card-42",
    "terminal_id": "terminal-7",
    "amount": 57.16,
}
CLICK = {
    "event_id": "click-1",
    "event_time": NOW_MS,
    "session_id": "session-9",
    "item_id": "item-3",
    "event_type": "view",
}
LABEL = {key: PAYMENT[key] for key in PAYMENT if key != "amount"} | {"is_fraud": True}
GOOD = json.dumps(PAYMENT).encode()

json_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(PAYMENT["event_time"]) | st.just("7")
)
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
payments = st.fixed_dictionaries({}, optional=dict.fromkeys([*PAYMENT, "currency", "note"], json_values)).map(
    lambda fields: json.dumps({**PAYMENT, **fields}).encode()
)


@st.composite
def damaged_payments(draw: st.DrawFn) -> bytes:
    """A valid record with one run of its bytes replaced."""
    start = draw(st.integers(0, len(GOOD)))
    end = draw(st.integers(start, len(GOOD)))
    return GOOD[:start] + draw(st.binary(max_size=8)) + GOOD[end:]


values = st.none() | st.binary(max_size=80) | payments | damaged_payments() | st.just(b"[" * 3_000)


@pytest.mark.parametrize("decode", [decode_transactions, decode_clicks, decode_labels])
@given(batch=st.lists(values, max_size=12), now_ms=st.integers(0, 2**62))
@settings(max_examples=300, deadline=None)
def test_decoding_any_bytes_accounts_for_every_position(decode: Any, batch: list[bytes | None], now_ms: int) -> None:
    """Nothing raises; each position is accepted or rejected, once; each rejection has a listed code and a sentence."""
    decoded = decode(batch, now_ms=now_ms, limits=LIMITS)
    accepted = decoded.accepted.tolist()
    rejected = [rejection.position for rejection in decoded.rejected]
    assert accepted == sorted(accepted)
    assert rejected == sorted(rejected)
    assert sorted(accepted + rejected) == list(range(len(batch)))
    assert all(rejection.code in REJECTION_CODES and rejection.message for rejection in decoded.rejected)
    assert decoded.event_times.shape == decoded.accepted.shape
    for name in ("transaction_ids", "card_ids", "event_ids", "session_ids"):
        column = getattr(decoded, name, [""] * len(accepted))
        assert len(column) == len(accepted)
        assert all(type(identifier) is str for identifier in column)


@given(
    before=st.lists(values, max_size=6),
    after=st.lists(values, max_size=6),
    amount=st.floats(0, 1e12),
    card_id=st.text(min_size=1, max_size=128).filter(lambda text: text.isprintable()),
    note=st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.integers(), max_size=3), max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_good_record_is_accepted_whatever_its_neighbours(
    before: list[bytes | None], after: list[bytes | None], amount: float, card_id: str, note: dict[str, Any]
) -> None:
    """A valid payment is decoded exactly, amid any bytes."""
    good = json.dumps(PAYMENT | {"amount": amount, "card_id": card_id, "note": note}).encode()
    decoded = decode_transactions([*before, good, *after], now_ms=NOW_MS, limits=Limits(record_bytes_max=65_536))
    row = decoded.accepted.tolist().index(len(before))
    assert (decoded.card_ids[row], decoded.amounts[row], decoded.event_times[row]) == (card_id, amount, NOW_MS)


@given(batch=st.lists(values, max_size=12), cut=st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_a_batch_decodes_as_its_parts(batch: list[bytes | None], cut: int) -> None:
    """Where a batch is cut changes no row and no rejection."""
    whole = decode_transactions(batch, now_ms=NOW_MS, limits=LIMITS)
    parts = [decode_transactions(part, now_ms=NOW_MS, limits=LIMITS) for part in (batch[:cut], batch[cut:])]
    assert whole.card_ids == parts[0].card_ids + parts[1].card_ids
    assert whole.amounts.tolist() == parts[0].amounts.tolist() + parts[1].amounts.tolist()
    assert [(r.code, r.message) for r in whole.rejected] == [(r.code, r.message) for p in parts for r in p.rejected]


# Fields that no decoder reads, with all that it must step over: escapes, repeats, nesting, text that is not ASCII.
UNREAD = (
    b"",
    b', "note": "caf\xc3\xa9 \xf0\x9f\x98\x80", "n\xc3\xb6te": 1',
    b', "x": 1, "x": "y"',
    b', "\\u0078": 1, "y": "z"',
    b', "\\u0061mount": 1, "\\"": "\\\\"',
    b', "a": {"b": [1, -2.5e3, {"b": null, "\\n": "s"}], "b": "\\ud83d\\ude00"}, "list": ["", true, [[]]]',
)
# Each byte here opens, ends or spoils something in JSON or UTF-8.
RAW = b'"\\{}[],:0-.eEtu\n\x00\x1f\x80\xa9\xc3\xed\xf0\xff'


@st.composite
def mutated(draw: st.DrawFn, record: dict[str, Any]) -> bytes:
    """A valid record with unread fields, up to four of its bytes flipped, inserted, deleted, or spans spliced."""
    plain = json.dumps(record).encode()[:-1]
    value = bytearray(plain + draw(st.sampled_from(UNREAD)) + draw(st.sampled_from(UNREAD)) + b"}")
    raw = st.sampled_from(RAW) | st.integers(0, 255)
    for _ in range(draw(st.integers(0, 4))):
        # Half of them behind the fields that are read, where a decoder looks least.
        place = draw(st.integers(0, len(value) - 1) | st.integers(min(len(plain), len(value) - 1), len(value) - 1))
        kind = draw(st.sampled_from(["flip", "insert", "delete", "splice"]))
        if kind == "flip":
            value[place] = draw(raw)
        elif kind == "insert":
            value.insert(place, draw(raw))
        elif kind == "delete" and len(value) > 1:
            del value[place]
        elif kind == "splice":
            begin = draw(st.integers(0, len(value)))
            value[place:place] = draw(st.sampled_from(UNREAD)) or value[begin : begin + draw(st.integers(0, 40))]
    return bytes(value)


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("decode", "record", "ids"),
    [
        (decode_transactions, PAYMENT, "transaction_ids"),
        (decode_clicks, CLICK, "event_ids"),
        (decode_labels, LABEL, "transaction_ids"),
    ],
    ids=["payment", "click", "label"],
)
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_records_are_accepted_or_rejected_and_harm_no_neighbour(
    decode: Any, record: dict[str, Any], ids: str, data: st.DataObject
) -> None:
    """Nothing raises for damaged bytes; good neighbours pass; a value that is not UTF-8, in any field, is not-utf8."""
    damaged = data.draw(st.lists(mutated(record), min_size=1, max_size=4))
    good = json.dumps(record | {ids.removesuffix("s"): "good"}).encode()
    batch = [good, *(value for each in damaged for value in (each, good))]
    decoded = decode(batch, now_ms=NOW_MS, limits=LIMITS)
    rows = decoded.accepted.tolist()
    codes = {rejection.position: rejection.code for rejection in decoded.rejected}
    assert sorted([*rows, *codes]) == list(range(len(batch)))
    for position in range(0, len(batch), 2):
        assert getattr(decoded, ids)[rows.index(position)] == "good"
    for position in range(1, len(batch), 2):
        assert codes.get(position, "missing-field") in REJECTION_CODES
        assert (codes.get(position) == "not-utf8") == (not is_utf8(batch[position]))


class Repeated(Exception):
    """The oracle met a key twice."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Repeated
    return dict(pairs)


def oracle(value: bytes) -> bool:
    try:
        json.loads(value, object_pairs_hook=unique)
    except Repeated:
        return True
    return False


# Few and short keys, so that many repeat; spelt plainly or with escapes.
key_texts = st.sampled_from(["a", "b", "ab", "", "é", "a\\b", 'a"b', "aaaaaaaaa", "baaaaaaaa"]) | st.text(max_size=3)


def spelt(text: str, escaped: bool) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"' if escaped and text.isascii() else json.dumps(text)


@st.composite
def json_texts(draw: st.DrawFn, depth: int = 0) -> str:
    """JSON with repeated keys, odd spacing, and texts that look like keys."""
    kind = draw(st.sampled_from(["scalar", "text", "array", "object", "object"] if depth < 4 else ["scalar", "text"]))
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    if kind == "scalar":
        return draw(st.sampled_from(["1", "-2.5e3", "true", "null"]))
    if kind == "text":
        return json.dumps(draw(key_texts | st.sampled_from(['":', '{"a":1,"a":2}', "\\", ","])))
    parts = draw(st.lists(json_texts(depth + 1), max_size=4))
    if kind == "array":
        return "[" + f"{space},{space}".join(parts) + space + "]"
    keys = [spelt(draw(key_texts), draw(st.booleans())) for _ in parts]
    pairs = (f"{key}{space}:{space}{part}" for key, part in zip(keys, parts, strict=True))
    return "{" + space + f"{space},{space}".join(pairs) + "}"


def scan(texts: list[bytes]) -> list[bool]:
    ends = np.cumsum([len(text) for text in texts])
    flags = scan_keys(np.frombuffer(b"".join(texts), np.uint8), ends)
    return [flag != CLEAN and has_duplicate_key(text) for flag, text in zip(flags.tolist(), texts, strict=True)]


@given(texts=st.lists(json_texts().map(str.encode), min_size=1, max_size=6))
@example(texts=[b'{"a":1,"b":{"a":1},"a":2}', b'{"a":[{"a":1},{"a":1}]}', b'{"a":"x","b":"a","c":["a","a"]}'])
@settings(max_examples=300, deadline=None)
def test_repeated_keys_are_found_as_by_pythons_own_reader(texts: list[bytes]) -> None:
    """The scan and json's object_pairs_hook agree on every text, wherever it lies in a batch."""
    assert scan(texts) == [oracle(text) for text in texts]


@pytest.mark.parametrize("keys", [1, 10, 127, 128, 129, 2_000])
def test_repeat_is_found_however_many_keys_an_object_has(keys: int) -> None:
    """The bounded scan hands large objects to the exact check and misses nothing."""
    pairs = [f'"key {number}":{number}' for number in range(keys)]
    unique_text = ("{" + ",".join(pairs) + "}").encode()
    repeated_text = ("{" + ",".join([*pairs, pairs[-1]]) + "}").encode()
    assert scan([unique_text, repeated_text, unique_text]) == [False, True, False]


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"b":{"a":1,"b":2},"c":[{"a":1},{"a":2}]}',
        b'{"a":{"b":{},"a":1}}',
        b'{"a":{"b":1},"c":{"b":1},"b":2}',
        b'{"a":["a","a","a",["b","b","b"]],"b":"a"}',
    ],
)
def test_keys_of_other_objects_and_texts_raise_no_suspicion(text: bytes) -> None:
    """Equal keys of different objects, and equal texts, never cost the exact check."""
    assert scan_keys(np.frombuffer(text, np.uint8), np.array([len(text)])).tolist() == [CLEAN]


def test_equal_hashes_of_different_keys_are_no_repeat() -> None:
    """A suspicion of the scan is checked: keys whose digests collide pass, and a real repeat of one does not."""
    # The digest is a polynomial in 257 modulo 2**64, and (257 - 1)**8 is 2**64: these differ by (x - 1)**8.
    first, second = ")(D(n(D()", "(0(`(`(0("
    digests = [sum(ord(char) * 257**place for place, char in enumerate(key)) % 2**64 for key in (first, second)]
    assert digests[0] == digests[1]
    text = json.dumps({first: 1, second: 2}).encode()
    assert scan_keys(np.frombuffer(text, np.uint8), np.array([len(text)])).tolist() == [SUSPECT]
    assert scan([text, text[:-1] + b', "' + first.encode() + b'": 3}']) == [False, True]


@pytest.mark.parametrize("depth", [1, NESTING_MAX - 1, NESTING_MAX, NESTING_MAX + 1, 900])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_nesting_is_bounded_at_the_same_depth_for_objects_and_arrays(depth: int, brackets: str) -> None:
    """NESTING_MAX levels pass, one more does not, the record itself being the first level."""
    inner = "[" * depth + "]" * depth if brackets == "[]" else '{"a":' * depth + "1" + "}" * depth
    value = GOOD[:-1] + b', "note": ' + inner.encode() + b"}"
    decoded = decode_transactions([value], now_ms=NOW_MS, limits=Limits())
    expected = [] if depth < NESTING_MAX else ["too-deep"]
    assert [rejection.code for rejection in decoded.rejected] == expected
