"""A seeded world of cards, terminals, shoppers and a catalogue, in event-time order and without an end.

Everything is drawn a block of event time at once (a day of payments, an hour of clicks), each block from a generator of
its own, so that a seed fixes the stream for requests of any size: `next(a)` then `next(b)` is
`next(a + b)`. The fraud patterns follow the simulator of the Fraud Detection Handbook (Le Borgne et al., 2022) and add
bursts.
"""

from __future__ import annotations

from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from models.simulator.blocks import (
    DAY_MS,
    PAYMENT_DAY,
    PAYMENT_WORLD,
    START_MS,
    Block,
    Float64,
    Int64,
    join,
    named,
    split,
)

PATTERNS: Final = ("genuine", "compromised-terminal", "stolen-card", "card-testing", "big-amount", "night-burst")
GENUINE, COMPROMISED_TERMINAL, STOLEN_CARD, CARD_TESTING, BIG_AMOUNT, NIGHT_BURST = range(len(PATTERNS))

# Rates are per terminal or card and day; together they make about 1 % of the payments fraudulent, as in the Handbook.
TERMINAL_COMPROMISES_PER_DAY: Final = 0.0005
TERMINAL_COMPROMISE_DAYS: Final = (10, 25)
TERMINAL_COMPROMISE_SHARE: Final = 0.5  # the other half of the payments there stays genuine
CARD_THEFTS_PER_DAY: Final = 0.0006
CARD_THEFT_DAYS: Final = (7, 14)
CARD_THEFT_SHARE: Final = 0.35
CARD_TESTS_PER_DAY: Final = 0.0002
NIGHT_BURSTS_PER_DAY: Final = 0.00025
BIG_AMOUNT_SHARE: Final = 0.0012
ONLINE_TERMINALS_SHARE: Final = 0.02
ONLINE_PAYMENTS_SHARE: Final = 0.12
TRAVEL_SHARE: Final = 0.02


class Payments(TypedDict):
    """Columns of payments, ordered by event_time; `pattern` explains the label and is never a feature."""

    transaction_id: list[str]
    event_time: Int64
    card_id: list[str]
    terminal_id: list[str]
    amount: Float64
    is_fraud: NDArray[np.bool_]
    pattern: list[str]


def simulate_payments(
    count: int, seed: int = 7, *, cards: int = 4_000, terminals: int = 2_000, start_ms: int = START_MS
) -> Payments:
    """Return the first `count` payments of a population.

    Args:
        count: Payments wanted, >= 0. The default population makes about 6,000 a day.
        seed: Fixes the population and every payment.
        cards: Cards in use; the pace of event time is inverse to it.
        terminals: Terminals, >= 50.
        start_ms: Event time of the first day's start, milliseconds since the epoch.

    Returns:
        Columns of length `count`, ordered by event_time (int64, ms); amount float64 with two decimals.

    Source:
        Patterns 1-3 of the Fraud Detection Handbook, chapter 3 (Le Borgne et al., 2022).
    """
    return PaymentSimulator(seed, cards=cards, terminals=terminals, start_ms=start_ms).next(count)


