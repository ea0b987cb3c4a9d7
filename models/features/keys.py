"""Row numbers of keys: the bridge from names in records to rows of columnar state."""

from array import array
from collections.abc import Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class KeyIndex:
    """Map each key to a row number; an unknown key takes a freed row, or else the next one.

    A batch is looked up by one C loop: Python code runs only for new keys. The index is an array and dicts of texts and
    integers only, which the interpreter's garbage collection skips. It would walk a list of a million keys each time, for
    a second.
    """

    __slots__ = ("_free", "_key_of_row", "_row_of_key")

    def __init__(self) -> None:
        self._row_of_key: dict[str, int] = {}
        self._key_of_row: dict[int, str] = {}
        self._free = array("q")

    def __len__(self) -> int:
        """Keys held."""
        return len(self._row_of_key)

    def __contains__(self, key: str) -> bool:
        return key in self._row_of_key

    @property
    def row_count(self) -> int:
        """Rows ever handed out, freed ones included: the size that columns need."""
        return len(self._row_of_key) + len(self._free)

    @property
    def free_rows(self) -> Rows:
        """Rows handed out once and given back, int64[R]."""
        return np.array(self._free, np.int64)

    @property
    def held_rows(self) -> Rows:
        """Rows of the keys held, int64[K], in the order of `keys`."""
        return np.fromiter(self._row_of_key.values(), np.int64, len(self))

    def keys(self) -> list[str]:
        """Return the keys held, in no particular order."""
        return list(self._row_of_key)

    def rows(self, keys: Sequence[str]) -> Rows:
        """Return the row of each key, int64[B]; unknown keys get one."""
        rows = self.find(keys)
        for place in np.flatnonzero(rows < 0).tolist():
            rows[place] = self.row(keys[place])  # a batch may name a new key twice
        return rows

    def row(self, key: str) -> int:
        """Return the row of a key; an unknown one gets one."""
        row = self._row_of_key.get(key)
        if row is None:
            row = self._free.pop() if self._free else len(self._row_of_key)
            self._row_of_key[key], self._key_of_row[row] = row, key
        return row

    def rows_of_distinct(self, keys: Sequence[str]) -> Rows:
        """Do `rows` for keys that are all different: a million new ones take a tenth of a second and not half of one."""
        if len(self) or self._free:
            return self.rows(keys)
        self._row_of_key = dict(zip(keys, range(len(keys)), strict=True))
        self._key_of_row = dict(enumerate(keys))
        return np.arange(len(keys))

    def find(self, keys: Sequence[str]) -> Rows:
        """Return the row of each key, int64[B], -1 for unknown keys, which stay unknown."""
        return np.fromiter(map(self._row_of_key.get, keys, repeat(-1)), np.int64, len(keys))

    def keys_of(self, rows: Rows) -> list[str]:
        """Return the key that holds each of `rows`, none of them free."""
        return list(map(self._key_of_row.__getitem__, rows.tolist()))

    def evict(self, rows: Rows) -> None:
        """Forget the keys of `rows`, which are distinct and none of them free; they are handed out again."""
        for row in rows.tolist():
            del self._row_of_key[self._key_of_row.pop(row)]
            self._free.append(row)
