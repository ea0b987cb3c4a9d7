"""The oracle of the integration tests does tell: lost, repeated, disordered and wrong decisions are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from tests.support.oracle import FraudOracle, repeats_of_right_decisions
from tests.support.traffic import payments


@dataclass(frozen=True)
class Record:
    """What a consumer hands out, as far as the oracle looks."""

    number: int
    text: bytes
    body: dict[str, Any]
    place: int = 0

    def offset(self) -> int:
        return self.place

    def partition(self) -> int:
        return self.number

    def key(self) -> bytes:
        return self.text

    def value(self) -> bytes:
        return orjson.dumps(self.body)

    def with_body(self, **changes: Any) -> Record:
        return replace(self, body=self.body | changes)


def partition_of(card: str) -> int:
    return sum(card.encode()) % 2


@pytest.fixture(scope="module")
def oracle() -> FraudOracle:
    events, _ = payments(300, cards=20)
    records = [Record(partition_of(e["card_id"]), e["card_id"].encode(), e, place) for place, e in enumerate(events)]
    return FraudOracle(sorted(records, key=Record.partition))


@pytest.fixture
def decisions(oracle: FraudOracle) -> list[Record]:
    """What a faultless worker makes, the cards of a partition one after the other."""
    return [
        Record(
            number,
            card.encode(),
            {
                "decision_id": f"{name}@{oracle.model_version[:12]}",
                "transaction_id": name,
                "card_id": card,
                "score": oracle.scores[name],
                "model_version": oracle.model_version,
            },
        )
        for (number, card), names in oracle.order.items()
        for name in names
    ]


def test_right_decisions_pass_and_repeats_are_counted(oracle: FraudOracle, decisions: list[Record]) -> None:
    """A repeat is no fault of its own: the caller decides how many are allowed."""
    assert repeats_of_right_decisions(decisions, oracle) == 0
    assert repeats_of_right_decisions(decisions + decisions[:7], oracle) == 7
    assert repeats_of_right_decisions([each for each in decisions for _ in range(2)], oracle) == 300


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: d[::-1], id="reversed"),
        pytest.param(lambda d: d[1:], id="lost"),
        pytest.param(lambda d: [d[1], d[0], *d[2:]], id="two of a card swapped"),
        pytest.param(lambda d: [d[0].with_body(score=d[0].body["score"] + 1e-4), *d[1:]], id="another score"),
        pytest.param(lambda d: [*d, d[0].with_body(score=d[0].body["score"] + 1e-4)], id="a repeat with another score"),
        pytest.param(lambda d: [d[0].with_body(model_version="0" * 64), *d[1:]], id="another model"),
        pytest.param(lambda d: [d[0].with_body(decision_id="x"), *d[1:]], id="another decision_id"),
        pytest.param(lambda d: [*d, d[0].with_body(transaction_id="x")], id="nobody's payment"),
        pytest.param(lambda d: [replace(d[0], number=1 - d[0].number), *d[1:]], id="another partition"),
        pytest.param(lambda d: [replace(d[0], text=b"x"), *d[1:]], id="another key"),
    ],
)
def test_wrong_decisions_are_seen(
    oracle: FraudOracle, decisions: list[Record], damage: Callable[[list[Record]], list[Record]]
) -> None:
    """Each kind of damage to one decision among 300 fails."""
    with pytest.raises(AssertionError):
        repeats_of_right_decisions(damage(decisions), oracle)
