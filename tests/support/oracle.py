"""What an uninterrupted run decides, computed offline by the kernels and the model alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.features.cards import CardHistory
from models.features.payments import PaymentFeatures
from models.features.terminals import TerminalHistory
from models.fraud.runner import FraudRunner
from streams.contract.columns import Limits
from streams.contract.decoding import decode_labels, decode_transactions

NOW_MS = 4_000_000_000_000


class FraudOracle:
    """Scores and final state of payments in the order of each partition, all labels known to whom they are due.

    Args:
        transactions: records of `transactions`, those of a partition in its order; of a repeated one the first counts.
        labels: records of `transaction-labels`, in any order.
        artifact: folder of the model; empty: the one that ships.

    Attributes:
        scores: transaction_id -> score.
        places: transaction_id -> (partition, offset) of the input.
        digests: partition -> digest of the card state after its last record.
    """

    def __init__(self, transactions: Sequence[Any], labels: Sequence[Any] = (), artifact: Path | str = "") -> None:
        terminals, runner, limits = TerminalHistory(), FraudRunner.load(artifact, device="cpu"), Limits()
        known = decode_labels([m.value() for m in labels], now_ms=NOW_MS, limits=limits)
        terminals.add(known.terminal_ids, known.event_times, known.is_fraud)
        self.model_version = runner.version
        self.scores: dict[str, float] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.order: dict[tuple[int, str], list[str]] = defaultdict(list)  # of the payments of a partition's card
        self.digests: dict[int, str] = {}
        for number in sorted({m.partition() for m in transactions}):
            cards = CardHistory()
            messages = [m for m in transactions if m.partition() == number]
            payments = decode_transactions([m.value() for m in messages], now_ms=NOW_MS, limits=limits)
            payments = payments.without(repeats(payments.card_ids, payments.transaction_ids))
            features = PaymentFeatures(cards, terminals).build(
                payments.card_ids, payments.terminal_ids, payments.event_times, payments.amounts
            )
            self.scores |= dict(zip(payments.transaction_ids, runner.score(features).tolist(), strict=True))
            for transaction_id, position in zip(payments.transaction_ids, payments.accepted.tolist(), strict=True):
                self.places[transaction_id] = (number, messages[position].offset())
            for name, card in zip(payments.transaction_ids, payments.card_ids, strict=True):
                self.order[number, card].append(name)
            self.digests[number] = cards.digest()


def repeats(cards: Sequence[str], ids: Sequence[str]) -> NDArray[np.bool_]:
    """Return bool[B]: which payments came before, under the same card; tests end within the horizon."""
    first = {pair: number for number, pair in reversed(list(enumerate(zip(cards, ids, strict=True))))}
    return np.array([first[pair] != number for number, pair in enumerate(zip(cards, ids, strict=True))], bool)


def checkpointed_digests(state: Sequence[Any]) -> dict[int, str]:
    """Return the digest of each partition's rows in a state topic, the last row of each key counting."""
    digests = {}
    for number in sorted({m.partition() for m in state}):
        rows: dict[bytes, bytes] = {}
        for message in state:
            if message.partition() == number and message.key()[:2] == b"r0":  # cards; their ids are behind 1
                if message.value() is None:
                    rows.pop(message.key()[2:], None)
                else:
                    rows[message.key()[2:]] = message.value()
        cards = CardHistory()
        cards.load_many(list(rows.items()))
        digests[number] = cards.digest()
    return digests


def repeats_of_right_decisions(decisions: Sequence[Any], oracle: FraudOracle) -> int:
    """Check decisions against an uninterrupted run, and return how many of them repeat an earlier one.

    Every payment is decided, by the one model and with the oracle's score to the last bit, also where it is repeated. A
    decision has the key and the partition number of its payment, and the first decisions of a card stand in the order of
    its payments.

    Args:
        decisions: records of `fraud-decisions`, those of a partition in its order.
    """
    first: dict[str, Any] = {}
    order: dict[tuple[int, str], list[str]] = defaultdict(list)
    for message in decisions:
        decision = orjson.loads(message.value())
        name, card = decision["transaction_id"], decision["card_id"]
        assert name in oracle.scores, f"nobody asked for this decision: {decision}"
        score = oracle.scores[name]
        assert np.float32(decision["score"]) == np.float32(score), f"expected score {score}, got {decision}"
        assert decision["model_version"] == oracle.model_version, f"expected {oracle.model_version}, got {decision}"
        assert decision["decision_id"] == f"{name}@{oracle.model_version[:12]}"
        assert message.key() == card.encode()
        if name not in first:
            first[name] = decision
            order[message.partition(), card].append(name)
    missing = oracle.scores.keys() - first.keys()
    assert not missing, f"{len(missing)} payments were never decided: {sorted(missing)[:5]}"
    for place, names in oracle.order.items():
        assert order[place] == names, f"partition and card {place}: expected the order {names}, got {order[place]}"
    return len(decisions) - len(first)
