"""The fraud runner: frozen, indifferent to batching, and able to say why."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifacts import default_artifact, load_artifact, save_artifact
from models.devices import resolve_device, resolve_dtype
from models.errors import ArtifactError, FeatureMismatch, ModelError
from models.features.cards import CardHistory
from models.features.payments import FRAUD_FEATURES, PaymentFeatures, replay
from models.features.terminals import TerminalHistory
from models.fraud.network import REASON_GROUPS, FraudModel
from models.fraud.runner import BASELINE, OTHER, FraudRunner
from models.simulator.blocks import DAY_MS
from models.simulator.payments import simulate_payments
from models.training.fraud import measure
from tests.support.processor_time import in_matrix_products


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small batches are faster on one thread, and a busy machine's other cores are not waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runner():
    runner = FraudRunner.load(device="cpu")
    runner.warm_up()
    return runner


@pytest.fixture(scope="module")
def fresh():
    """Payments of a population that no training has seen, with their features."""
    payments = simulate_payments(100_000, seed=20_240, cards=900, terminals=450)
    return payments, replay(PaymentFeatures(CardHistory(), TerminalHistory()), dict(payments))


def altered(tmp_path, **changes):
    artifact = load_artifact(default_artifact("fraud"))
    return save_artifact(tmp_path, artifact.tensors, {**artifact.manifest, **changes})


def test_scores_are_probabilities_in_input_order(runner, fresh):
    """float32 in [0, 1], one a row; a permuted batch gives permuted scores."""
    features = fresh[1][:500]
    scores = runner.score(features)
    assert scores.dtype == np.float32 and scores.shape == (500,)
    assert scores.min() >= 0 and scores.max() <= 1 and scores.std() > 0
    order = np.random.default_rng(0).permutation(500)
    np.testing.assert_allclose(runner.score(features[order]), scores[order], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_scores_and_reasons_are_bit_equal_in_any_batch(runner, fresh, data):
    """How records are batched never decides what is decided: any order and any cuts, to the last bit."""
    rows = data.draw(st.integers(1, 700))
    features = fresh[1][-rows:]
    scores, reasons = runner.score(features), runner.reasons(features[:9], 3)
    order = np.array(data.draw(st.permutations(range(rows))))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=5)))
    parts = [runner.score(part) for part in np.split(features[order], cuts)]
    assert np.array_equal(np.concatenate(parts), scores[order])
    alone = data.draw(st.integers(0, min(rows, 9) - 1))
    assert runner.reasons(features[alone : alone + 1], 3) == [reasons[alone]]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_steady_batches_give_bit_equal_scores(runner, fresh, size):
    """Also with the same size again and again."""
    features = fresh[1][-2000:]
    parts = [runner.score(features[begin : begin + size]) for begin in range(0, 2000, size)]
    assert np.array_equal(np.concatenate(parts), runner.score(features))


def test_chunks_of_another_size_give_nearly_the_same_scores(fresh):
    """What pads a chunk, and where a batch is cut, leaves no trace."""
    artifact = load_artifact(default_artifact("fraud"))
    plain, small = FraudRunner(artifact, "cpu"), FraudRunner(artifact, "cpu", chunk_rows=8)
    for size in (1, 8, 9, 32, 33, 100):
        features = fresh[1][-size:]
        np.testing.assert_allclose(small.score(features), plain.score(features), rtol=1e-4, atol=1e-6)


def test_batch_of_1024_is_scored_in_the_time_of_one_and_a_half_matrix_products(runner, fresh):
    """0.9 are usual, 1.2 ms on a Zen 4; twice the work fails."""
    assert in_matrix_products(lambda: runner.score(fresh[1][:1024])) < 1.5


def test_no_rows_give_no_scores(runner):
    """An empty batch is not an error."""
    assert runner.score(np.empty((0, len(FRAUD_FEATURES)), np.float32)).shape == (0,)


def test_scoring_changes_no_weight_and_keeps_no_gradient(runner, fresh):
    """A model is frozen at inference."""
    model = runner._model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runner.score(fresh[1][:1000])
    runner.reasons(fresh[1][:10], 3)
    assert not model.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_extreme_features_give_finite_scores(runner):
    """Traffic unlike any training data is scored, not turned into NaN."""
    for value in (0.0, -1e30, 1e30, 3e38):
        scores = runner.score(np.full((3, len(FRAUD_FEATURES)), value, np.float32))
        assert np.isfinite(scores).all()


def test_reasons_sum_to_the_log_odds_of_the_score(runner, fresh):
    """Baseline, named groups and the rest together are the score, for any number of names."""
    features = fresh[1]
    flagged = features[runner.score(features) >= runner.thresholds["review"]][:50]
    scores = runner.score(flagged).astype(np.float64)
    for top in (0, 1, 3, 99):
        reasons = runner.reasons(flagged, top)
        total = np.array([sum(value for _, value in row) for row in reasons])
        np.testing.assert_allclose(total, np.log(scores / (1 - scores)), atol=2e-3)
        assert all(row[0][0] == BASELINE and row[-1][0] == OTHER for row in reasons)
        assert all(len(row) == 2 + min(top, len(REASON_GROUPS)) for row in reasons)


def test_reasons_are_close_to_exact_shapley_values(runner, fresh):
    """Two orders stand for all of them: near what the 256 subsets of groups give, and mostly of one mind on the first."""
    features = fresh[1]
    flagged = features[runner.score(features) >= runner.thresholds["review"]][:40]
    exact = exact_shapley(runner, flagged)
    got = np.zeros_like(exact)
    for place, row in enumerate(runner.reasons(flagged, len(REASON_GROUPS))):
        for name, value in row[1:-1]:
            got[place, list(REASON_GROUPS).index(name)] = value
    np.testing.assert_allclose(got.sum(axis=1), exact.sum(axis=1), atol=1e-4)
    assert np.abs(got - exact).mean() < 0.12 * np.abs(exact).sum(axis=1).mean()
    assert (got.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.8


def exact_shapley(runner, rows):
    """Return float64[R, G]: each group's mean change of the log-odds over all orders, by enumeration of the subsets."""
    groups = [[FRAUD_FEATURES.index(name) for name in group] for group in REASON_GROUPS.values()]
    count = len(groups)
    odds = np.empty((len(rows), 1 << count))
    for subset in range(1 << count):
        mixed = np.tile(runner._baseline.numpy(), (len(rows), 1))
        own = [place for group in range(count) if subset >> group & 1 for place in groups[group]]
        mixed[:, own] = rows[:, own]
        with torch.inference_mode():
            odds[:, subset] = runner._model.log_odds(torch.from_numpy(mixed)).numpy()
    exact = np.zeros((len(rows), count))
    for subset in range(1 << count):
        size = subset.bit_count()
        weight = 1 / (count * math.comb(count - 1, size)) if size < count else 0.0
        for group in range(count):
            if not subset >> group & 1:
                exact[:, group] += weight * (odds[:, subset | 1 << group] - odds[:, subset])
    return exact


