"""FetchPace: how much the broker collects for a fetch before it answers."""

from __future__ import annotations

from typing import NamedTuple


class Patience(NamedTuple):
    """What a fetch asks of the broker: answer once it has `bytes_min`, or `wait_ms_max` after the request."""

    bytes_min: int
    wait_ms_max: int


# An idle fetch answers as soon as one byte is there; this only bounds how long it hangs at the broker.
IDLE = Patience(1, 500)
# Without a record for so long the consumer counts as idle again.
FLOW_ENDS_S = 0.25
# While records flow. A fetch of any size costs the worker 1-2 ms: one for every few records would use up a core at 1,000
# records/s.
FLOWING_BYTES_MIN = 32_768
# A fetch of so many tells that they come faster than the loop asks. To let the broker collect longer then saves more than
# it costs: p99 45 and 61 ms with a wait of 2 ms, 35 and 37 with 8 (`streams bench latency --rate 10000`, in turns).
FAST_RECORDS_MIN = 64
FAST_WAIT_FACTOR = 4


class FetchPace:
    """Fewer fetches the more records come, over all topics and partitions.

    Args:
        wait_ms_max: how long the broker may collect while records flow, ms; while they flow fast, `FAST_WAIT_FACTOR` times
            that, though no longer than an idle fetch.
    """

    def __init__(self, wait_ms_max: int) -> None:
        self._flowing = Patience(FLOWING_BYTES_MIN, wait_ms_max)
        fast_ms = max(wait_ms_max, min(FAST_WAIT_FACTOR * wait_ms_max, IDLE.wait_ms_max))
        self._fast = Patience(FLOWING_BYTES_MIN, fast_ms)

    def after(self, records: int) -> Patience:
        """Return what to ask for after a fetch that brought so many records."""
        return self._fast if records >= FAST_RECORDS_MIN else self._flowing
