#!/usr/bin/env bash
# Versions: numba 0.68.1, numpy 2.4.6
# Question: does a function say the same under `numba.njit` as under numpy, for one element of an array?
# Guess: yes; numba follows numpy's rules of types.
# Happens: not those of numpy 2 (NEP 50). float32 0.7 reaches a threshold of 0.7 under numpy, which takes the literal to
#   float32, and does not under numba, which takes the element to float64. A difference of uint32 wraps at 2**32 under
#   numpy and at 2**64 under numba; sums of uint8 wrap, or do not.
# Here: scores are float32 and thresholds Python floats; kernels exist twice, compiled and as plain Python in tests.
# Live with it: give both sides a type: `np.float32(0.7)`, `np.int64(a) - np.int64(b)`; test kernels compiled.
# Source: seen here; numpy's rules: https://numpy.org/neps/nep-0050-scalar-promotion.html
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" numba==0.68.1 numpy==2.4.6

"$python" - <<'PY'
import warnings

import numba
import numpy as np

warnings.simplefilter("ignore", RuntimeWarning)  # numpy tells of the wrapped integers


def reaches(scores):
    return scores[0] >= 0.7


def difference(values):
    return values[0] - values[1]


def total(values):
    return values[0] + values[1] + values[2]


seen = {}
for function, values in (
    (reaches, np.array([0.7], np.float32)),
    (difference, np.array([3, 5], np.uint32)),
    (total, np.array([100, 100, 100], np.uint8)),
):
    plain, compiled = int(function(values)), int(numba.njit(function)(values))
    seen[function.__name__] = plain, compiled
    print(f"{function.__name__}({values}, {values.dtype}): numpy {plain}, numba {compiled}")
assert seen == {"reaches": (1, 0), "difference": (2**32 - 2, 2**64 - 2), "total": (44, 300)}
PY
