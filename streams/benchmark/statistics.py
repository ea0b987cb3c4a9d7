"""Statistics of a benchmark: losses and repeats by id, rates, percentiles. Pure functions over arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from streams.errors import StreamsError

Ints = npt.NDArray[np.int64]


class BenchmarkError(StreamsError):
    """A benchmark cannot start, or its measurement would mean nothing."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Outputs against inputs, by id.

    Args:
        lost: inputs without an output.
        repeated: outputs beyond the first of their input.
        foreign: outputs that name no input of this run.
    """

    lost: int
    repeated: int
    foreign: int


def tally(positions: Ints, expected: int) -> Tally:
    """Count lost, repeated and foreign outputs.

    Args:
        positions: int64[outputs], the input position that each output names; negative without one.
        expected: number of inputs, positions 0 to expected - 1.
    """
    known = positions[(positions >= 0) & (positions < expected)]
    return tally_seen(np.bincount(known, minlength=expected), len(positions) - len(known))


def tally_seen(seen: Ints, foreign: int) -> Tally:
    """Count lost, repeated and foreign outputs from int64[inputs], how often each input was answered."""
    answered = int(np.count_nonzero(seen))
    return Tally(lost=len(seen) - answered, repeated=int(seen.sum()) - answered, foreign=foreign)


def position_of(value: bytes, run: str) -> int:
    """Return the input position that an output names, -1 without one of this run."""
    try:
        identity = orjson.loads(value)["transaction_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return -1
    prefix = f"{run}-"
    if not isinstance(identity, str) or not identity.startswith(prefix):
        return -1
    digits = identity.removeprefix(prefix)
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def events_per_second(times_ms: npt.NDArray[Any], counts: npt.NDArray[Any] | None = None, start: float = 0.1) -> float:
    """Return the rate in outputs/s, from the time at which a share `start` of all outputs existed to the last output.

    Args:
        times_ms: [n] times in any order; many outputs may share one.
        counts: [n] outputs that appeared at each time; None counts one each.
        start: share of the outputs that is left out as start-up.

    Raises:
        BenchmarkError: no output, or all at one instant: no rate exists.
    """
    if len(times_ms) == 0:
        raise BenchmarkError("expected outputs, got none; no rate exists")
    order = np.argsort(times_ms, kind="stable")
    times = np.asarray(times_ms, np.float64)[order]
    sizes = np.ones(len(times)) if counts is None else np.asarray(counts, np.float64)[order]
    cumulated = np.cumsum(sizes)
    first = times[int(np.searchsorted(cumulated, start * cumulated[-1]))]
    if times[-1] == first:
        raise BenchmarkError(f"{cumulated[-1]:.0f} outputs appeared at one instant; use more events")
    # Outputs that share the first timestamp came before the interval, also those beyond `start`.
    return float(sizes[times > first].sum() / (times[-1] - first) * 1e3)


def percentiles_ms(sent_ns: Ints, received_ns: Ints) -> tuple[float, float, float]:
    """Return the 50th, 99th and 99.9th percentile of the latencies of all received outputs, in ms.

    Args:
        sent_ns: int64[n] by position.
        received_ns: int64[n] by position, 0 for an output that was not received.

    Raises:
        BenchmarkError: no output was received.
    """
    arrived = received_ns > 0
    if not arrived.any():
        raise BenchmarkError("expected decisions after the warm-up, got none")
    p50, p99, p999 = np.percentile((received_ns - sent_ns)[arrived] / 1e6, [50, 99, 99.9])
    return float(p50), float(p99), float(p999)
