#!/usr/bin/env bash
# Versions: msgspec 0.22.0
# Question: what is left of an iterator that `Encoder.encode_lines` has written out?
# Guess: nothing, once the caller lets go of it.
# Happens: a reference of msgspec's stays for good, and with it what the iterator holds. A list is let go.
# Here: answers of a batch come as a generator most naturally, thousands of times a minute.
# Live with it: give `encode_lines` a list.
# Source: seen here
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" msgspec==0.22.0

"$python" - <<'PY'
import gc
import weakref

import msgspec


class Answers:
    """An iterator that can be watched."""

    def __init__(self):
        self.left = [{"score": 1}, {"score": 2}]
        self.inputs = bytearray(1000)

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


class Listed(list):
    """A list that can be watched."""


def alive_after(make, count=100):
    encoder = msgspec.json.Encoder()
    watched = []
    for _ in range(count):
        rows = make()
        watched.append(weakref.ref(rows))
        assert encoder.encode_lines(rows) == b'{"score":1}\n{"score":2}\n'
        del rows
    gc.collect()
    return sum(one() is not None for one in watched)


lists = alive_after(lambda: Listed([{"score": 1}, {"score": 2}]))
iterators = alive_after(Answers)
print(f"of 100 lists {lists} are still alive, of 100 iterators {iterators}")
assert (lists, iterators) == (0, 100)
PY
