"""Damaged inputs without end, each a function of (seed, target, number): what fails once fails again."""

from __future__ import annotations

import random
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Thousands of times what any input takes, of processor time: other processes do not make it fail.
INPUT_CPU_S_MAX = 2.0
INPUT_BYTES_MAX = 200_000

TOKENS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf", b"\\u0000", b"\\ud800", b"\\udc00", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1e-400",
    b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"9" * 400, b"0." + b"0" * 400 + b"1",
    b"2024-04-05T19:34:38Z", b"9999-12-31T23:59:59.999999999+23:59", b'"a":1,"a":2', b"[" * 40, b'{"a":' * 40, b"[" * 30_000,
    b"'''", b'"""', b"\n", b"=", b"#", b"..", b"../" * 8, b"%s", b"$(x)", b" " * 1_000, b"a" * 5_000,
)  # fmt: skip
WORDS = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, -(2**63), 0x7FF8 << 48, 0x7FF0 << 48)


@dataclass(frozen=True)
class Target:
    """A reader of bytes from any writer.

    Args:
        share: thousandths of all inputs.
        corpus: inputs to be damaged, good and bad.
        feed: reads one input and asserts what must hold of the result.
        refusals: errors that say that an input cannot be read.
    """

    name: str
    share: int
    corpus: Sequence[bytes]
    feed: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...] = ()


def damaged(seed: int, target: Target, number: int) -> bytes:
    """Return input `number` of a target: one of its corpus after one to four changes."""
    generator = random.Random(f"{seed}:{target.name}:{number}")
    data = bytearray(generator.choice(target.corpus))
    for _ in range(generator.randint(1, 4)):
        _damage(data, generator, target.corpus)
    return bytes(data[:INPUT_BYTES_MAX])


def _damage(data: bytearray, generator: random.Random, corpus: Sequence[bytes]) -> None:
    at = generator.randint(0, len(data))
    end = min(len(data), at + generator.choice((1, 1, 2, 4, 8, 16, 64, 1_000)))
    kind = generator.randrange(9)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << generator.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = generator.randrange(256)
    elif kind == 2:
        data[at:at] = generator.choice(TOKENS)
    elif kind == 3:
        data[at:end] = generator.choice(TOKENS)
    elif kind == 4:
        del data[at:end]
    elif kind == 5:
        data[at:at] = data[at:end] * generator.choice((1, 2, 50))
    elif kind == 6:
        del data[at:]
    elif kind == 7:
        other = generator.choice(corpus)
        data[at:] = other[generator.randint(0, len(other)) :]
    else:  # a word of a binary layout
        at -= at % 4
        data[at : at + 8] = struct.pack("<Q", generator.choice(WORDS) + generator.randint(-1, 1) & (2**64 - 1))


def fuzz(target: Target, seed: int, count: int) -> int:
    """Feed `count` inputs to a target and return how many it read without refusing.

    Raises:
        AssertionError: an input raised something else or took too long; names what makes it again.
    """
    for whole in target.corpus:
        _feed(target, whole)  # compiles and caches what the first input would be charged with
    read = 0
    for number in range(count):
        data = damaged(seed, target, number)
        try:
            with _time_limit():
                read += _feed(target, data)
        except Exception as exc:
            raise AssertionError(
                f"damaged({seed}, {target.name}, {number}), {len(data)} bytes: {type(exc).__name__}: {exc}; "
                f"STREAMS_FUZZ_SEED={seed} python -m pytest -m fuzz -k {target.name}; it begins {data[:300]!r}"
            ) from exc
    return read


def _feed(target: Target, data: bytes) -> bool:
    try:
        target.feed(data)
    except target.refusals:
        return False
    return True


@contextmanager
def _time_limit() -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {INPUT_CPU_S_MAX} s of processor time")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_CPU_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
