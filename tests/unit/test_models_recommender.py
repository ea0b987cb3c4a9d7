"""The recommender runner: unseen items for every session, also for unknown ones."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from models.artifacts import default_artifact, load_artifact, save_artifact
from models.errors import ArtifactError
from models.recommender import RecommenderModel, Vocabulary
from models.runner import POPULAR, SEQUENCE, RecommenderRunner
from models.training.recommender import build_examples, measure
from models.training.simulator import simulate_clicks


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small batches are faster on one thread, and a busy machine's other cores are not waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runner():
    runner = RecommenderRunner.load(device="cpu")
    runner.warm_up()
    return runner


@pytest.fixture(scope="module")
def fresh(runner):
    """Sequences and next items of shoppers that no training has seen."""
    clicks = simulate_clicks(20_000, seed=20_240)
    index = runner.item_index(clicks["item_id"])
    sequences, following = build_examples(clicks["session_id"], index, clicks["event_time"])
    usable = (following >= 0) & (index[following] >= 0) & (sequences >= 0).any(axis=1)
    return sequences[usable], index[following[usable]]


@pytest.fixture
def tiny(tmp_path):
    """A runner of four items, untrained; item 2 is the most popular."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RecommenderModel(4, 8, 2, 5)
    vocabulary = Vocabulary(["a", "b", "c", "ö"], np.array([3, 1, 5, 1], np.int64))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    manifest = {
        "kind": "recommender",
        "name": "tiny",
        "architecture": {"items": 4, "width": 8, "heads": 2, "length": 5},
    }
    return RecommenderRunner(save_artifact(tmp_path, {**weights, **vocabulary.tensors()}, manifest), "cpu")


def row(*items, length=20):
    return np.array([[-1] * (length - len(items)) + list(items)], np.int32)


def test_seen_items_are_left_out(runner, fresh):
    """No slate holds an item of its session."""
    sequences = fresh[0][:2000]
    slates = runner.recommend(sequences, 20)
    assert slates.items.shape == (2000, 20) and slates.items.dtype == np.int32
    assert not (slates.items[:, :, None] == sequences[:, None, :]).any()


def test_slates_are_distinct_items_best_first_with_their_ids(runner, fresh):
    """Scores are probabilities that fall along the slate, ids are those of the items."""
    slates = runner.recommend(fresh[0][:200], 20)
    assert (np.diff(slates.scores, axis=1) <= 0).all()
    assert (slates.scores > 0).all() and (slates.scores.sum(axis=1) <= 1 + 1e-5).all()
    assert all(len(set(ids)) == 20 for ids in slates.ids)
    assert np.array_equal(np.stack([runner.item_index(ids) for ids in slates.ids]), slates.items)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_slate_does_not_depend_on_the_batch_it_is_in(runner, fresh, size):
    """How records are batched never decides what is recommended."""
    sequences = fresh[0][:300]
    whole = runner.recommend(sequences, 20)
    parts = [runner.recommend(sequences[begin : begin + size], 20) for begin in range(0, 300, size)]
    np.testing.assert_allclose(np.concatenate([part.scores for part in parts]), whole.scores, rtol=1e-3, atol=1e-6)
    same = np.concatenate([part.items for part in parts]) == whole.items
    assert same.mean() > 0.999  # two items with the same score to the last digits may change places


def test_padded_buckets_give_the_slates_of_the_plain_batch(runner, fresh):
    """Rows that pad a bucket, and the cut of an oversized batch, leave no trace."""
    padded = RecommenderRunner(load_artifact(default_artifact("recommender")), "cpu", batch_buckets=(8, 32))
    padded._batches.padded = True
    for size in (1, 8, 9, 33, 70):
        sequences = fresh[0][:size]
        np.testing.assert_allclose(
            padded.recommend(sequences, 5).scores, runner.recommend(sequences, 5).scores, rtol=1e-3, atol=1e-6
        )


def test_unknown_items_are_skipped_and_the_rest_counts(runner, fresh):
    """A never-trained item changes nothing about the session's slate, wherever it stands."""
    plain = runner.recommend(row(4, 8, 15), 20)
    for holed in (row(4, -1, 8, 15), row(-1, 4, 8, 15), row(4, 8, 15, -1), row(4, -1, 8, -1, -1, 15, -1)):
        slates = runner.recommend(holed, 20)
        assert slates.ids == plain.ids
        assert slates.strategies == [SEQUENCE]


def test_order_of_clicks_counts(runner):
    """The last click says more than the first."""
    assert runner.recommend(row(4, 8, 15), 20).ids != runner.recommend(row(15, 8, 4), 20).ids


