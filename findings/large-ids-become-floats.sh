#!/usr/bin/env bash
# Versions: numpy 2.4.6, pyarrow 26.0.1, orjson 3.13.0, msgspec 0.22.0, xxhash 4.1.0
# Question: what becomes of integer ids above 2**63, such as 64-bit hashes?
# Guess: an unsigned type, a Python integer, or an error.
# Happens: floats, without a word, so that neighbours become equal. numpy makes float64 of a list that holds one id below
#   2**63 and one above. It compares signed and unsigned columns as float64 in `searchsorted`, which finds another id's
#   place. pyarrow infers double for such a CSV column. orjson does so above 2**64. msgspec keeps every digit.
# Here: ids of foreign files may be hashes; two cards would share one history.
# Live with it: name the type (`dtype=np.uint64`, pyarrow `column_types`), or read ids as text, as the replay does with CSV.
# Source: seen here
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" numpy==2.4.6 pyarrow==26.0.1 orjson==3.13.0 msgspec==0.22.0 xxhash==4.1.0

"$python" - <<'PY'
import io

import msgspec
import numpy as np
import orjson
import pyarrow.csv
import xxhash

hashes = [xxhash.xxh64_intdigest(f"card-{number}".encode()) for number in range(100)]
column = np.array(hashes)
wrong = sum(int(stored) != true for stored, true in zip(column, hashes, strict=True))
print(f"np.array of 100 hashes: {column.dtype}, {wrong} changed; with dtype=np.uint64 "
      f"{sum(int(stored) != true for stored, true in zip(np.array(hashes, np.uint64), hashes, strict=True))}")
known = np.array([2**53, 2**53 + 1, 2**53 + 2])
place = int(np.searchsorted(known, np.uint64(2**53 + 1)))
print(f"np.searchsorted finds the second of three signed ids at {place} when asked by an unsigned one")
table = pyarrow.csv.read_csv(io.BytesIO(b"id\n9223372036854775808\n9223372036854775809\n"))
distinct = len(set(table["id"].to_pylist()))
print(f"pyarrow CSV: {table.schema.field('id').type}, {distinct} distinct of 2 ids")
document = b"[18446744073709551616,18446744073709551617]"
by_orjson, by_msgspec = orjson.loads(document), msgspec.json.decode(document)
print(f"orjson {by_orjson}, msgspec {by_msgspec}")
assert column.dtype == np.float64 and wrong > 90 and place == 0
assert str(table.schema.field("id").type) == "double" and distinct == 1
assert by_orjson[0] == by_orjson[1] and by_msgspec == [2**64, 2**64 + 1]
PY
