"""Sessions of clicks, the examples that they make, and how well a ranking answers these.

Training and evaluation share this: an example is a prefix of a session, its target the session's next click.

Source:
    Hidasi et al., Session-based Recommendations with Recurrent Neural Networks (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOP_K: Final = 20

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions in time order.

    Attributes:
        items: int32[C], their clicks, one session after the other.
        offsets: int64[S + 1]; session s is items[offsets[s]:offsets[s + 1]].
    """

    items: Int32
    offsets: Int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, start: int, stop: int) -> Sessions:
        """Return sessions [start, stop)."""
        begin, end = int(self.offsets[start]), int(self.offsets[stop])
        return Sessions(self.items[begin:end], self.offsets[start : stop + 1] - begin)

    def without(self, dropped: NDArray[np.bool_]) -> Sessions:
        """Return the sessions without the clicks marked in `dropped`, bool[C]; those left empty vanish."""
        kept_before = np.concatenate([[0], np.cumsum(~dropped)])
        return Sessions(self.items[~dropped], np.unique(kept_before[self.offsets]))


@dataclass(frozen=True, slots=True)
class Examples:
    """Prefixes of sessions and what was clicked next.

    Attributes:
        items: int32[C], clicks of the prefixes.
        begin: int64[E]; prefix e is items[begin[e]:end[e]], never empty.
        end: int64[E].
        targets: int32[E].
    """

    items: Int32
    begin: Int64
    end: Int64
    targets: Int32

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, count: int) -> Examples:
        """Return the first examples, all where there are fewer."""
        return Examples(self.items, self.begin[:count], self.end[:count], self.targets[:count])

    def sample(self, count: int, seed: int) -> Examples:
        """Return `count` examples drawn without replacement, in order; all where there are fewer."""
        if len(self) <= count:
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        return Examples(self.items, self.begin[rows], self.end[rows], self.targets[rows])

    def newest(self, length: int) -> Int32:
        """Return int32[E, length]: the newest clicks of each prefix, the last one rightmost, -1 where there is none."""
        place = self.end[:, None] - length + np.arange(length)
        inside = place >= self.begin[:, None]
        sequences = np.full(place.shape, -1, np.int32)
        sequences[inside] = self.items[place[inside]]
        return sequences


class Hits(NamedTuple):
    """Quality of a ranking: the share of next items among the first TOP_K, and the mean of their inverse ranks."""

    p_at_20: float
    mrr_at_20: float


def prefixes(sessions: Sessions) -> Examples:
    """Return an example for each click that has one before it in its session."""
    session = np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets))
    end = np.flatnonzero(session[1:] == session[:-1]) + 1
    return Examples(sessions.items, sessions.offsets[session[end]], end, sessions.items[end])


def inverse_ranks(ranked: Int32, targets: Int32) -> NDArray[np.float64]:
    """Return 1 / rank of each target, 0 where the ranking does not hold it.

    Args:
        ranked: int32[E, K], best first, -1 where there is no item.
        targets: int32[E], -1 for a target that no ranking holds.

    Returns:
        float64[E].
    """
    hit = (ranked == targets[:, None]) & (targets >= 0)[:, None]
    return np.where(hit.any(axis=1), 1.0 / (hit.argmax(axis=1) + 1.0), 0.0)


def hits(ranked: Int32, targets: Int32) -> Hits:
    """Return the quality of the first TOP_K of rankings; arguments as for `inverse_ranks`."""
    inverse = inverse_ranks(ranked[:, :TOP_K], targets)
    return Hits(float((inverse > 0).mean()), float(inverse.mean()))