class PaymentSimulator:
    """Endless payments of one population: `next` goes on in event time where the last call ended."""

    def __init__(self, seed: int = 7, *, cards: int = 4_000, terminals: int = 2_000, start_ms: int = START_MS) -> None:
        if cards < 1 or terminals < 50:
            raise ValueError(f"population: expected cards >= 1 and terminals >= 50, got {cards} and {terminals}")
        self.seed = seed
        self.start_ms = start_ms
        self._cards = cards
        self._terminals = terminals
        self._day = 0
        self._emitted = 0
        self._card_names = named("card", cards)
        self._terminal_names = named("terminal", terminals)

        rng = np.random.default_rng((seed, PAYMENT_WORLD))
        self._payments_per_day = np.clip(rng.gamma(2.0, 0.75, cards), 0.1, 6.0)
        self._amount_mean = rng.uniform(5.0, 100.0, cards)
        night_owl = rng.random(cards) < 0.08
        self._hour_mean = np.where(night_owl, rng.normal(22.5, 1.0, cards), rng.normal(13.0, 1.5, cards))
        # Terminals lie along a ring; a card pays near its home, so that cards share their neighbourhood's terminals.
        self._online = max(1, int(terminals * ONLINE_TERMINALS_SHARE))
        self._home = rng.integers(0, terminals - self._online, cards)
        self._compromised_until = self._running(rng, terminals, TERMINAL_COMPROMISES_PER_DAY, TERMINAL_COMPROMISE_DAYS)
        self._compromised_until[: self._online] = -1
        self._stolen_until = self._running(rng, cards, CARD_THEFTS_PER_DAY, CARD_THEFT_DAYS)
        self._ready = self._simulate_nothing()

    def next(self, count: int) -> Payments:
        """Return the next `count` payments as columns, ordered by event_time."""
        blocks = [self._ready]
        ready = len(self._ready["event_time"])
        while ready < count:
            blocks.append(self._simulate_day())
            ready += len(blocks[-1]["event_time"])
        columns, self._ready = split(join(blocks), count)
        first, self._emitted = self._emitted, self._emitted + count
        pattern = columns["pattern"][:count]
        return Payments(
            transaction_id=[f"tx-{self.seed}-{i:09d}" for i in range(first, self._emitted)],
            event_time=columns["event_time"][:count].copy(),
            card_id=self._card_names[columns["card"][:count]].tolist(),
            terminal_id=self._terminal_names[columns["terminal"][:count]].tolist(),
            amount=columns["amount"][:count].copy(),
            is_fraud=pattern != GENUINE,
            pattern=np.array(PATTERNS, dtype=object)[pattern].tolist(),
        )

    @staticmethod
    def _running(rng: np.random.Generator, size: int, per_day: float, days: tuple[int, int]) -> Int64:
        """Return the last day of what runs at the start (-1: nothing), so that the first day is like any other."""
        lasting = rng.integers(days[0], days[1] + 1, size)
        elapsed = np.floor(rng.random(size) / per_day).astype(np.int64)
        return np.where(elapsed < lasting, lasting - elapsed - 1, -1)

    @staticmethod
    def _simulate_nothing() -> Block:
        return {
            "event_time": np.empty(0, np.int64),
            "card": np.empty(0, np.int64),
            "terminal": np.empty(0, np.int64),
            "amount": np.empty(0, np.float64),
            "pattern": np.empty(0, np.int8),
        }

    def _simulate_day(self) -> Block:
        day, self._day = self._day, self._day + 1
        rng = np.random.default_rng((self.seed, PAYMENT_DAY, day))
        self._start_incidents(rng, day)
        card, second, terminal, amount = self._genuine(rng, day)
        pattern = np.zeros(len(card), np.int8)

        stolen = (self._stolen_until[card] >= day) & (rng.random(len(card)) < CARD_THEFT_SHARE)
        amount[stolen] *= 5.0
        pattern[stolen] = STOLEN_CARD
        big = (rng.random(len(card)) < BIG_AMOUNT_SHARE) & ~stolen
        amount[big] = rng.uniform(220.0, 900.0, int(big.sum()))
        terminal[big] = rng.integers(0, self._terminals, int(big.sum()))
        pattern[big] = BIG_AMOUNT
        compromised = self._compromised_until[terminal] >= day
        compromised &= (rng.random(len(card)) < TERMINAL_COMPROMISE_SHARE) & (pattern == GENUINE)
        amount[compromised] *= rng.uniform(1.0, 2.0, int(compromised.sum()))
        pattern[compromised] = COMPROMISED_TERMINAL

        tests = self._card_tests(rng)
        bursts = self._night_bursts(rng)
        card = np.concatenate([card, tests[0], bursts[0]])
        second = np.concatenate([second, tests[1], bursts[1]])
        terminal = np.concatenate([terminal, tests[2], bursts[2]])
        amount = np.concatenate([amount, tests[3], bursts[3]])
        pattern = np.concatenate(
            [pattern, np.full(len(tests[0]), CARD_TESTING, np.int8), np.full(len(bursts[0]), NIGHT_BURST, np.int8)]
        )
        event_time = self.start_ms + day * DAY_MS + np.minimum((second * 1000.0).astype(np.int64), DAY_MS - 1)
        order = np.argsort(event_time, kind="stable")
        return {
            "event_time": event_time[order],
            "card": card[order],
            "terminal": terminal[order],
            "amount": np.maximum(np.round(amount[order], 2), 0.5),
            "pattern": pattern[order],
        }

    def _start_incidents(self, rng: np.random.Generator, day: int) -> None:
        struck = self._online + np.flatnonzero(
            rng.random(self._terminals - self._online) < TERMINAL_COMPROMISES_PER_DAY
        )
        low, high = TERMINAL_COMPROMISE_DAYS
        self._compromised_until[struck] = day + rng.integers(low, high + 1, len(struck)) - 1
        struck = np.flatnonzero(rng.random(self._cards) < CARD_THEFTS_PER_DAY)
        low, high = CARD_THEFT_DAYS
        self._stolen_until[struck] = day + rng.integers(low, high + 1, len(struck)) - 1

    def _genuine(self, rng: np.random.Generator, day: int) -> tuple[Int64, Float64, Int64, Float64]:
        weekend = 0.85 if day % 7 >= 5 else 1.0
        spree = rng.random(self._cards) < 0.005  # many payments in a day alone are no fraud
        payments = rng.poisson(self._payments_per_day * weekend * np.where(spree, 4.0, 1.0))
        card = np.repeat(np.arange(self._cards), payments)
        size = len(card)
        hour = (self._hour_mean[card] + rng.normal(0.0, 4.0, size)) % 24.0
        amount = self._amount_mean[card] * rng.gamma(4.0, 0.25, size)
        costly = rng.random(size) < 0.006  # nor is a large one
        amount[costly] *= rng.uniform(2.5, 6.0, int(costly.sum()))
        local = self._terminals - self._online
        near = (self._home[card] + np.rint(rng.laplace(0.0, 6.0, size)).astype(np.int64)) % local
        away = rng.random(size) < TRAVEL_SHARE
        near[away] = rng.integers(0, local, int(away.sum()))
        online = rng.random(size) < ONLINE_PAYMENTS_SHARE
        terminal = near + self._online
        terminal[online] = self._online_terminals(rng, int(online.sum()))
        return card, hour * 3600.0, terminal, amount

    def _online_terminals(self, rng: np.random.Generator, size: int) -> Int64:
        return (self._online * rng.random(size) ** 2).astype(np.int64)

    def _card_tests(self, rng: np.random.Generator) -> tuple[Int64, Float64, Int64, Float64]:
        """Return small payments in quick succession: a thief tests whether a card number works."""
        struck = np.flatnonzero(rng.random(self._cards) < CARD_TESTS_PER_DAY)
        payments = rng.integers(6, 20, len(struck))
        start = np.repeat(rng.uniform(0.0, 86_400.0 - 1_500.0, len(struck)), payments)
        lasts = np.repeat(rng.uniform(180.0, 1_500.0, len(struck)), payments)
        card = np.repeat(struck, payments)
        second = start + lasts * rng.random(len(card))
        return card, second, self._online_terminals(rng, len(card)), rng.uniform(0.5, 3.0, len(card))

    def _night_bursts(self, rng: np.random.Generator) -> tuple[Int64, Float64, Int64, Float64]:
        """Return payments that empty a stolen card between one and six at night, at any terminal."""
        struck = np.flatnonzero(rng.random(self._cards) < NIGHT_BURSTS_PER_DAY)
        payments = rng.integers(3, 9, len(struck))
        start = np.repeat(rng.uniform(3_600.0, 16_200.0, len(struck)), payments)
        card = np.repeat(struck, payments)
        second = start + 5_400.0 * rng.random(len(card))
        terminal = rng.integers(0, self._terminals, len(card))
        return card, second, terminal, self._amount_mean[card] * rng.uniform(1.2, 4.0, len(card))
