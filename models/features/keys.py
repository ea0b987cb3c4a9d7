"""Row numbers of keys: the bridge from names in records to rows of columnar state."""

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class KeyIndex(dict[str, int]):
    """Map each key to a row number; an unknown key takes a freed row, or else the next one.

    A dict with `__missing__`, so that a batch is looked up by one C loop: Python code runs only for new keys.
    """

    __slots__ = ("_free", "_keys")

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[str | None] = []
        self._free: list[int] = []

    def __missing__(self, key: str) -> int:
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
        self[key] = row
        return row

    @property
    def row_count(self) -> int:
        """Rows ever handed out, freed ones included: the size that columns need."""
        return len(self._keys)

    @property
    def free_rows(self) -> list[int]:
        """Rows handed out once and given back; not to be changed."""
        return self._free

    def rows(self, keys: Sequence[str]) -> Rows:
        """Return the row of each key, int64[B]; unknown keys get one."""
        return np.fromiter(map(self.__getitem__, keys), np.int64, len(keys))

    def rows_of_distinct(self, keys: Sequence[str]) -> Rows:
        """Do `rows` for keys that are all different: a million new ones take a tenth of a second and not half of one."""
        if self or self._free:
            return self.rows(keys)
        self._keys = list(keys)
        self.update(zip(keys, range(len(keys)), strict=True))
        return np.arange(len(keys))

    def find(self, keys: Sequence[str]) -> Rows:
        """Return the row of each key, int64[B], -1 for unknown keys, which stay unknown."""
        return np.fromiter(map(self.get, keys, repeat(-1)), np.int64, len(keys))

    def keys_of(self, rows: Rows) -> list[str]:
        """Return the key that holds each of `rows`, none of them free."""
        return [self._keys[row] for row in rows.tolist()]

    def evict(self, rows: Rows) -> None:
        """Forget the keys of `rows`, which are distinct and none of them free; they are handed out again."""
        for row, key in zip(rows.tolist(), self.keys_of(rows), strict=True):
            del self[key]
            self._keys[row] = None
            self._free.append(row)
