"""`streams demo` on its own Kafka: events and labels flow, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import psutil
import pytest

from streams.commands.demo import DAY_MS, HOUR_MS, LABEL_DELAY_MS
from streams.replaying import simulated
from tests.support.workers import read_topic

pytestmark = pytest.mark.kafka

SEED = 3
HISTORY_DAYS, DURATION_S = 8, 6  # a label comes 7 days after its payment: less history has none


def check_labels(servers: str) -> None:
    """Check the labels of a running demo: the simulator's, for the payments up to 7 days before the newest and no later."""
    messages = read_topic({"bootstrap.servers": servers}, "transaction-labels")
    found = [
        (label["transaction_id"], label["event_time"], label["is_fraud"])
        for label in (orjson.loads(message.value()) for message in messages)
    ]
    assert found, "the demo has sent no labels"
    simulated_labels = {
        labelled
        for block in simulated.payments(SEED, limit=2 * len(found))
        for labelled in zip(block.fields["transaction_id"], block.event_time.tolist(), block.labels or (), strict=True)
    }
    assert len(found) == len(set(found)) and simulated_labels.issuperset(found)
    # Labels fall due by the hour of event time. After the history 100 payments a second take less than an hour of it.
    due_ms = simulated.START_MS + HISTORY_DAYS * DAY_MS - LABEL_DELAY_MS
    assert {each for each in simulated_labels if each[1] < due_ms - HOUR_MS}.issubset(found)
    assert max(event_time for _, event_time, _ in found) < due_ms + DURATION_S * HOUR_MS
    assert any(is_fraud for _, _, is_fraud in found)


@pytest.mark.parametrize(
    "end",
    [None, *(pytest.param(end, marks=pytest.mark.trial) for end in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
)
def test_demo_leaves_nothing_running(end: signal.Signals | None, tmp_path: Path) -> None:
    """Events and labels flow from the demo's own Kafka to decisions; however it ends, its broker and workers end."""
    environment = {**os.environ, "STREAMS_BOOTSTRAP_SERVERS": "", "STREAMS_CONFIG": "", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-u", "-c", "from streams.commands import main; main()", "demo", "--rate", "200"]
    history_days, duration_s = (HISTORY_DAYS, DURATION_S) if end is None else (1, 300)
    command += ["--seed", str(SEED), "--history-days", str(history_days), "--duration", str(duration_s)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        output = ""
        children: list[psutil.Process] = []
        for line in process.stdout:
            output += line
            if " live " in line and not children:
                children = psutil.Process(process.pid).children(recursive=True)
                if end is None:
                    check_labels(output.partition("Apache Kafka at ")[2].partition(",")[0])
                else:
                    process.send_signal(end)
        code = process.wait(60)
    expected = {None: 0, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[end]
    assert code == expected, output
    assert len(children) >= 4, output  # broker, worker, a supervisor each
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    if end is None:
        lines = dict(
            line.split(maxsplit=1) for line in output.splitlines() if line.startswith(("lost", "repeated", "events"))
        )
        assert (lines["lost"], lines["repeated"]) == ("0", "0")
    if end is not signal.SIGKILL:
        assert not list(tmp_path.glob("streams-demo-*"))
