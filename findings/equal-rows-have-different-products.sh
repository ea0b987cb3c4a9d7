#!/usr/bin/env bash
# Versions: numpy 2.4.6 (its OpenBLAS)
# Question: a batch holds the same row many times; are the products with a matrix the same, and that of the row alone?
# Guess: at least within one batch: each row is multiplied by the same numbers in the same order.
# Happens: the row alone is another sum than the row in a batch. And within one batch equal rows differ by their place,
#   since the rows at the end of a tile take another loop (on processors with AVX2 or later; the script prints both).
# Here: a payment's score would depend on who came with it, and a repeat after a crash would score otherwise.
# Live with it: score in padded chunks of one shape and compare with a tolerance where the place may change. A score that
#   must repeat to the bit needs the same place, too, or a loop of its own.
# Source: seen here
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" numpy==2.4.6

"$python" - <<'PY'
import numpy as np

draw = np.random.default_rng(0)
weights = draw.standard_normal((61, 37)).astype(np.float32)
row = draw.standard_normal((1, 61)).astype(np.float32)
alone = (row @ weights)[0]
differs = []
for count in (1, 2, 7, 16, 17, 100, 1000):
    products = np.tile(row, (count, 1)) @ weights
    distinct = len(np.unique(products, axis=0))
    differs.append(bool((products[0] != alone).any()))
    gap = float(np.abs(products - alone).max())
    print(f"{count:>4} equal rows: {distinct} distinct products, at most {gap:.1e} from the row alone")
assert not differs[0] and all(differs[1:])
PY
