"""The README's pair of a payment and its decision: made by the job and the model that ship."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from models.fraud.runner import FraudRunner
from streams.agents.fraud import FraudJob, FraudModel
from streams.policy.thresholds import Thresholds
from tests.support.jobs import Bench

README = Path(__file__).parents[2] / "README.md"
# The first payment of a card that has no history, at a terminal that has none.
PAYMENT = {"transaction_id": "tx-1", "card_id": "card-42", "terminal_id": "terminal-7", "amount": 2400.0}
MOMENT = ("decided_at", "timings")  # of the run, not of the payment


def decide(payment: dict[str, Any]) -> dict[str, Any]:
    """Return the decision of one payment, by the shipped model and its own thresholds."""
    runner = FraudRunner.load(device="cpu")
    runner.warm_up()
    thresholds = Thresholds(runner.thresholds["review"], runner.thresholds["decline"])
    for _ in range(2):  # the first compiles
        bench = Bench(FraudJob, runner)
        bench.slot.swap(FraudModel(runner, thresholds))
        (decision,), letters = bench.send([payment])
        assert not letters
    return decision


def shown() -> list[dict[str, Any]]:
    """Return the objects that the README shows."""
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", README.read_text(), re.M | re.S)]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two decisions are equal but for their moment, and for what processors differ in."""
    timeless = [{key: value for key, value in each.items() if key not in MOMENT} for each in (one, other)]
    shares = [{reason["feature"]: reason["contribution"] for reason in each.pop("reasons")} for each in timeless]
    score, expected = (each.pop("score") for each in timeless)
    confidence, sure = (each.pop("confidence") for each in timeless)
    return (
        timeless[0] == timeless[1]
        and list(shares[0]) == list(shares[1])
        and shares[0] == pytest.approx(shares[1], abs=1e-3)
        and (score, confidence) == pytest.approx((expected, sure), abs=1e-4)
    )


def example() -> str:
    """Return the two blocks: those that stand there while they are right, else a new pair."""
    pair = shown()
    if len(pair) != 2 or not same(decide(pair[0]), pair[1]):
        payment = {**PAYMENT, "event_time": int(time.time() * 1000)}
        pair = [payment, decide(payment)]
    payment, decision = pair
    return f"```json\n{json.dumps(payment)}\n```\n\n```json\n{compact(decision)}\n```"


def compact(value: dict[str, Any]) -> str:
    """Return JSON of few lines: a field a line, as many as fit where they are short."""
    lines, line = [], ""
    for key, field in value.items():
        text = f"{json.dumps(key)}: {json.dumps(field)}"
        if key == "reasons":
            text = '"reasons": [\n    ' + ",\n    ".join(map(json.dumps, field)) + "\n  ]"
        if line and (len(line) + len(text) > 104 or key == "reasons" or line.endswith("]")):
            lines.append(line)
            line = ""
        line = f"{line}, {text}" if line else text
    return "{\n  " + ",\n  ".join([*lines, line]) + "\n}"