def test_reasons_name_what_is_strange_about_a_payment(runner, fresh):
    """The reason that a person would give is among the first three, which a decision names by default."""
    payments, features = fresh
    pattern = np.array(payments["pattern"])
    score = runner.score(features)
    expected = {
        "card-testing": "card_velocity",
        "stolen-card": "amount_against_card_history",
        "compromised-terminal": "terminal_risk",
        "night-burst": "time_of_day",
    }
    for name, reason in expected.items():
        caught = features[(pattern == name) & (score >= runner.thresholds["decline"])]
        assert len(caught) >= 5, name
        named = [reason in dict(row) for row in runner.reasons(caught, 3)]
        assert np.mean(named) > 0.8, name


def test_reason_of_a_usual_payment_is_nothing(runner):
    """The baseline row differs from itself in nothing."""
    (reasons,) = runner.reasons(runner._baseline.numpy()[None, :], 3)
    assert all(value == 0 for name, value in reasons if name != BASELINE)


def test_reason_groups_cover_every_feature_once():
    """No feature is without a reason or has two."""
    grouped = [feature for group in REASON_GROUPS.values() for feature in group]
    assert sorted(grouped) == sorted(FRAUD_FEATURES)


@pytest.mark.parametrize("shape", [(5, 3), (len(FRAUD_FEATURES),), (2, 2, len(FRAUD_FEATURES))])
def test_rows_of_another_shape_are_refused(runner, shape):
    """The error says how many features are expected and what came."""
    with pytest.raises(FeatureMismatch, match=f"expected rows of {len(FRAUD_FEATURES)} features"):
        runner.score(np.zeros(shape, np.float32))


