"""Training: repeatable, point in time, and clear about data that it cannot use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.artifacts import load_artifact
from models.errors import TrainingDataError
from models.features.cards import CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import TerminalHistory
from models.fraud.network import FraudModel
from models.fraud.runner import FraudRunner
from models.recommender.examples import Sessions, prefixes
from models.recommender.runner import RecommenderRunner
from models.simulator.blocks import DAY_MS
from models.simulator.clicks import simulate_clicks
from models.simulator.payments import simulate_payments
from models.training import fraud, recommender, sequence
from models.training.reproducible import reproducible

pytestmark = pytest.mark.usefixtures("few_epochs")


@pytest.fixture(scope="module")
def payments():
    return dict(simulate_payments(25_000, seed=5, cards=170, terminals=85))


@pytest.fixture(scope="module")
def trained(payments, tmp_path_factory):
    """Folder and metrics of a model trained on the payments."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, fraud.train(folder, columns=payments)


@pytest.fixture(scope="module")
def clicks():
    return dict(simulate_clicks(2_500, seed=5, items=200))


def without(columns, name):
    return {key: column for key, column in columns.items() if key != name}


def test_fraud_training_is_repeatable_and_its_artifact_runs(tmp_path, payments, trained):
    """One seed, one version; another seed, another; global random state and threads stay as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    stages = []
    folder, first = trained
    again = fraud.train(tmp_path / "b", columns=payments, progress=lambda stage, done: stages.append((stage, done)))
    other = fraud.train(tmp_path / "c", columns=payments, seed=8)
    version = load_artifact(folder).version
    assert version == load_artifact(tmp_path / "b").version != load_artifact(tmp_path / "c").version
    assert first == again != other
    assert 0.5 < first["auc"] <= 1
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert [done for _, done in stages] == sorted(done for _, done in stages) and 0 <= stages[0][1] < stages[-1][1] <= 1
    runner = FraudRunner.load(folder, device="cpu")
    assert runner.version == version
    assert 0 < runner.thresholds["review"] <= runner.thresholds["decline"] <= 1
    assert version in (folder / "README.md").read_text(encoding="utf-8")


def test_fraud_training_does_not_need_the_columns_in_order(tmp_path, payments, trained):
    """Payments are taken in event-time order, however they come."""
    order = np.random.default_rng(0).permutation(len(payments["event_time"]))
    shuffled = {
        name: column[order] if isinstance(column, np.ndarray) else [column[place] for place in order]
        for name, column in payments.items()
    }
    assert fraud.train(tmp_path, columns=shuffled)["auc"] == pytest.approx(trained[1]["auc"], abs=0.02)


def test_fraud_parts_are_a_label_delay_apart(payments):
    """No part's labels are younger than the next part's first payment allows."""
    parts = fraud._split(payments["event_time"], payments["is_fraud"])
    times = payments["event_time"]
    train, validation, test = parts["train"], parts["validation"], parts["test"]
    assert times[validation.start] - times[train.stop - 1] >= 7 * DAY_MS
    assert times[test.start] - times[validation.stop - 1] >= 7 * DAY_MS
    assert test.stop == len(times)


def test_pattern_is_never_a_feature(tmp_path, payments, trained):
    """What explains the label must not reach the model: the weights are the same without it."""
    fraud.train(tmp_path, columns=without(payments, "pattern"))
    assert load_artifact(tmp_path).version == load_artifact(trained[0]).version
    assert not {"pattern", "is_fraud"} & set(FRAUD_FEATURES)


@pytest.mark.parametrize("name", fraud.COLUMNS)
def test_missing_payment_column_is_named(tmp_path, payments, name):
    """The error names the column to add."""
    with pytest.raises(TrainingDataError, match=f"got no {name}"):
        fraud.train(tmp_path, columns=without(payments, name))


def test_payments_that_teach_nothing_are_refused(tmp_path, payments):
    """No payments, one class, too short a span, unequal lengths, amounts that are no numbers."""
    empty = {name: column[:0] for name, column in payments.items()}
    genuine = {**payments, "is_fraud": np.zeros_like(payments["is_fraud"])}
    short = {name: column[:2_000] for name, column in payments.items()}
    uneven = {**payments, "amount": payments["amount"][:-1]}
    broken = {**payments, "amount": np.where(np.arange(len(payments["amount"])) == 3, np.nan, payments["amount"])}
    for columns, message in (
        (empty, "got none"),
        (genuine, "got 0 frauds"),
        (short, "over a longer time"),
        (uneven, "expected one length"),
        (broken, "finite"),
    ):
        with pytest.raises(TrainingDataError, match=message):
            fraud.train(tmp_path, columns=columns)


@pytest.fixture(scope="module")
def replayed(payments):
    """The payments in order and their features."""
    table = fraud.ordered(payments)
    return table, replay(PaymentFeatures(CardHistory(), TerminalHistory()), table)


def test_training_until_a_moment_looks_at_nothing_later(tmp_path, replayed):
    """Other labels, amounts and features from the moment on give the same artifact; one label before it, another."""
    table, features = replayed
    moment = int(table["event_time"][0]) + 80 * DAY_MS
    known = int(np.searchsorted(table["event_time"], moment))
    assert 0 < known < len(features)
    artifact = fraud.train_until(tmp_path / "a", table, features, moment)
    assert FraudRunner(artifact, "cpu").score(features[known:]).std() > 0
    assert set(artifact.section("split")) == {"train", "validation"}
    later = np.arange(len(features)) >= known
    changed = {**table, "is_fraud": np.where(later, ~table["is_fraud"], table["is_fraud"])}
    blind = np.where(later[:, None], np.float32(1e6), features)
    assert fraud.train_until(tmp_path / "b", changed, blind, moment).version == artifact.version
    changed["is_fraud"][known - 1] ^= True
    assert fraud.train_until(tmp_path / "c", changed, features, moment).version != artifact.version


def test_a_moment_before_which_nothing_can_be_learned_is_refused(tmp_path, replayed):
    """The error names the part that lacks frauds, or says that the time is too short."""
    table, features = replayed
    first = int(table["event_time"][0])
    genuine = {**table, "is_fraud": np.zeros_like(table["is_fraud"])}
    for columns, moment, message in (
        (table, first, "expected payments, got none"),
        (table, first + 5 * DAY_MS, "over a longer time"),
        (genuine, first + 80 * DAY_MS, "got 0 frauds"),
    ):
        with pytest.raises(TrainingDataError, match=message):
            fraud.train_until(tmp_path, columns, features, moment)


def test_recommender_training_is_repeatable_and_its_artifact_runs(tmp_path, clicks):
    """One seed, one version, and better than popularity after seconds."""
    first = recommender.train(tmp_path / "a", columns=clicks)
    again = recommender.train(tmp_path / "b", columns=clicks)
    assert first == again
    version = load_artifact(tmp_path / "a").version
    assert version == load_artifact(tmp_path / "b").version
    runner = RecommenderRunner.load(tmp_path / "a", device="cpu")
    assert runner.version == version
    assert len(runner.recommend(runner.item_index(clicks["item_id"][:1])[None, :], 20).ids[0]) == 20
    assert version in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


def test_examples_hold_what_a_worker_knew_and_the_next_click(clicks):
    """Each click that another of its session follows is an example: it and those before it, and the next."""
    sessions, ids = recommender.sessions_of(clicks)
    queries = recommender.Queries.of(prefixes(sessions))
    by_session: dict[str, list[str]] = {}
    for session, item in zip(clicks["session_id"], clicks["item_id"], strict=True):
        by_session.setdefault(session, []).append(item)
    expected = {
        (tuple(items[max(0, step - recommender.LENGTH) : step]), items[step])
        for items in by_session.values()
        for step in range(1, len(items))
    }
    found = {
        (tuple(ids[item] for item in sequence[:count]), ids[target])
        for sequence, count, target in zip(*(part.tolist() for part in queries), strict=True)
    }
    assert found == expected
    assert len(queries.targets) == sum(len(items) - 1 for items in by_session.values())


def test_session_silent_for_longer_than_a_worker_remembers_is_two():
    """Training cuts sessions where a worker starts them anew, and orders them by their last clicks."""
    columns = {
        "session_id": ["s", "t", "s", "s"],
        "item_id": ["a", "b", "c", "d"],
        "event_time": np.array([0, 5, 1, 1 + DAY_MS + 1]),
    }
    sessions, ids = recommender.sessions_of(columns)
    assert [ids[item] for item in sessions.items] == ["a", "c", "b", "d"]
    assert sessions.offsets.tolist() == [0, 2, 3, 4]


def test_repeat_rates_are_by_the_clicks_since_the_item():
    """An item clicked twice counts by its later click only."""
    examples = prefixes(Sessions(np.array([0, 1, 0, 0], np.int32), np.array([0, 4])))
    rates = recommender.repeat_rates(recommender.Queries.of(examples))
    assert rates[:3].tolist() == [pytest.approx(1 / 3), 0.5, 0.0]


@pytest.mark.parametrize("length", [2, 5, 20, 21, 22, 35, 70])
def test_windows_hold_every_example_once_with_enough_before_it(length):
    """However long the session, each next click is learned once, from all or at least CONTEXT clicks before it."""
    windows = sequence.Windows(np.arange(length), np.array([0, length]))
    learned = {}
    for clicks, asked, targets in windows.batches(np.random.default_rng(0)):
        for (row, place), target in zip(np.argwhere(asked), targets.tolist(), strict=True):
            assert clicks[row, : place + 1].tolist() == list(range(target - 1 - place, target))
            assert target not in learned
            learned[target] = place + 1
    assert sorted(learned) == list(range(1, length))
    assert all(context >= min(target, sequence.CONTEXT) for target, context in learned.items())


def test_sessions_are_trained_on_whole(tmp_path, clicks):
    """Integers become the ids of the artifact, and one seed gives one version."""
    sessions, _ = recommender.sessions_of(clicks)
    artifact = recommender.train_sessions(tmp_path, sessions.items + 7, sessions.offsets)
    runner = RecommenderRunner(artifact, "cpu")
    assert runner.item_index([str(int(sessions.items[0]) + 7), "0"]).tolist() == [sessions.items[0], -1]
    for metric in ("p_at_20", "sequence_p_at_20", "neighbours_mrr_at_20", "item-item_p_at_20", "popularity_p_at_20"):
        assert 0 <= artifact.manifest["metrics"][metric] <= 1


@pytest.mark.parametrize("offsets", [[0], [0, 2], [1, 3], [0, 2, 1, 3]])
def test_offsets_that_do_not_fit_are_refused(tmp_path, offsets):
    """Sessions cut at wrong places would teach clicks that no session has."""
    with pytest.raises(TrainingDataError, match="offsets"):
        recommender.train_sessions(tmp_path, np.array([1, 2, 3], np.int32), np.array(offsets))


@pytest.mark.parametrize("name", recommender.COLUMNS)
def test_missing_click_column_is_named(tmp_path, clicks, name):
    """The error names the column to add."""
    with pytest.raises(TrainingDataError, match=f"got no {name}"):
        recommender.train(tmp_path, columns=without(clicks, name))


def test_clicks_that_teach_nothing_are_refused(tmp_path, clicks):
    """No clicks, unequal lengths, sessions of one click each."""
    lonely = {**clicks, "session_id": [str(place) for place in range(len(clicks["session_id"]))]}
    for columns, message in (
        ({name: column[:0] for name, column in clicks.items()}, "got none"),
        ({**clicks, "item_id": clicks["item_id"][:-1]}, "expected one length"),
        (lonely, "two or more items"),
    ):
        with pytest.raises(TrainingDataError, match=message):
            recommender.train(tmp_path, columns=columns)


def binary_likelihood(odds, labels, slope, offset):
    """Return the log likelihood of labels by calibrated log-odds."""
    line = slope * odds.astype(np.float64) + offset
    return -np.logaddexp(0, np.where(labels, -line, line)).sum()


def test_calibration_finds_the_line_that_makes_scores_probabilities():
    """Log-odds that are too flat and too high are put right, in the model's own output."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40_000, 3)).astype(np.float32)
    with reproducible(0):
        model = FraudModel.untrained(features, (16,))
    rows = torch.from_numpy(features)
    with torch.no_grad():
        raw = model.raw_log_odds(model.encode(rows)).numpy()
    steepness = 2.0 / raw.std()
    truth = 1 / (1 + np.exp(-(steepness * (raw - raw.mean()) - 1.0)))
    labels = rng.random(len(truth)) < truth
    fraud._calibrate(model, features, labels)
    with torch.no_grad():
        np.testing.assert_allclose(model(rows).numpy(), truth, atol=0.03)
    slope, offset = model.calibration.tolist()
    assert slope > 0, "a steeper payment never gets a lower score"
    likelihood = binary_likelihood(raw, labels, slope, offset)
    for other in ((slope * 1.001, offset), (slope * 0.999, offset), (slope, offset + 0.002), (slope, offset - 0.002)):
        assert binary_likelihood(raw, labels, *other) < likelihood
