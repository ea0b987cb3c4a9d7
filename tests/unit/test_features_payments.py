"""The fraud model's row of features, as training and serving build it."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import TrainingDataError
from models.features.cards import CARD_FEATURES, CardHistory
from models.features.payments import FRAUD_FEATURES, PAYMENT_FEATURES, PaymentFeatures, replay
from models.features.terminals import LABEL_DELAY_MS, TERMINAL_FEATURES, TerminalHistory

T0 = 1_700_000_000_000
DAY_MS = 86_400_000


def fresh() -> PaymentFeatures:
    return PaymentFeatures(CardHistory(), TerminalHistory())


def payments(n: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    return {
        "card_id": [f"c{i}" for i in rng.integers(0, 40, n)],
        "terminal_id": [f"t{i}" for i in rng.integers(0, 30, n)],
        "event_time": np.sort(rng.integers(T0, T0 + 50 * DAY_MS, n)),
        "amount": np.round(rng.gamma(2, 30, n), 2),
        "is_fraud": rng.random(n) < 0.1,
    }


@settings(deadline=None)
@given(st.integers(946_684_800_000, 4_102_444_800_000), st.floats(0, 1e9))
def test_payment_columns_tell_amount_and_hour(t: int, amount: float) -> None:
    """Night, weekend and the daily circle are those of the UTC calendar."""
    row = dict(zip(FRAUD_FEATURES, fresh().build(["c"], ["t"], np.array([t]), np.array([amount]))[0], strict=True))
    moment = datetime.fromtimestamp(t // 1000, UTC)
    assert row["is_night"] == (moment.hour < 7)
    assert row["is_weekend"] == (moment.isoweekday() >= 6)
    angle = (moment.hour * 60 + moment.minute) / 1440 * 2 * np.pi
    assert row["hour_sin"] == pytest.approx(np.sin(angle), abs=1e-6)
    assert row["hour_cos"] == pytest.approx(np.cos(angle), abs=1e-6)
    assert row["amount"] == np.float32(amount)
    assert row["amount_log"] == pytest.approx(np.log1p(amount), rel=1e-6)


def test_a_row_is_payment_then_card_then_terminal() -> None:
    """Columns stand in FRAUD_FEATURES order and equal what each history says by itself."""
    data = payments(500, seed=1)
    cards, terminals, times, amounts = data["card_id"], data["terminal_id"], data["event_time"], data["amount"]
    built, card_history, terminal_history = fresh(), CardHistory(), TerminalHistory()
    for history in (built.terminals, terminal_history):
        history.add(terminals, times - 2 * LABEL_DELAY_MS, data["is_fraud"])
    got = built.build(cards, terminals, times, amounts)
    assert got.dtype == np.float32 and got.shape == (500, len(FRAUD_FEATURES))
    assert FRAUD_FEATURES == PAYMENT_FEATURES + CARD_FEATURES + TERMINAL_FEATURES
    first = len(PAYMENT_FEATURES)
    middle = first + len(CARD_FEATURES)
    assert np.array_equal(got[:, first:middle], card_history.update(cards, times, amounts).astype(np.float32))
    assert np.array_equal(got[:, middle:], terminal_history.features(terminals, times).astype(np.float32))
    assert got[:, middle:].any()


def test_build_writes_into_the_matrix_it_is_given() -> None:
    """Rows of a larger matrix can be filled in place; the rest of it stays."""
    data = payments(10, seed=2)
    matrix = np.full((12, len(FRAUD_FEATURES)), -7, np.float32)
    columns = (data["card_id"], data["terminal_id"], data["event_time"], data["amount"])
    assert fresh().build(*columns, out=matrix[1:11]).base is matrix
    assert np.array_equal(matrix[1:11], fresh().build(*columns))
    assert (matrix[[0, 11]] == -7).all()


def test_replay_gives_what_a_worker_saw_whatever_the_batches() -> None:
    """Steps of any size give what one payment after the other gave, though labels come in later or sooner."""
    data = payments(3000, seed=3)
    features = fresh()
    expected = np.empty((3000, len(FRAUD_FEATURES)), np.float32)
    for k in range(3000):
        one = slice(k, k + 1)
        columns = [data[name][one] for name in ("card_id", "terminal_id", "event_time", "amount")]
        expected[one] = features.build(*columns)
        features.terminals.add(columns[1], columns[2], data["is_fraud"][one])
    assert expected[:, FRAUD_FEATURES.index("terminal_labelled_30d")].max() > 0
    for batch_records in (7, 2048, 3000):
        assert np.array_equal(replay(fresh(), data, batch_records), expected)


def test_replay_refuses_payments_out_of_order() -> None:
    """Labels 7 days late have a meaning only in time order."""
    data = payments(5, seed=4)
    data["event_time"] = np.array([T0, T0 + 1, T0 + 3, T0 + 2, T0 + 4])
    with pytest.raises(TrainingDataError, match=r"event_time\[3\]"):
        replay(fresh(), data)


def test_an_empty_batch_has_no_rows() -> None:
    """Nothing in, nothing out, nothing remembered."""
    features = fresh()
    assert features.build([], [], np.empty(0, np.int64), np.empty(0)).shape == (0, len(FRAUD_FEATURES))
    assert features.cards.snapshot(dirty_only=False) == []


def test_columns_of_different_lengths_are_a_programmer_error() -> None:
    """A shorter column is never read past its end."""
    two, three = np.zeros(2, np.int64), np.zeros(3)
    with pytest.raises(AssertionError):
        fresh().build(["a"] * 3, ["t"] * 3, two, three)
    with pytest.raises(AssertionError):
        fresh().build(["a"] * 3, ["t"] * 2, np.zeros(3, np.int64), three)
