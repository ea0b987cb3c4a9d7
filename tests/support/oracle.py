"""What an uninterrupted run decides, computed offline by the kernels and the model alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.features.cards import CardHistory
from models.features.payments import PaymentFeatures
from models.features.terminals import TerminalHistory
from models.runner import FraudRunner
from streams.codecs import Limits, decode_labels, decode_transactions

NOW_MS = 4_000_000_000_000


class FraudOracle:
    """Scores and final state of payments in the order of each partition, all labels known to whom they are due.

    Attributes:
        scores: transaction_id -> score.
        places: transaction_id -> (partition, offset) of the input.
        digests: partition -> digest of the card state after its last record.
    """

    def __init__(self, transactions: Sequence[Any], labels: Sequence[Any] = (), artifact: Path | str = "") -> None:
        terminals, runner, limits = TerminalHistory(), FraudRunner.load(artifact, device="cpu"), Limits()
        known = decode_labels([m.value() for m in labels], now_ms=NOW_MS, limits=limits)
        terminals.add(known.terminal_ids, known.event_times, known.is_fraud)
        self.scores: dict[str, float] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.digests: dict[int, str] = {}
        for number in sorted({m.partition() for m in transactions}):
            cards = CardHistory()
            messages = [m for m in transactions if m.partition() == number]
            payments = decode_transactions([m.value() for m in messages], now_ms=NOW_MS, limits=limits)
            features = PaymentFeatures(cards, terminals).build(
                payments.card_ids, payments.terminal_ids, payments.event_times, payments.amounts
            )
            self.scores |= dict(zip(payments.transaction_ids, runner.score(features).tolist(), strict=True))
            for transaction_id, position in zip(payments.transaction_ids, payments.accepted.tolist(), strict=True):
                self.places.setdefault(transaction_id, (number, messages[position].offset()))
            self.digests[number] = cards.digest()


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


def assert_each_decided_rightly(decisions: Sequence[dict[str, Any]], oracle: FraudOracle) -> int:
    """Check that every payment is decided, with the oracle's score, repeats equal; return how many repeats there are."""
    by_id: dict[str, dict[str, Any]] = {}
    for decision in decisions:
        first = by_id.setdefault(decision["transaction_id"], decision)
        assert decision["decision_id"] == first["decision_id"]
        assert abs(decision["score"] - first["score"]) < 1e-5, (decision, first)
    missing = oracle.scores.keys() - by_id.keys()
    assert not missing, f"{len(missing)} payments were never decided: {sorted(missing)[:5]}"
    assert by_id.keys() == oracle.scores.keys()
    ids = list(by_id)
    got = np.array([by_id[i]["score"] for i in ids])
    want = np.array([oracle.scores[i] for i in ids])
    wrong = np.flatnonzero(np.abs(got - want) > 1e-5)
    assert not wrong.size, f"{wrong.size} scores differ, first {by_id[ids[wrong[0]]]} against {want[wrong[0]]}"
    return len(decisions) - len(by_id)
