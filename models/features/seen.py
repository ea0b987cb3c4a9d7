"""Identities of the records of each key, so that a repeated record is not taken for a second one.

Rules, in the time that the caller gives (the Kafka timestamp of a record, so that a replay of old events counts as new):

- A record repeats an earlier one of its key if both have one identity and the earlier one is stamped after the watermark
  less `horizon_ms`, among its key's newest EVENTS_PER_KEY_MAX.
- The watermark is the largest time given. A record stamped not after the watermark less the horizon leaves no trace.
- A repeat leaves no trace either: the horizon counts from the first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from models.features import kernels
from models.features.event_log import EventLog
from models.features.history import KeyedHistory, column

EVENTS_PER_KEY_MAX = 1024
PAYLOAD_KIND = 4


def warm_up() -> None:
    """Compile, or read from the cache, the kernels, so that no record waits for them."""
    history = SeenRecords(1)
    history.duplicates(["key"], ["identity"], np.ones(1, np.int64))
    history.load_many(history.snapshot(dirty_only=True))
    history.evict()


class SeenRecords(KeyedHistory):
    """Identities by key, as 64-bit hashes: two of a key's records fall together by chance once in 10^16.

    Args:
        horizon_ms: how long a record is remembered, >= 1.
    """

    def __init__(self, horizon_ms: int) -> None:
        assert horizon_ms >= 1
        super().__init__(EventLog(np.int64, EVENTS_PER_KEY_MAX), PAYLOAD_KIND, 1, horizon_ms, horizon_ms - 1)

    def duplicates(
        self, keys: Sequence[str], identities: Sequence[str], time: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Record identities in the order given and return which of them are repeats.

        Args:
            keys: length B.
            identities: length B.
            time: int64[B], ms.

        Returns:
            bool[B], True for a repeat.
        """
        assert len(keys) == len(identities) == len(time)
        log, rows, time = self._log, self._rows(keys), column(time, np.int64)
        hashes = np.fromiter(
            map(xxhash.xxh3_64_intdigest, map(str.encode, identities)), np.uint64, len(identities)
        ).view(np.int64)
        out = np.zeros(len(keys), np.bool_)

        def step(begin: int) -> int:
            done, self._watermark = kernels.mark_duplicates(
                begin, rows, time, hashes, log.meta, log.times, log.values, log.heap, log.dirty, self._watermark,
                self._kept, log.events_per_key_max, out,
            )  # fmt: skip
            return int(done)

        log.run(step, len(rows))
        return out
