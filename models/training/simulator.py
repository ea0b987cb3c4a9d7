"""A seeded world of cards, terminals, shoppers and a catalogue, in event-time order and without an end.

Everything is drawn a block of event time at once (a day of payments, an hour of clicks), each block from a generator of
its own, so that a seed fixes the stream whatever the sizes in which it is asked for: `next(a)` then `next(b)` is
`next(a + b)`. The fraud patterns follow the simulator of the Fraud Detection Handbook (Le Borgne et al., 2022) and add
bursts.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Block = dict[str, NDArray[Any]]  # columns of one length

START_MS: Final = 1_704_067_200_000  # 2024-01-01T00:00:00Z, a Monday: weekdays are day % 7 from here
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

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

HABITS: Final = ("follower", "roamer", "comparer", "bouncer")
EVENT_TYPES: Final = ("view", "cart", "purchase")
SUCCESSORS_PER_ITEM: Final = 8
ITEMS_PER_CATEGORY: Final = 50
SESSION_CLICKS_MAX: Final = 40
ITEM_LAUNCHES_PER_DAY: Final = 1  # a catalogue is never closed: a launched item is one that no model has seen

# Tells the generators of payments, clicks and catalogue apart under one seed.
_PAYMENT_WORLD, _PAYMENT_DAY, _CLICK_HOUR, _CATALOGUE = range(4)


class Payments(TypedDict):
    """Columns of payments, ordered by event_time; `pattern` explains the label and is never a feature."""

    transaction_id: list[str]
    event_time: Int64
    card_id: list[str]
    terminal_id: list[str]
    amount: Float64
    is_fraud: NDArray[np.bool_]
    pattern: list[str]


class Clicks(TypedDict):
    """Columns of clicks, ordered by event_time."""

    event_id: list[str]
    event_time: Int64
    session_id: list[str]
    item_id: list[str]
    event_type: list[str]


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


def simulate_clicks(
    count: int, seed: int = 7, *, items: int = 2_000, sessions_per_day: int = 24_000, start_ms: int = START_MS
) -> Clicks:
    """Return the first `count` clicks on a catalogue.

    Args:
        count: Clicks wanted, >= 0; a session has about 6.
        seed: Fixes the shoppers. The catalogue depends on `items` alone, so that a model trained on one
            seed's shoppers serves another's.
        items: Items on sale at once, >= 100.
        sessions_per_day: Sessions that start in a day of event time.
        start_ms: Event time of the first hour's start, milliseconds since the epoch.

    Returns:
        Columns of length `count`, ordered by event_time (int64, ms).
    """
    return ClickSimulator(seed, items=items, sessions_per_day=sessions_per_day, start_ms=start_ms).next(count)


def _names(prefix: str, count: int) -> NDArray[np.object_]:
    return np.array([f"{prefix}-{i:06d}" for i in range(count)], dtype=object)


def _join(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _split(block: Block, count: int) -> tuple[Block, Block]:
    head = {name: column[:count] for name, column in block.items()}
    return head, {name: column[count:] for name, column in block.items()}


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
        self._card_names = _names("card", cards)
        self._terminal_names = _names("terminal", terminals)

        rng = np.random.default_rng((seed, _PAYMENT_WORLD))
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
        columns, self._ready = _split(_join(blocks), count)
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
        rng = np.random.default_rng((self.seed, _PAYMENT_DAY, day))
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
        spree = rng.random(self._cards) < 0.005  # many payments in a day are not yet fraud
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
        """Small payments in quick succession, by which a thief finds out whether a card number works."""
        struck = np.flatnonzero(rng.random(self._cards) < CARD_TESTS_PER_DAY)
        payments = rng.integers(6, 20, len(struck))
        start = np.repeat(rng.uniform(0.0, 86_400.0 - 1_500.0, len(struck)), payments)
        lasts = np.repeat(rng.uniform(180.0, 1_500.0, len(struck)), payments)
        card = np.repeat(struck, payments)
        second = start + lasts * rng.random(len(card))
        return card, second, self._online_terminals(rng, len(card)), rng.uniform(0.5, 3.0, len(card))

    def _night_bursts(self, rng: np.random.Generator) -> tuple[Int64, Float64, Int64, Float64]:
        """A stolen card emptied between one and six at night, all over the place."""
        struck = np.flatnonzero(rng.random(self._cards) < NIGHT_BURSTS_PER_DAY)
        payments = rng.integers(3, 9, len(struck))
        start = np.repeat(rng.uniform(3_600.0, 16_200.0, len(struck)), payments)
        card = np.repeat(struck, payments)
        second = start + 5_400.0 * rng.random(len(card))
        terminal = rng.integers(0, self._terminals, len(card))
        return card, second, terminal, self._amount_mean[card] * rng.uniform(1.2, 4.0, len(card))


class Catalogue:
    """Items in categories, each with the few items that shoppers look at after it.

    Depends on its size alone: every simulator of `items` items browses the same catalogue.
    """

    def __init__(self, items: int) -> None:
        rng = np.random.default_rng((items, _CATALOGUE))
        self.items = items
        categories = items // ITEMS_PER_CATEGORY
        edges = np.linspace(0, items, categories + 1).astype(np.int64)
        self.members = rng.permutation(items)  # grouped by category, the most popular of a category first
        self.category_start = edges[:-1]
        self.category_size = np.diff(edges)
        self.category = np.empty(items, np.int64)
        self.category[self.members] = np.repeat(np.arange(categories), self.category_size)

        within = self._draw(rng, self.category[:, None].repeat(SUCCESSORS_PER_ITEM - 2, axis=1))
        complement = rng.permutation(categories)
        across = self._draw(rng, complement[self.category][:, None].repeat(2, axis=1))
        self.successors = np.concatenate([within, across], axis=1)
        rng.permuted(self.successors, axis=1, out=self.successors)
        self._launch_order = rng.permutation(items)

    def _draw(self, rng: np.random.Generator, category: Int64) -> Int64:
        rank = (self.category_size[category] * rng.random(category.shape)).astype(np.int64)
        item: Int64 = self.members[self.category_start[category] + rank]
        return item

    def popular_in(self, category: Int64, uniform: Float64) -> Int64:
        """Return an item of each category, by a power law of popularity; uniform in [0, 1)."""
        rank = (self.category_size[category] * uniform**2.0).astype(np.int64)
        item: Int64 = self.members[self.category_start[category] + rank]
        return item

    def popular(self, rng: np.random.Generator, size: int) -> Int64:
        """Return int64[size] items, by popularity of their category and then in it."""
        category = (len(self.category_size) * rng.random(size) ** 1.7).astype(np.int64)
        return self.popular_in(category, rng.random(size))

    def launches(self, item: Int64, day: Int64) -> Int64:
        """Return how often each place of the catalogue has been given to a new item by that day."""
        return (day * ITEM_LAUNCHES_PER_DAY + self.items - 1 - self._launch_order[item]) // self.items


class ClickSimulator:
    """Endless clicks of shoppers on one catalogue: `next` goes on in event time where the last call ended."""

    # Per habit: chance to go on to a successor, to look around the category, to return to a seen item; the rest jumps.
    _FOLLOW = np.array([0.80, 0.35, 0.50, 0.60])
    _ROAM = np.array([0.12, 0.55, 0.20, 0.30])
    _RETURN = np.array([0.03, 0.02, 0.25, 0.00])

    def __init__(
        self, seed: int = 7, *, items: int = 2_000, sessions_per_day: int = 24_000, start_ms: int = START_MS
    ) -> None:
        if items < 2 * ITEMS_PER_CATEGORY or sessions_per_day < 24:
            raise ValueError(
                f"shop: expected items >= {2 * ITEMS_PER_CATEGORY} and sessions_per_day >= 24, "
                f"got {items} and {sessions_per_day}"
            )
        self.seed = seed
        self.start_ms = start_ms
        self.catalogue = Catalogue(items)
        self._sessions_per_day = sessions_per_day
        self._hour = 0
        self._sessions = 0
        self._emitted = 0
        self._item_names = _names("item", items)
        empty = np.empty(0, np.int64)
        self._ready: Block = {"event_time": empty, "session": empty, "item": empty, "event_type": empty}
        self._open = self._ready  # clicks past the simulated hour: the next hour's clicks may come before them

    def next(self, count: int) -> Clicks:
        """Return the next `count` clicks as columns, ordered by event_time."""
        blocks = [self._ready]
        ready = len(self._ready["event_time"])
        while ready < count:
            blocks.append(self._simulate_hour())
            ready += len(blocks[-1]["event_time"])
        columns, self._ready = _split(_join(blocks), count)
        first, self._emitted = self._emitted, self._emitted + count
        event_time = columns["event_time"][:count].copy()
        return Clicks(
            event_id=[f"ev-{self.seed}-{i:09d}" for i in range(first, self._emitted)],
            event_time=event_time,
            session_id=[f"session-{self.seed}-{i:08d}" for i in columns["session"][:count].tolist()],
            item_id=self._item_ids(columns["item"][:count], event_time),
            event_type=np.array(EVENT_TYPES, dtype=object)[columns["event_type"][:count]].tolist(),
        )

    def _item_ids(self, item: Int64, event_time: Int64) -> list[str]:
        names: list[str] = self._item_names[item].tolist()
        launches = self.catalogue.launches(item, (event_time - self.start_ms) // DAY_MS)
        for place in np.flatnonzero(launches).tolist():
            names[place] = f"{names[place]}-{launches[place]}"
        return names

    def _simulate_hour(self) -> Block:
        hour, self._hour = self._hour, self._hour + 1
        rng = np.random.default_rng((self.seed, _CLICK_HOUR, hour))
        daily = 1.0 - 0.7 * np.cos((hour % 24 - 3) * np.pi / 12.0)  # quietest at three at night
        sessions = int(rng.poisson(self._sessions_per_day / 24.0 * daily))
        habit = rng.choice(len(HABITS), sessions, p=(0.4, 0.25, 0.2, 0.15))
        length = np.where(
            habit == HABITS.index("bouncer"), rng.integers(1, 3, sessions), 2 + rng.geometric(0.18, sessions)
        )
        # Longest first, so that the sessions still open at a step are a leading slice.
        length = np.minimum(length, SESSION_CLICKS_MAX)
        order = np.argsort(-length, kind="stable")
        habit, length = habit[order], length[order]
        items = self._walk(rng, habit, length)

        clicked = np.arange(items.shape[1])[None, :] < length[:, None]
        gap_ms = (2_000.0 + rng.exponential(28_000.0, items.shape)).astype(np.int64)
        gap_ms[:, :1] = 0
        start = self.start_ms + hour * HOUR_MS + rng.integers(0, HOUR_MS, sessions)
        event_time = start[:, None] + np.cumsum(gap_ms, axis=1)
        draw = rng.random(items.shape)
        last = np.arange(items.shape[1])[None, :] == length[:, None] - 1
        event_type = np.where(last & (draw < 0.12), 2, np.where(draw > 0.92, 1, 0))
        # Sessions are numbered by their start, as a shop would; the walk above has them by length.
        number = np.empty(sessions, np.int64)
        number[np.argsort(start, kind="stable")] = np.arange(self._sessions, self._sessions + sessions)
        self._sessions += sessions

        merged = {
            "event_time": np.concatenate([self._open["event_time"], event_time[clicked]]),
            "session": np.concatenate([self._open["session"], np.repeat(number, length)]),
            "item": np.concatenate([self._open["item"], items[clicked]]),
            "event_type": np.concatenate([self._open["event_type"], event_type[clicked]]),
        }
        order = np.argsort(merged["event_time"], kind="stable")
        merged = {name: column[order] for name, column in merged.items()}
        closed = int(np.searchsorted(merged["event_time"], self.start_ms + (hour + 1) * HOUR_MS))
        self._open = {name: column[closed:] for name, column in merged.items()}
        return {name: column[:closed] for name, column in merged.items()}

    def _walk(self, rng: np.random.Generator, habit: Int64, length: Int64) -> Int64:
        """Return int64[S, T] items, row s valid for its first length[s] clicks; length is descending."""
        shop = self.catalogue
        items = np.zeros((len(length), int(length[0]) if len(length) else 1), np.int64)
        items[:, 0] = shop.popular(rng, len(length))
        follow = self._FOLLOW[habit]
        roam = follow + self._ROAM[habit]
        back = roam + self._RETURN[habit]
        for step in range(1, items.shape[1]):
            alive = int(np.searchsorted(-length, -step, side="left"))
            choice, rank = rng.random(alive), rng.random(alive)
            last = items[:alive, step - 1]
            # A quarter goes on from the item before the last one: more than the last click tells the next.
            source = np.where(rng.random(alive) < 0.25, items[:alive, max(step - 2, 0)], last)
            step_to = shop.successors[source, (SUCCESSORS_PER_ITEM * rank**1.6).astype(np.int64)]
            roaming = choice >= follow[:alive]
            step_to[roaming] = shop.popular_in(shop.category[last[roaming]], rank[roaming])
            returning = np.flatnonzero(choice >= roam[:alive])
            step_to[returning] = items[returning, (step * rank[returning]).astype(np.int64)]
            jumping = choice >= back[:alive]
            step_to[jumping] = shop.popular(rng, int(jumping.sum()))
            items[:alive, step] = step_to
        return items
