"""`streams bench` as people call it: real workers on a real Kafka, and the picture of what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.commands import main

pytestmark = pytest.mark.kafka


@pytest.mark.alone
def test_a_sweep_measures_each_rate_and_is_drawn(kafka: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Throughput and each rate give a row without a loss; the plot has a point for each, and names both."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("STREAMS_CONFIG", "")
    rows, picture = tmp_path / "sweep.jsonl", tmp_path / "sweep.svg"
    sweep = ["bench", "sweep", "--rates", "400", "--events", "20000", "--seconds", "2", "--warm-up", "1"]
    refused = CliRunner().invoke(main, sweep)
    assert refused.exit_code == 2 and "give --recreate-topics" in refused.output

    result = CliRunner().invoke(main, [*sweep, "--recreate-topics", "--json", str(rows)])
    assert result.exit_code == 0, result.output
    throughput, latency = map(json.loads, rows.read_text().splitlines())
    assert (throughput["mode"], throughput["events"], throughput["lost"]) == ("throughput", 20_000, 0)
    assert (latency["mode"], latency["rate"], latency["events"], latency["lost"]) == ("latency", 400.0, 800, 0)

    result = CliRunner().invoke(main, ["bench", "plot", str(rows), "-o", str(picture)])
    assert result.exit_code == 0, result.output
    words = re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text())
    assert f"throughput {throughput['events_per_second']:,.0f}/s, exactly once" in words
    assert {"p50, exactly once", "p99, exactly once", "p99.9, exactly once"} <= set(words)
