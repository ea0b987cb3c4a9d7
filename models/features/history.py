"""What every keyed history shares: keys to rows, the watermark, eviction, snapshots."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import StateError
from models.features import kernels, payloads
from models.features.event_log import EventLog
from models.features.keys import KeyIndex, Rows

Pair = tuple[bytes, bytes | None]
Pairs = Mapping[bytes, bytes | None] | Iterable[Pair]

# Times up to here leave the kernels room for subtraction without overflow; NEVER, the watermark of no record, is the lowest.
WATERMARK_MAX = -kernels.NEVER


class Snapshot:
    """Rows of a history as they were at one moment; iterate for (key, payload), None for an evicted key.

    Taking it copies the rows; the history may be updated while another thread iterates.
    """

    def __init__(self, evicted: list[str], keys: list[str], data: bytes, ends: list[int]) -> None:
        self._evicted = evicted
        self._keys = keys
        self._data = data
        self._ends = ends

    def __len__(self) -> int:
        return len(self._evicted) + len(self._keys)

    def __iter__(self) -> Iterator[Pair]:
        for key in self._evicted:
            yield key.encode(), None
        begin = 0
        for key, end in zip(self._keys, self._ends, strict=True):
            yield key.encode(), self._data[begin:end]
            begin = end


class KeyedHistory:
    """Event logs by key, as a function of the records given: base of the card, terminal and session histories.

    Args:
        log: empty log of the events.
        kind: tells payloads of this history from those of others.
        scale: factor that makes values whole numbers in a payload.
        kept: events not newer than their key's newest less `kept` are never seen.
        evict_after: a key whose newest event is more than this behind the watermark gives no feature any more.
    """

    def __init__(self, log: EventLog, kind: int, scale: int, kept: int, evict_after: int) -> None:
        self._index = KeyIndex()
        self._log = log
        self._kind = kind
        self._scale = scale
        self._kept = kept
        self._evict_after = evict_after
        self._watermark = kernels.NEVER

    def __len__(self) -> int:
        """Keys held."""
        return len(self._index)

    def keys(self) -> list[str]:
        """Return the keys held, in no particular order."""
        return self._index.keys()

    def holds(self, key: str) -> bool:
        """Tell whether a key is held."""
        return key in self._index

    @property
    def watermark(self) -> int:
        """Largest event_time given, ms (buckets in TerminalHistory). A load raises it to the newest event loaded."""
        return self._watermark

    @watermark.setter
    def watermark(self, event_time: int) -> None:
        self._watermark = event_time

    def _rows(self, keys: Sequence[str]) -> Rows:
        rows = self._index.rows(keys)
        self._log.reserve_rows(self._index.row_count)
        return rows

    def _held(self) -> Rows:
        """Rows of the keys that a record can still see, in no particular order."""
        rows = self._index.held_rows
        return rows[self._log.newest[rows] >= self._watermark - self._evict_after]

    def _floor(self) -> int:
        """Events not newer than this are never seen."""
        return self._watermark - self._evict_after - 1

    def _frozen(self, evicted: list[str], rows: Rows) -> Snapshot:
        log = self._log
        first, count = log.visible(rows, self._kept, self._floor())
        data, ends = payloads.encode(first, count, log.newest[rows], log.times, log.values, self._kind, self._scale)
        return Snapshot(evicted, self._index.keys_of(rows), data, ends)

    def evict(self) -> list[str]:
        """Forget keys that no record can see any more; return those that a snapshot holds."""
        return self._evict_before(self._watermark - self._evict_after)

    def _evict_before(self, oldest: int) -> list[str]:
        behind = self._log.newest[: self._index.row_count] < oldest
        behind[self._index.free_rows] = False
        rows = np.flatnonzero(behind)
        told = self._index.keys_of(rows[self._log.told[rows] == 1])
        self._forget(rows)
        return told

    def _forget(self, rows: Rows) -> None:
        self._log.clear(rows)
        self._index.evict(rows)

    def freeze(self, dirty_only: bool) -> Snapshot:
        """Evict, then copy the rows touched since the last snapshot, or all; forget the touches and evictions.

        After a failed checkpoint pass False: the next snapshot then holds the rows that this one marked as written.
        """
        evicted = self.evict()
        rows = np.flatnonzero(self._log.dirty) if dirty_only else self._held()
        snapshot = self._frozen(evicted, rows)
        self._log.told[rows] = 1
        self._log.dirty[:] = 0
        return snapshot

    def snapshot(self, dirty_only: bool) -> list[Pair]:
        """Return `freeze(dirty_only)` as a list of (key, payload); a payload of None tells that the key was evicted."""
        return list(self.freeze(dirty_only))

    def load(self, key: bytes, payload: bytes | None) -> None:
        """Do `load_many` for one pair."""
        self.load_many([(key, payload)])

    def load_many(self, pairs: Pairs) -> None:
        """Put rows of snapshots in place: of each key the last pair counts, None evicts it, other keys stay.

        Raises:
            StateError: a payload is damaged, or of another version or kind; nothing is loaded.
        """
        latest = dict(pairs)
        self.load_distinct(list(latest), list(latest.values()))

    def load_distinct(self, keys: Sequence[bytes], rows_of_keys: Sequence[bytes | None]) -> None:
        """Do `load_many` for keys that are all different, with the payload of each, in two lists: for a million rows."""
        held, gone = [payload for payload in rows_of_keys if payload is not None], list[str]()
        if len(held) < len(keys):
            gone = names([key for key, payload in zip(keys, rows_of_keys, strict=True) if payload is None])
            keys = [key for key, payload in zip(keys, rows_of_keys, strict=True) if payload is not None]
        kept = names(keys)
        try:
            ends, newest, times, values = payloads.decode(held, self._log.values.dtype, self._kind, self._scale)
        except ValueError as bad:
            position = bad.args[0]
            raise StateError(
                f"{type(self).__name__}: {kept[position]}: expected a payload of version {payloads.VERSION} and kind "
                f"{self._kind}, got {held[position][:16].hex()}...; rebuild the state from the source topic"
            ) from None
        rows = self._index.find(gone)
        self._forget(rows[rows >= 0])
        rows = self._index.rows_of_distinct(kept)
        self._log.reserve_rows(self._index.row_count)
        self._log.restore(rows, ends, newest, times, values)
        self._log.dirty[rows] = 0
        self._log.told[rows] = 1
        self._watermark = max(self._watermark, int(newest.max(initial=kernels.NEVER)))

    def digest(self) -> str:
        """Return the SHA-256 over keys and payloads, sorted by key, of all that a record can still see."""
        total = hashlib.sha256()
        for key, payload in sorted(self._frozen([], self._held())):
            assert payload is not None
            total.update(len(key).to_bytes(4, "little") + key + len(payload).to_bytes(4, "little") + payload)
        return total.hexdigest()


class GroupSnapshot:
    """Members' snapshots, each row with the place of its member.

    Iterations are independent: a thread may write the rows while another looks for the evicted ones.
    """

    def __init__(self, members: Sequence[Snapshot]) -> None:
        self._members = members

    def __iter__(self) -> Iterator[Pair]:
        for place, snapshot in enumerate(self._members):
            prefix = b"%d" % place
            for key, payload in snapshot:
                yield prefix + key, payload


class HistoryGroup:
    """Histories of one partition that are kept, checkpointed and restored as one; rows carry the place of theirs.

    Args:
        members: at most 10; their order is part of what a row means.
    """

    def __init__(self, *members: KeyedHistory) -> None:
        assert len(members) <= 10
        self._members = members

    @property
    def watermarks(self) -> list[int]:
        """The watermark of each member."""
        return [int(member.watermark) for member in self._members]

    @watermarks.setter
    def watermarks(self, values: Sequence[int]) -> None:
        if len(values) != len(self._members) or not all(abs(value) <= WATERMARK_MAX for value in values):
            raise StateError(
                f"watermarks: expected {len(self._members)} within +-{WATERMARK_MAX}, got {values}; "
                "rebuild the state from the source topic"
            )
        for member, value in zip(self._members, values, strict=True):
            member.watermark = value

    def freeze(self, dirty_only: bool) -> GroupSnapshot:
        """Do `KeyedHistory.freeze` for all members now."""
        return GroupSnapshot([member.freeze(dirty_only) for member in self._members])

    def load_many(self, pairs: Pairs) -> None:
        """Do `KeyedHistory.load_many` with each member's rows.

        Raises:
            StateError: a payload is damaged, or a row belongs to no member.
        """
        latest = dict(pairs)
        keys, payloads_of_keys = list(latest), list(latest.values())
        # The first byte of each key, without a Python object for each comparison.
        places = np.frombuffer(b"".join([key[:1] or b" " for key in keys]), np.uint8).astype(np.int64) - ord("0")
        foreign = np.flatnonzero((places < 0) | (places >= len(self._members)))
        if len(foreign):
            raise StateError(
                f"row {keys[foreign[0]]!r}: expected a place below {len(self._members)}; "
                "rebuild the state from the source topic"
            )
        for place, member in enumerate(self._members):
            own = (places == place).tolist()
            member.load_distinct([key[1:] for key in compress(keys, own)], list(compress(payloads_of_keys, own)))

    def digest(self) -> str:
        """Return the SHA-256 over the members' digests."""
        return hashlib.sha256("".join(member.digest() for member in self._members).encode()).hexdigest()


def names(keys: Iterable[bytes]) -> list[str]:
    """Return the text of keys.

    Raises:
        StateError: a key is not UTF-8.
    """
    try:
        return list(map(bytes.decode, keys))
    except UnicodeDecodeError as bad:
        raise StateError(
            f"row {bad.object!r}: expected a key of UTF-8 text; rebuild the state from the source topic"
        ) from None


def column(values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return `values` as the kernels were compiled for: contiguous and writable, copied only where they are not."""
    return np.require(values, dtype, ("C", "W"))


def none_of(records: Sized) -> npt.NDArray[np.bool_]:
    """Return bool[B], False for each of B records."""
    return np.zeros(len(records), np.bool_)