def test_session_without_known_items_gets_the_popular_ones(tiny):
    """The most clicked items with their shares, in order."""
    slates = tiny.recommend(np.full((2, 5), -1, np.int32), 3)
    assert slates.strategies == [POPULAR, POPULAR]
    assert slates.ids[0] == ["c", "a", "b"]
    np.testing.assert_allclose(slates.scores[0], [0.5, 0.3, 0.1])


def test_known_and_unknown_sessions_mix_in_a_batch(runner):
    """Each row is answered by its own strategy, in input order."""
    rows = np.concatenate([row(3), row(), row(7, 9), row()])
    slates = runner.recommend(rows, 10)
    assert slates.strategies == [SEQUENCE, POPULAR, SEQUENCE, POPULAR]
    for place, alone in enumerate((row(3), row(), row(7, 9), row())):
        assert slates.ids[place] == runner.recommend(alone, 10).ids[0]


def test_slate_ends_where_unseen_items_end(tiny):
    """k beyond the vocabulary, or a session that has seen it all, gives shorter slates."""
    slates = tiny.recommend(np.array([[-1, -1, -1, 0, 2], [-1, 0, 1, 2, 3]], np.int32), 9)
    assert slates.items.shape == (2, 4)
    assert sorted(slates.ids[0]) == ["b", "ö"] and slates.ids[1] == []
    assert (slates.items[0, 2:] == -1).all() and (slates.scores[0, 2:] == 0).all()
    assert np.isfinite(slates.scores).all()


def test_one_session_is_answered_in_two_milliseconds_of_one_thread(runner):
    """The best of twenty runs, in processor time, so that a busy machine does not count."""
    spent_ms = []
    for _ in range(20):
        start = time.thread_time()
        runner.recommend(row(4, 8, 15), 20)
        spent_ms.append(1e3 * (time.thread_time() - start))
    assert min(spent_ms) < 2


def test_no_sessions_give_no_slates(runner):
    """An empty batch is not an error."""
    assert runner.recommend(np.empty((0, 20), np.int32), 20).ids == []


def test_item_index_marks_the_unknown(tiny):
    """Known ids get their place, others -1."""
    assert tiny.item_index(["ö", "nothing", "a"]).tolist() == [3, -1, 0]


@pytest.mark.parametrize("length", [1, 3, 20, 30])
def test_sequences_of_any_length_are_read(runner, length):
    """Shorter histories are enough, of longer ones the latest clicks count."""
    rows = np.arange(length, dtype=np.int32)[None, :]
    slates = runner.recommend(rows, 20)
    assert len(slates.ids[0]) == 20
    if length < runner.length:
        padded = runner.recommend(row(*range(length)), 20)
        assert padded.ids == slates.ids
        np.testing.assert_allclose(padded.scores, slates.scores, rtol=1e-4)


def test_recommending_changes_no_weight(runner, fresh):
    """A model is frozen at inference."""
    model = runner._model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runner.recommend(fresh[0][:500], 20)
    assert not model.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_artifact_with_another_number_of_ids_is_refused(tmp_path):
    """A vocabulary that does not fit the embedding would recommend the wrong items."""
    artifact = load_artifact(default_artifact("recommender"))
    short = Vocabulary(["a", "b"], np.array([1, 1], np.int64)).tensors()
    with pytest.raises(ArtifactError, match="item ids, got 2"):
        RecommenderRunner(save_artifact(tmp_path, {**artifact.tensors, **short}, artifact.manifest), "cpu")


def test_artifact_of_another_kind_is_refused():
    """A fraud model recommends nothing."""
    with pytest.raises(ArtifactError, match="expected kind recommender"):
        RecommenderRunner(load_artifact(default_artifact("fraud")), "cpu")


def test_shipped_weights_foresee_clicks_of_shoppers_they_have_not_seen(runner, fresh):
    """Quality floors on fresh sessions, far above popularity."""
    vocabulary = Vocabulary.from_artifact(load_artifact(default_artifact("recommender")))
    metrics = measure(runner._model, vocabulary.clicks, fresh[0][:6000], fresh[1][:6000])
    assert metrics["p_at_20"] > 0.65
    assert metrics["mrr_at_20"] > 0.2
    assert metrics["p_at_20"] > 5 * metrics["popular_p_at_20"]


def test_slates_hit_as_often_as_the_measure_says(runner, fresh):
    """The share of next clicks on new items found in served slates is the published one."""
    sequences, targets = fresh[0][:4000], fresh[1][:4000]
    vocabulary = Vocabulary.from_artifact(load_artifact(default_artifact("recommender")))
    new = ~(sequences == targets[:, None]).any(axis=1)
    hit = (runner.recommend(sequences, 20).items == targets[:, None]).any(axis=1)
    measured = measure(runner._model, vocabulary.clicks, sequences, targets)["unseen_p_at_20"]
    assert hit[new].mean() == pytest.approx(measured, abs=2e-3)
