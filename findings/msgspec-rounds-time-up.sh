#!/usr/bin/env bash
# Versions: msgspec 0.22.0, pyarrow 26.0.1, numpy 2.4.6, Python's datetime
# Question: which moment is "00:59:59.9999999Z", seven digits, as Go and .NET write them?
# Guess: 00:59:59.999999; what does not fit into microseconds is cut, and the hour stays.
# Happens: msgspec rounds to the nearest microsecond, here to 01:00:00, another hour. Python and numpy cut. pyarrow reads
#   the text as nanoseconds and refuses it as microseconds. At the end of year 9999 msgspec refuses what Python reads.
# Here: windows and label hours are cut at whole hours; the same file can fall on two sides of one, by the way it is read.
# Live with it: compare event times to the millisecond at most, and decide the hour in one place, after decoding.
# Source: https://github.com/msgspec/msgspec/pull/201
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" msgspec==0.22.0 pyarrow==26.0.1 numpy==2.4.6

"$python" - <<'PY'
import datetime
import json

import msgspec
import numpy as np
import pyarrow as pa

text = "2026-01-01T00:59:59.9999999Z"
by_msgspec = msgspec.json.decode(json.dumps(text), type=datetime.datetime)
by_python = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
by_numpy = np.datetime64(text.removesuffix("Z"), "us")
by_pyarrow = pa.array([text]).cast(pa.timestamp("ns", "UTC"))[0].value
try:
    pa.array([text]).cast(pa.timestamp("us", "UTC"))
    refused = False
except pa.ArrowInvalid:
    refused = True
print(f"msgspec {by_msgspec}\nPython  {by_python}\nnumpy   {by_numpy}\npyarrow {by_pyarrow} ns, as us refused: {refused}")
assert by_msgspec.isoformat() == "2026-01-01T01:00:00+00:00"
assert by_python.isoformat() == "2026-01-01T00:59:59.999999+00:00"
assert str(by_numpy) == "2026-01-01T00:59:59.999999"
assert by_pyarrow % 1_000_000_000 == 999_999_900 and refused
PY
