"""Items as numbers: state keeps a number in place of an id, and a model finds its own items by number.

The number of an item is 63 bits of a hash of its id, and depends on no vocabulary. Two ids with one number are
taken for one item: among a million ids a pair has one with a probability of 5 in 10^8. A pair that is made on purpose
gains nothing, for a click on the one is a click on the other and no more.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from models.errors import ModelError
from models.features.compilation import compiled

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SLOTS_PER_ITEM_MIN = 2  # a search ends at an empty slot: at most half are taken, so that it ends soon
EMPTY = -1


def number_of(item: str) -> int:
    """Return the number of an item in [0, 2^63)."""
    return xxhash.xxh3_64_intdigest(item.encode()) >> 1


@compiled
def fill(numbers, table):
    """Put the place of each number into an empty table; return the first place with a repeated number, or -1."""
    mask = table.shape[0] - 1
    for k in range(numbers.size):
        slot = numbers[k] & mask
        while table[slot, 0] >= 0:
            if table[slot, 0] == numbers[k]:
                return k
            slot = (slot + 1) & mask
        table[slot, 0] = numbers[k]
        table[slot, 1] = k
    return -1


@compiled
def look_up(numbers, table, out):
    """Write the place of each number, -1 where the table lacks it."""
    mask = table.shape[0] - 1
    for k in range(numbers.size):
        number = numbers[k]
        out[k] = -1
        if number >= 0:
            slot = number & mask
            while table[slot, 0] >= 0:
                if table[slot, 0] == number:
                    out[k] = table[slot, 1]
                    break
                slot = (slot + 1) & mask


def warm_up() -> None:
    """Compile, or read from the cache, both kernels, so that no record waits for them."""
    ItemTable(["item"]).places(np.zeros((1, 1), np.int64))


class ItemTable:
    """The places of the items of a vocabulary by their numbers.

    Args:
        ids: Different item ids, length N.

    Raises:
        ModelError: two ids have one number.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        numbers = np.fromiter(map(number_of, ids), np.int64, len(ids))
        size = 1 << (SLOTS_PER_ITEM_MIN * max(1, len(ids)) - 1).bit_length()
        self._table = np.full((size, 2), EMPTY, np.int64)
        twin = fill(numbers, self._table)
        if twin >= 0:
            raise ModelError(
                f"item {ids[twin]!r}: expected a number of its own, got {numbers[twin]}, which is another item's too; "
                "give one of them another id and train again"
            )

    def places(self, numbers: Int64) -> Int32:
        """Return the place in the vocabulary of each number, int32 in the shape given, -1 for those that it lacks."""
        out = np.empty(numbers.shape, np.int32)
        look_up(np.ascontiguousarray(numbers).ravel(), self._table, out.ravel())
        return out
