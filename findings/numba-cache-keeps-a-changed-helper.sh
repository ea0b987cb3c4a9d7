#!/usr/bin/env bash
# Versions: numba 0.68.1, numpy 2.4.6
# Question: what does `njit(cache=True)` run after a function that it calls, in another file, was changed?
# Guess: the new code; the cache is keyed by what went into the compilation.
# Happens: the old code, in every later process, without a word. The cache looks at the caller's own file alone.
# Here: a deployment over an older checkout would compute features by the former rules, and no test of a fresh one sees it.
# Live with it: keep kernels that call each other in one file (`models/features/kernels.py`).
# Source: https://numba.readthedocs.io/en/stable/developer/caching.html (limitations)
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" numba==0.68.1 numpy==2.4.6

cd "$scratch"
cat >caller.py <<'PY'
import numba
from helper import fee


@numba.njit(cache=True)
def price(amount):
    return amount + fee()


print(price(100))
PY
helper() { printf 'import numba\n\n\n@numba.njit\ndef fee():\n    return %s\n' "$1" >helper.py; }

helper 1
before=$(PYTHONDONTWRITEBYTECODE=1 "$python" caller.py)
helper 50
changed=$(PYTHONDONTWRITEBYTECODE=1 "$python" caller.py)
printf '\n' >>caller.py
touched=$(PYTHONDONTWRITEBYTECODE=1 "$python" caller.py)
echo "fee 1: $before; fee 50: $changed; fee 50 and a new line in the caller's file: $touched"
test "$before $changed $touched" = "101 101 150"
