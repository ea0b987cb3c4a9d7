"""Simulated clicks of shoppers on a catalogue, in event-time order and without an end."""

from __future__ import annotations

from typing import Final, TypedDict

import numpy as np

from models.simulator.blocks import (
    CATALOGUE,
    CLICK_HOUR,
    DAY_MS,
    HOUR_MS,
    START_MS,
    Block,
    Float64,
    Int64,
    join,
    named,
    split,
)

HABITS: Final = ("follower", "roamer", "comparer", "bouncer")
EVENT_TYPES: Final = ("view", "cart", "purchase")
SUCCESSORS_PER_ITEM: Final = 8
ITEMS_PER_CATEGORY: Final = 50
SESSION_CLICKS_MAX: Final = 40
ITEM_LAUNCHES_PER_DAY: Final = 1  # a catalogue is never closed: a launched item is one that no model has seen


class Clicks(TypedDict):
    """Columns of clicks, ordered by event_time."""

    event_id: list[str]
    event_time: Int64
    session_id: list[str]
    item_id: list[str]
    event_type: list[str]


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


class Catalogue:
    """Items in categories, each with the few items that shoppers look at after it.

    Depends on its size alone: every simulator of `items` items browses the same catalogue.
    """

    def __init__(self, items: int) -> None:
        rng = np.random.default_rng((items, CATALOGUE))
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
        self._item_names = named("item", items)
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
        columns, self._ready = split(join(blocks), count)
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
        rng = np.random.default_rng((self.seed, CLICK_HOUR, hour))
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
            # A quarter continues from the item before the last one: the next click depends on more than the last.
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
