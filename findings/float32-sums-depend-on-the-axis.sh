#!/usr/bin/env bash
# Versions: numpy 2.4.6, numba 0.68.1
# Question: what is the sum of 16,778,216 float32 ones, and the mean of a column of them?
# Guess: 16,778,216 (numpy sums pairwise), and 1.
# Happens: so for an array of one dimension. Down the columns of a table numpy adds row by row, and a float32 stops growing
#   at 2**24: the mean of ones is 0.99994. numba's `sum` adds one by one in every case.
# Here: means of feature columns, over tables of tens of millions of payments, scale what the model sees.
# Live with it: `mean(axis=0, dtype=np.float64)` and `std` so, as `models/fraud/network.py` does; float64 in kernels.
# Source: https://numpy.org/doc/stable/reference/generated/numpy.sum.html (notes)
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" numba==0.68.1 numpy==2.4.6

"$python" - <<'PY'
import numba
import numpy as np

rows = 2**24 + 1000
column = np.ones(rows, np.float32)
table = np.ones((rows, 2), np.float32)


@numba.njit
def summed(values):
    return values.sum()


flat, by_axis, compiled = float(column.sum()), float(table.sum(axis=0)[0]), float(summed(column))
means = float(table.mean(axis=0)[0]), float(table.mean(axis=0, dtype=np.float64)[0])
print(f"rows {rows}; sum of a column by itself {flat:.0f}, down a table {by_axis:.0f}, numba {compiled:.0f}")
print(f"mean of ones down a table {means[0]:.6f}, with dtype=float64 {means[1]:.6f}")
assert flat == rows and by_axis == compiled == 2**24
assert means[0] < 1 and means[1] == 1
PY
