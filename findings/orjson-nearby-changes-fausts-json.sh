#!/usr/bin/env bash
# Versions: faust-streaming 0.15.3, orjson 3.13.0
# Question: what changes in the records of a Faust application when another package brings orjson along?
# Guess: nothing, or the speed.
# Happens: Faust takes orjson wherever it can be imported, and writes other bytes: a key "é" as UTF-8 in place of \u00e9,
#   hence another partition; dates as "2026-01-01" in place of "2026-01-01T00:00:00"; NaN as null. Reading, an integer
#   above 64 bits becomes a float, and NaN an error.
# Here: the worker needs orjson itself, so its Faust speaks that dialect; a foreign Faust application on the same topics
#   may speak the other.
# Live with it: pin orjson, in or out, for all applications of a topic; encode keys and values oneself (bytes).
# Source: seen here; faust/utils/json.py
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" faust-streaming==0.15.3

cat >"$scratch/dialect.py" <<'PY'
import datetime
import json

from faust.utils.json import dumps, loads


def text(value):
    written = dumps(value)
    return written if isinstance(written, str) else written.decode()


def read(document):
    try:
        return str(loads(document))
    except ValueError:
        return "error"


print(json.dumps({
    "key": text("é"),
    "date": text(datetime.date(2026, 1, 1)),
    "nan": text(float("nan")),
    "read id": read("18446744073709551616"),
    "read nan": read("NaN"),
}))
PY
without=$("$python" "$scratch/dialect.py")
"$python" -m pip install --quiet --disable-pip-version-check orjson==3.13.0
with=$("$python" "$scratch/dialect.py")
"$python" - "$without" "$with" <<'PY'
import json
import sys

without, with_it = map(json.loads, sys.argv[1:])
for name in without:
    print(f"{name:>8}: without orjson {without[name]}, with it {with_it[name]}")
assert list(without.values()) == ['"\\u00e9"', '"2026-01-01T00:00:00"', "NaN", "18446744073709551616", "nan"]
assert list(with_it.values()) == ['"é"', '"2026-01-01"', "null", "1.8446744073709552e+19", "error"]
PY
