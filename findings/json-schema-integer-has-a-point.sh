#!/usr/bin/env bash
# Versions: jsonschema 4.26.0, msgspec 0.22.0
# Question: does a document that a schema made by `msgspec.json.schema` accepts decode by the type that it was made of?
# Guess: yes, it says the same in other words.
# Happens: 1.0 and 1e3 are integers to JSON Schema (a number without a fraction), and msgspec refuses them for `int`.
# Here: a producer who validates against the published contract may still see its records on `dead-letters`.
# Live with it: tell producers to write integers without point and exponent; the schema alone cannot say so.
# Source: https://json-schema.org/understanding-json-schema/reference/numeric (integer)
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" jsonschema==4.26.0 msgspec==0.22.0

"$python" - <<'PY'
import json

import jsonschema
import msgspec


class Event(msgspec.Struct):
    time_ms: int


schema = msgspec.json.schema(Event)
seen = {}
for number in ("1000", "1000.0", "1e3", "1000.5"):
    document = f'{{"time_ms": {number}}}'
    valid = jsonschema.Draft202012Validator(schema).is_valid(json.loads(document))
    try:
        msgspec.json.decode(document, type=Event)
        decoded = True
    except msgspec.ValidationError:
        decoded = False
    seen[number] = valid, decoded
    print(f"{number:>6}: schema {valid}, msgspec {decoded}")
assert seen == {"1000": (True, True), "1000.0": (True, False), "1e3": (True, False), "1000.5": (False, False)}
PY
