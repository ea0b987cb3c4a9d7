"""Endless simulated events as slices of a topic's fields."""

from __future__ import annotations

from collections.abc import Iterator

from models.simulator.blocks import START_MS
from models.simulator.clicks import ClickSimulator
from models.simulator.payments import PaymentSimulator
from streams.replaying.event_files import Slice

BLOCK_RECORDS = 8_192

__all__ = ("START_MS", "clicks", "payments")


def payments(seed: int, *, limit: int | None = None) -> Iterator[Slice]:
    """Yield payments with their labels, ascending in event time; `limit` in all, without an end if None."""
    simulator = PaymentSimulator(seed)
    for count in _blocks(limit):
        block = simulator.next(count)
        yield Slice(
            {
                "transaction_id": block["transaction_id"],
                "event_time": block["event_time"].tolist(),
                "card_id": block["card_id"],
                "terminal_id": block["terminal_id"],
                "amount": block["amount"].tolist(),
            },
            block["event_time"],
            block["is_fraud"].tolist(),
        )


def clicks(seed: int, *, limit: int | None = None) -> Iterator[Slice]:
    """Yield clicks, ascending in event time; `limit` in all, without an end if None."""
    simulator = ClickSimulator(seed)
    for count in _blocks(limit):
        block = simulator.next(count)
        yield Slice(
            {
                "event_id": block["event_id"],
                "event_time": block["event_time"].tolist(),
                "session_id": block["session_id"],
                "item_id": block["item_id"],
                "event_type": block["event_type"],
            },
            block["event_time"],
        )


def _blocks(limit: int | None) -> Iterator[int]:
    left = limit
    while left is None or left > 0:
        count = BLOCK_RECORDS if left is None else min(left, BLOCK_RECORDS)
        yield count
        left = None if left is None else left - count
