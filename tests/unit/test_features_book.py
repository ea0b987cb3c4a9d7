"""The features of the Fraud Detection Handbook, built by the kernels that serve, against the Handbook's own."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.features.cards import CARD_FEATURES, CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import TERMINAL_FEATURES, TerminalHistory

DATA = Path(__file__).parents[3] / "shared" / "data" / "fraud"
DAYS = (1, 7, 30)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the Handbook's payments are not in {DATA}")
def test_the_books_fourteen_features_come_out_of_the_kernels_that_serve() -> None:
    """All 1.5 million rows, with terminal windows to the millisecond.

    Twelve rows differ: six cards paid twice in one second. Ours takes the two in the order of their ids, the book's sort
    has swapped them, so that each has the other's windows.
    """
    table, book = pq.read_table(DATA / "transactions.parquet"), pq.read_table(DATA / "book_features.parquet")
    assert table["tx_id"].equals(book["tx_id"])
    columns = {
        "card_id": [str(customer) for customer in table["customer"].to_pylist()],
        "terminal_id": [str(terminal) for terminal in table["terminal"].to_pylist()],
        "event_time": table["ts"].cast("int64").to_numpy().copy(),
        "amount": table["amount"].to_numpy().copy(),
        "is_fraud": table["fraud"].to_numpy().astype(np.bool_),
    }
    got = replay(PaymentFeatures(CardHistory(), TerminalHistory(granularity_ms=1)), columns)

    def ours(name: str) -> np.ndarray:
        return got[:, FRAUD_FEATURES.index(name)]

    def books(name: str) -> np.ndarray:
        return book[name].to_numpy()

    assert {f"card_count_{days}d" for days in DAYS} < set(CARD_FEATURES)
    assert {f"terminal_risk_{days}d" for days in DAYS} < set(TERMINAL_FEATURES)
    assert np.array_equal(ours("is_weekend"), books("TX_DURING_WEEKEND"))
    assert np.array_equal(ours("is_night"), books("TX_DURING_NIGHT"))
    paid = np.stack([table["customer"].to_numpy().astype(np.int64), columns["event_time"]])
    _, place, payments = np.unique(paid, axis=1, return_inverse=True, return_counts=True)
    alone = payments[place.ravel()] == 1
    for days in DAYS:
        count, mean = books(f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"), books(f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW")
        same = ours(f"card_count_{days}d") == count
        assert same[alone].all() and (~same).sum() == 12
        np.testing.assert_allclose(ours(f"card_mean_{days}d")[alone], mean[alone], rtol=1e-5, atol=1e-4)
        count, risk = books(f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"), books(f"TERMINAL_ID_RISK_{days}DAY_WINDOW")
        assert np.array_equal(ours(f"terminal_labelled_{days}d"), count)
        np.testing.assert_allclose(ours(f"terminal_risk_{days}d"), risk, atol=1e-6)