def test_artifact_trained_on_other_features_is_refused(tmp_path):
    """Also when only the order differs."""
    swapped = [FRAUD_FEATURES[1], FRAUD_FEATURES[0], *FRAUD_FEATURES[2:]]
    with pytest.raises(FeatureMismatch, match="train the model with this version"):
        FraudRunner(altered(tmp_path, features=swapped), "cpu")


def test_artifact_whose_tensors_do_not_fit_is_refused(tmp_path):
    """A manifest that tells another architecture is an ArtifactError."""
    with pytest.raises(ArtifactError, match=r"piece_feature: expected 4 .*, got 234 of int64"):
        FraudRunner(altered(tmp_path, architecture={"pieces": 4, "hidden": [64, 64]}), "cpu")


def test_artifact_of_another_kind_is_refused():
    """A recommender does not score payments."""
    with pytest.raises(ArtifactError, match="expected kind fraud"):
        FraudModel.from_artifact(load_artifact(default_artifact("recommender")))
    with pytest.raises(ArtifactError, match="expected"):
        FraudRunner(load_artifact(default_artifact("recommender")), "cpu")


def test_artifact_without_thresholds_is_refused():
    """A missing section is named."""
    artifact = load_artifact(default_artifact("fraud"))
    manifest = {name: part for name, part in artifact.manifest.items() if name != "thresholds"}
    with pytest.raises(ArtifactError, match="'thresholds'"):
        FraudRunner(dataclasses.replace(artifact, manifest=manifest), "cpu")


def test_device_that_is_not_there_is_refused_by_name(monkeypatch):
    """CUDA asked for and absent is an error that names the setting, never a silent CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ModelError, match="STREAMS_DEVICE"):
            resolve_device(name)
    for name in ("tpu", "cpu:1", "cuda:x", ""):
        with pytest.raises(ModelError, match="expected auto, cpu or cuda"):
            resolve_device(name)


def test_dtype_that_the_device_is_no_good_at_is_refused():
    """bfloat16 is for CUDA."""
    with pytest.raises(ModelError, match="STREAMS_DTYPE"):
        resolve_dtype("bfloat16", torch.device("cpu"))
    with pytest.raises(ModelError, match="float32 or bfloat16"):
        resolve_dtype("float8", torch.device("cpu"))
    assert resolve_dtype("bfloat16", torch.device("cuda")) is torch.bfloat16


def test_bfloat16_layers_score_nearly_as_float32_ones(runner, fresh):
    """Reduced precision moves a probability by a few hundredths at most, and seldom."""
    features = torch.from_numpy(fresh[1][-5000:])
    reduced = FraudModel.from_artifact(load_artifact(default_artifact("fraud"))).cast(torch.bfloat16)
    with torch.inference_mode():
        difference = np.abs(reduced(features).numpy() - runner.score(features.numpy()))
    assert np.quantile(difference, 0.99) < 0.02


def test_shipped_weights_find_fraud_in_a_population_they_have_not_seen(runner, fresh):
    """Quality floors on fresh payments, once histories have filled."""
    payments, features = fresh
    later = payments["event_time"] >= payments["event_time"][0] + 30 * DAY_MS
    metrics = measure(runner.score(features[later]), payments["is_fraud"][later], runner.thresholds)
    assert metrics["auc"] > 0.90
    assert metrics["average_precision"] > 0.50
    assert metrics["calibration_error"] < 0.01
    assert metrics["decline_precision"] > 0.80
    assert metrics["review_recall"] > 0.45
    assert 0.004 < metrics["review_share"] < 0.02


def test_shipped_weights_decline_few_genuine_payments_on_the_first_days(runner, fresh):
    """A worker that starts without any history does not cry wolf."""
    payments, features = fresh
    first = payments["event_time"] < payments["event_time"][0] + 5 * DAY_MS
    metrics = measure(runner.score(features[first]), payments["is_fraud"][first], runner.thresholds)
    assert metrics["review_share"] < 0.02
    assert metrics["decline_precision"] > 0.7
