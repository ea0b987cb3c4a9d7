"""Simulated events as JSON records, and the ways in which real ones go wrong."""

from __future__ import annotations

from typing import Any

import orjson

from models.simulator.clicks import ClickSimulator
from models.simulator.payments import PaymentSimulator


def payments(count: int, seed: int = 3, cards: int = 400) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return payments in time order, and their labels."""
    columns = PaymentSimulator(seed, cards=cards, terminals=200).next(count)
    fields = ("transaction_id", "event_time", "card_id", "terminal_id", "amount", "is_fraud")
    rows = zip(*(list(columns[f]) for f in fields), strict=True)  # type: ignore[literal-required]
    records = [
        dict(transaction_id=t, event_time=int(e), card_id=c, terminal_id=m, amount=float(a), is_fraud=bool(f))
        for t, e, c, m, a, f in rows
    ]
    labels = [{key: value for key, value in record.items() if key != "amount"} for record in records]
    return [{key: value for key, value in record.items() if key != "is_fraud"} for record in records], labels


def clicks(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Return clicks in time order."""
    columns = ClickSimulator(seed).next(count)
    fields = ("event_id", "event_time", "session_id", "item_id", "event_type")
    rows = zip(*(list(columns[f]) for f in fields), strict=True)  # type: ignore[literal-required]
    return [dict(event_id=i, event_time=int(e), session_id=s, item_id=m, event_type=k) for i, e, s, m, k in rows]


def _payment(**changes: Any) -> bytes:
    record = {
        "transaction_id": "bad",
        "event_time": 1_704_100_000_000,
        "card_id": "c1",
        "terminal_id": "t1",
        "amount": 1.5,
    }
    return orjson.dumps({key: value for key, value in (record | changes).items() if value is not ...})


# Kind of damage -> value of a `transactions` record.
BAD_PAYMENTS: dict[str, bytes | None] = {
    "null": None,
    "empty": b"",
    "bad UTF-8": b'{"transaction_id":"\xff\xfe","event_time":1704100000000,"card_id":"c1","terminal_id":"t1","amount":1}',
    "truncated": _payment()[:40],
    "not an object": b"[1,2,3]",
    "NaN": _payment(amount=...)[:-1] + b',"amount":NaN}',
    "overflow": _payment(amount=...)[:-1] + b',"amount":1e999}',
    "wrong type": _payment(amount="12.00"),
    "missing field": _payment(terminal_id=...),
    "negative amount": _payment(amount=-1.5),
    "huge": _payment(note="x" * 100_000),
    "deep nesting": _payment(note=...)[:-1] + b',"note":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "duplicate key": _payment()[:-1] + b',"amount":2}',
    "absurd time, past": _payment(event_time=-5),
    "absurd time, future": _payment(event_time=9_999_999_999_999),
    "empty id": _payment(card_id=""),
}
