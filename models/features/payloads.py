"""Rows of an event log as bytes: what a checkpoint writes and recovery reads.

A payload is little-endian, a whole number of 8-byte words, and the same for the same events:

    version u8, kind u8, wide u8, 0 u8, count u32 | newest i64 | count x age | count x value

The age of an event is `newest - time`, u32, or i64 where `wide & 1`. A value is u32, to be divided by the scale of the
kind (100: amounts in cents), or, where `wide & 2`, the 8 bytes of the value as it is. Both lists are padded to words.
"""

# mypy: allow-untyped-defs

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features.compilation import compiled
from models.features.keys import Rows

assert sys.byteorder == "little", "payloads are written as they lie in memory"

VERSION = 1
HEADER_BYTES = 16


@compiled
def measure(first, count, newest, times, values, bits, scale, wide, ends):
    """Write the form of each payload to `wide` and its end, in words, to `ends`."""
    end = 0
    for k in range(first.size):
        form, n = 0, count[k]
        if n > 0 and newest[k] - times[first[k]] >= 4294967296:
            form |= 1
        odd = 0
        for i in range(first[k], first[k] + n):
            scaled = np.rint(values[i] * scale)
            # Without a branch, so that several values are looked at together. Negative zero has negative bits.
            odd += (bits[i] < 0) | (not scaled < 4294967296.0) | (scaled / scale != values[i])
        if odd > 0:
            form |= 2
        half = (n + 1) // 2
        end += 2 + (n if form & 1 else half) + (n if form & 2 else half)
        wide[k] = form
        ends[k] = end


@compiled
def write(first, count, newest, times, values, bits, scale, head, wide, ends, words, halves):
    """Write the payloads into `words`, whose u32 view is `halves`."""
    for k in range(first.size):
        n, start = count[k], first[k]
        at = ends[k - 1] if k > 0 else 0
        words[at] = head | (np.int64(wide[k]) << 16) | (n << 32)
        words[at + 1] = newest[k]
        at += 2
        if wide[k] & 1:
            for i in range(n):
                words[at + i] = newest[k] - times[start + i]
            at += n
        else:
            for i in range(n):
                halves[2 * at + i] = newest[k] - times[start + i]
            at += (n + 1) // 2
        if wide[k] & 2:
            for i in range(n):
                words[at + i] = bits[start + i]
        else:
            for i in range(n):
                halves[2 * at + i] = np.uint32(np.int64(np.rint(values[start + i] * scale)))


@compiled
def check(ends, head, words, halves, counts):
    """Write the number of events of each payload to `counts`; return the first payload that is not sound, or -1."""
    at = 0
    for k in range(ends.size):
        size = ends[k] - at
        if size < 2 or (words[at] & 0xFF00FFFF) != head:
            return k
        n = words[at] >> 32
        form = (words[at] >> 16) & 0xFF
        half = (n + 1) // 2
        if n < 0 or form > 3 or size != 2 + (n if form & 1 else half) + (n if form & 2 else half):
            return k
        before = np.int64(2**62)
        for i in range(n):
            age = words[at + 2 + i] if form & 1 else np.int64(halves[2 * (at + 2) + i])
            if age > before or age < 0:
                return k
            before = age
        counts[k] = n
        at = ends[k]
    return -1


@compiled
def read(ends, words, halves, scale, newest, times, values, bits):
    """Read sound payloads: all events one after the other, and the newest time of each payload."""
    at = 0
    to = 0
    for k in range(ends.size):
        n = words[at] >> 32
        form = (words[at] >> 16) & 0xFF
        newest[k] = words[at + 1]
        at += 2
        for i in range(n):
            times[to + i] = newest[k] - (words[at + i] if form & 1 else np.int64(halves[2 * at + i]))
        at += n if form & 1 else (n + 1) // 2
        for i in range(n):
            if form & 2:
                bits[to + i] = words[at + i]
            else:
                values[to + i] = halves[2 * at + i] / scale
        at = ends[k]
        to += n


def encode(
    first: Rows,
    count: Rows,
    newest: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    kind: int,
    scale: int,
) -> tuple[bytes, list[int]]:
    """Return the payloads of rows one after the other, and where each ends.

    Args:
        first: int64[R], first slot of each row.
        count: int64[R], events of each row.
        newest: int64[R], time of the newest event of each row.
        times: int64[S], the slots.
        values: float64[S] or int64[S].
        kind: what the rows are, 1..255.
        scale: see the module.
    """
    wide, ends = np.empty(len(first), np.uint8), np.empty(len(first), np.int64)
    bits = values.view(np.int64)
    measure(first, count, newest, times, values, bits, scale, wide, ends)
    words = np.zeros(int(ends[-1]) if len(ends) else 0, np.int64)
    head = VERSION | (kind << 8)
    write(
        first,
        count,
        newest,
        times,
        values,
        values.view(np.int64),
        scale,
        head,
        wide,
        ends,
        words,
        words.view(np.uint32),
    )
    return words.tobytes(), (ends * 8).tolist()


def decode(
    payloads: list[bytes], value_dtype: npt.DTypeLike, kind: int, scale: int
) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return ends, newest, times and values of the events in `payloads`, as `EventLog.restore` takes them.

    Raises:
        ValueError: its one argument is the position of a payload that is damaged, or of another version or kind.
    """
    sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
    odd = np.flatnonzero(sizes % 8)
    if len(odd):
        raise ValueError(int(odd[0]))
    words = np.frombuffer(bytearray().join(payloads), np.int64)
    halves = words.view(np.uint32)
    limits = np.cumsum(sizes // 8)
    counts = np.empty(len(payloads), np.int64)
    bad = check(limits, VERSION | (kind << 8), words, halves, counts)
    if bad >= 0:
        raise ValueError(int(bad))
    ends = np.cumsum(counts)
    newest = np.empty(len(payloads), np.int64)
    times = np.empty(int(counts.sum()), np.int64)
    values = np.empty(len(times), value_dtype)
    read(limits, words, halves, scale, newest, times, values, values.view(np.int64))
    return ends, newest, times, values
