"""Find objects with a repeated key, or too deep a nesting, in valid JSON texts.

JSON decoders keep one of two equal keys in silence; two systems that keep different ones disagree about the amount.
"""

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.features.compilation import compiled

CLEAN: Final = 0
SUSPECT: Final = (
    1  # a hash met twice, an escape in a key, or more keys than the scan holds: `has_duplicate_key` decides
)
TOO_DEEP: Final = 2

NESTING_MAX: Final = 32  # objects and arrays inside each other; events are flat, decoders overflow at about 1,000
# Unsigned positions spare numba its test for a negative index: a quarter of the whole scan.
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_KEYS_MAX = 128  # open keys of a record; beyond it the exact check is linear where this one is quadratic


@compiled
def scan_keys(text: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return for each record whether its keys can repeat.

    Args:
        text: uint8, the records one after the other; each is valid JSON, else its flag means nothing.
        ends: int64[B], the position in `text` after each record.

    Returns:
        uint8[B]: CLEAN, SUSPECT or TOO_DEEP. CLEAN is exact: no object of the record has two equal keys.
    """
    flags = np.zeros(ends.size, np.uint8)
    hashes = np.empty(_KEYS_MAX, np.uint64)
    opened_at = np.empty(NESTING_MAX + 1, np.int64)
    is_object = np.zeros(NESTING_MAX + 1, np.bool_)
    position = np.uint64(0)
    for record in range(ends.size):
        end = np.uint64(ends[record])
        flag = CLEAN
        depth = 0
        keys = 0
        first_key = 0
        key_next = False
        while position < end:
            char = text[position]
            position += _ONE
            if char == 34:  # "
                if not key_next:
                    while position < end and text[position] != 34:
                        position += _TWO if text[position] == 92 else _ONE
                    position += _ONE
                    continue
                key_next = False
                digest = np.uint64(0)
                while position < end:
                    char = text[position]
                    position += _ONE
                    if char == 34:
                        break
                    if char == 92:  # the escaped and the plain spelling of a key are equal
                        flag = SUSPECT
                        position += _ONE
                    digest = (digest << np.uint64(8)) + (digest + np.uint64(char))
                for other in range(first_key, keys):
                    if hashes[other] == digest:
                        flag = SUSPECT
                if keys == _KEYS_MAX:
                    flag = SUSPECT
                else:
                    hashes[keys] = digest
                    keys += 1
            elif char == 44:  # ,
                key_next = is_object[depth]
            elif char == 123 or char == 91:  # { [
                if depth == NESTING_MAX:
                    flag = TOO_DEEP
                    break
                opened_at[depth] = first_key
                depth += 1
                first_key = keys
                key_next = char == 123
                is_object[depth] = key_next
            elif char == 125 or char == 93:  # } ]
                if depth == 0:
                    break
                key_next = False
                keys = first_key
                depth -= 1
                first_key = opened_at[depth]
        position = end
        flags[record] = flag
    return flags


# Compiled, or read from numba's cache, on import: never while a first record waits.
scan_keys(np.frombuffer(b"{}", np.uint8), np.array([2]))


class _RepeatedKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _RepeatedKey


def has_duplicate_key(value: bytes) -> bool:
    """Return whether some object of this valid JSON in UTF-8, nested at most NESTING_MAX deep, has two equal keys."""
    try:
        # Numbers stay text: their conversion could fail for reasons that are not this check's.
        json.loads(value, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except _RepeatedKey:
        return True
    return False
