#!/usr/bin/env bash
# Versions: prometheus_client 0.26.0
# Question: what does a histogram show after one observed NaN among good values?
# Guess: one more in the bucket +Inf and in the count, as `x <= +Inf` fails for no number that is observed.
# Happens: no bucket and not the count, but the sum is NaN from then on, until the process ends. Mean and rate of a metric
#   that counts correctly are NaN for ever.
# Here: a score that is NaN would take the mean of all later scores along.
# Live with it: never observe what may be NaN; check before, and count such values in a counter of their own.
# Source: seen here; the same question for Go: https://github.com/prometheus/client_golang/issues/1275
# Date: 2026-11-28
set -euo pipefail
source "$(dirname "$0")/lib/packages.sh" prometheus_client==0.26.0

"$python" - <<'PY'
import math

from prometheus_client import CollectorRegistry, Histogram

registry = CollectorRegistry()
scores = Histogram("score", "Scores.", buckets=(0.5, 1.0), registry=registry)
for value in (0.1, math.nan, 0.9):
    scores.observe(value)
seen = {
    "+Inf": registry.get_sample_value("score_bucket", {"le": "+Inf"}),
    "count": registry.get_sample_value("score_count"),
    "sum": registry.get_sample_value("score_sum"),
}
print(f"3 observations: {seen}")
assert seen["+Inf"] == seen["count"] == 2 and math.isnan(seen["sum"])
PY
