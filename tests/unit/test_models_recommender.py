"""The recommender runner: unseen items for every session, also for unknown ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.artifacts import default_artifact, load_artifact, save_artifact
from models.errors import ArtifactError, ModelError
from models.features.clicks import NewItems
from models.features.items import number_of
from models.features.sessions import LENGTH
from models.recommender.blend import Blend, NeighbourSettings, PastSessions
from models.recommender.candidates import left_aligned
from models.recommender.examples import hits, prefixes
from models.recommender.network import RecommenderModel, Vocabulary
from models.recommender.runner import NEIGHBOURS, PARTS, POPULAR, SEQUENCE, RecommenderRunner
from models.recommender.top_k import at_least, largest, top_k
from models.simulator.clicks import simulate_clicks
from models.training.recommender import Queries, sessions_of
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
    runner = RecommenderRunner.load(device="cpu")
    runner.warm_up()
    return runner


@pytest.fixture(scope="module")
def fresh(runner):
    """Sequences and next items of shoppers that no training has seen."""
    sessions, ids = sessions_of(dict(simulate_clicks(20_000, seed=20_240)))
    index = runner.item_index(ids)
    examples = Queries.of(prefixes(sessions))
    known = np.arange(examples.sequences.shape[1]) < examples.counts[:, None]
    sequences = np.where(known, index[examples.sequences], -1)
    targets = index[examples.targets]
    usable = (targets >= 0) & (sequences >= 0).any(axis=1)
    sessions, counts = left_aligned(sequences[usable], 20)
    right = np.full_like(sessions, -1)
    right[np.arange(20) >= 20 - counts[:, None]] = sessions[np.arange(20) < counts[:, None]]
    mixed = np.random.default_rng(0).permutation(len(right))
    return right[mixed], targets[usable][mixed]


PAST = ((0, 1), (2, 3), (0, 1, 2))


def four_items(tmp_path, weights=(1.0, 1.0, 1.0), length=5, **changed):
    """Save a recommender of four items, untrained; item 2 is the most popular."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RecommenderModel(4, 8, 2, length)
    past = PastSessions(np.concatenate(PAST), np.array([len(session) for session in PAST]), 4)
    rates = np.array([0.2, 0.1, 0.05, 0.02, 0.01] + [0.0] * (length - 5), np.float32)
    blend = Blend(
        model.embedding.detach().numpy(), 16.0, past, NeighbourSettings(), rates, np.array([weights] * 3, np.float32)
    )
    tensors = {
        **{name: value.numpy() for name, value in model.state_dict().items()},
        **Vocabulary(["a", "b", "c", "ö"], np.array([3, 1, 5, 1], np.int64)).tensors(),
        **blend.tensors(),
    }
    manifest = {
        "kind": "recommender",
        "name": "tiny",
        "architecture": {"items": 4, "width": 8, "heads": 2, "length": length},
        "neighbours": {},
    }
    return save_artifact(tmp_path, {**tensors, **changed}, manifest)


@pytest.fixture
def tiny(tmp_path):
    """A runner of four items, untrained; item 2 is the most popular."""
    return RecommenderRunner(four_items(tmp_path), "cpu")


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
    padded._search.batches.padded = True
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
        assert slates.strategies == plain.strategies


def test_order_of_clicks_counts(runner):
    """The last click says more than the first."""
    assert runner.recommend(row(4, 8, 15), 20).ids != runner.recommend(row(15, 8, 4), 20).ids


def test_session_without_known_items_gets_the_popular_ones(tiny):
    """The most clicked items with their shares, in order."""
    slates = tiny.recommend(np.full((2, 5), -1, np.int32), 3)
    assert slates.strategies == [POPULAR, POPULAR]
    assert slates.ids[0] == ["c", "a", "b"]
    np.testing.assert_allclose(slates.scores[0], [0.5, 0.3, 0.1])


def test_popular_items_serve_any_session_without_the_network(tiny):
    """The most clicked first, with their share of all clicks; those that the session has seen are left out or kept."""
    rows = np.concatenate([row(), row(2), row(0, 2), row(1, 0, 3, 2)])
    slates = tiny.recommend_popular(rows, 3)
    assert slates.ids == [["c", "a", "b"], ["a", "b", "ö"], ["b", "ö"], []]
    assert slates.items.tolist() == [[2, 0, 1], [0, 1, 3], [1, 3, -1], [-1, -1, -1]]
    assert np.allclose(slates.scores, [[0.5, 0.3, 0.1], [0.3, 0.1, 0.1], [0.1, 0.1, 0], [0, 0, 0]])
    assert slates.strategies == [POPULAR] * 4
    assert tiny.recommend_popular(rows, 3, keep_seen=True).ids == [["c", "a", "b"]] * 4
    unknown = tiny.recommend(rows[:1], 3)
    assert (unknown.ids[0], unknown.scores[0].tolist()) == (slates.ids[0], slates.scores[0].tolist())
    assert tiny.recommend_popular(rows[:0], 3).ids == []


def test_known_and_unknown_sessions_mix_in_a_batch(runner):
    """Each row is answered by its own strategy, in input order."""
    rows = np.concatenate([row(3), row(), row(7, 9), row()])
    slates = runner.recommend(rows, 10)
    assert [strategy == POPULAR for strategy in slates.strategies] == [False, True, False, True]
    for place, alone in enumerate((row(3), row(), row(7, 9), row())):
        assert slates.ids[place] == runner.recommend(alone, 10).ids[0]


def test_slate_ends_where_unseen_items_end(tiny):
    """k beyond the vocabulary, or a session that has seen it all, gives shorter slates."""
    slates = tiny.recommend(np.array([[-1, -1, -1, 0, 2], [-1, 0, 1, 2, 3]], np.int32), 9)
    assert slates.items.shape == (2, 4)
    assert sorted(slates.ids[0]) == ["b", "ö"] and slates.ids[1] == []
    assert (slates.items[0, 2:] == -1).all() and (slates.scores[0, 2:] == 0).all()
    assert np.isfinite(slates.scores).all()


def test_one_session_is_answered_in_the_time_of_two_matrix_products(runner):
    """0.6 are usual, 0.8 ms on a Zen 4."""
    assert in_matrix_products(lambda: runner.recommend(row(4, 8, 15), 20)) < 2


def test_no_sessions_give_no_slates(runner):
    """An empty batch is not an error."""
    assert runner.recommend(np.empty((0, 20), np.int32), 20).ids == []


def test_a_model_of_longer_sessions_than_are_kept_is_refused(tmp_path):
    """State keeps the same of a session for every model; one that was trained on more would be asked about less."""
    RecommenderRunner(four_items(tmp_path, length=LENGTH))
    with pytest.raises(ArtifactError, match=r"architecture.length: expected at most 20, .* got 21; .* train it again"):
        RecommenderRunner(four_items(tmp_path, length=LENGTH + 1))


def test_item_index_marks_the_unknown(tiny):
    """Known ids get their place, others -1."""
    assert tiny.item_index(["ö", "nothing", "a"]).tolist() == [3, -1, 0]
    numbers = np.array([[number_of("ö"), number_of("nothing")], [number_of("a"), -1]])
    assert tiny.places(numbers).tolist() == [[3, -1], [0, -1]]


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
    model = runner._search._model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runner.recommend(fresh[0][:500], 20)
    assert not model.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_that_gives_no_numbers_is_an_error_before_its_items_are_picked(tmp_path):
    """The loops that pick the largest logits have nothing to pick among NaN, and would leave their arrays."""
    weight = np.full((8, 32), 3e38, np.float32) * np.where(np.arange(32) % 2, 1, -1).astype(np.float32)
    runner = RecommenderRunner(four_items(tmp_path, **{"encoder.session.weight": weight}), "cpu")
    with pytest.raises(ModelError, match="finite session vectors"):
        for session in ((0,), (1,), (2,), (3,), (0, 1, 2, 3)):
            runner.recommend(row(*session), 3)


def test_artifact_with_another_number_of_ids_is_refused(tmp_path):
    """A vocabulary that does not fit the embedding would recommend the wrong items."""
    artifact = load_artifact(default_artifact("recommender"))
    short = Vocabulary(["a", "b"], np.array([1, 1], np.int64)).tensors()
    with pytest.raises(ArtifactError, match=r"item_ids.end: expected 2001 .*, got 2 of"):
        RecommenderRunner(save_artifact(tmp_path, {**artifact.tensors, **short}, artifact.manifest), "cpu")


def test_artifact_of_another_kind_is_refused():
    """A fraud model recommends nothing."""
    with pytest.raises(ArtifactError, match="expected kind recommender"):
        RecommenderRunner(load_artifact(default_artifact("fraud")), "cpu")


def test_shipped_weights_foresee_clicks_of_shoppers_they_have_not_seen(runner, fresh):
    """Quality floors on fresh sessions; each part is far above popularity, and the blend above each part."""
    sequences, targets = fresh[0][:6000], fresh[1][:6000]
    found = {part: hits(runner.rank(sequences, 20, part), targets) for part in PARTS}
    assert found["blend"].p_at_20 > 0.65
    assert found["blend"].mrr_at_20 > 0.2
    for part in ("sequence", "neighbours", "item-item"):
        assert found["blend"].p_at_20 >= found[part].p_at_20 - 0.005
        assert found[part].p_at_20 > 5 * found["popularity"].p_at_20


def test_both_strategies_are_named(runner, fresh):
    """Past sessions and the network each lead in some slates."""
    assert set(runner.recommend(fresh[0][:4000], 20).strategies) == {SEQUENCE, NEIGHBOURS}


def test_candidates_cost_no_hits(runner, fresh):
    """Ranking only the network's likeliest items finds as many next clicks as ranking all of them."""
    sequences, targets = fresh[0][:4000], fresh[1][:4000]
    sessions, counts = left_aligned(sequences, 20)
    vectors, everything = runner._search.find(sessions, counts, runner.items)
    assert everything.shape[1] == runner.items
    exact = runner._blend.rank(sessions, counts, vectors, everything, 20, keep_seen=True)[0]
    whole, few = hits(exact, targets), hits(runner.rank(sequences, 20), targets)
    assert few.p_at_20 >= whole.p_at_20 - 0.001
    assert few.mrr_at_20 >= whole.mrr_at_20 - 0.001


def test_seen_items_are_kept_where_they_are_asked_for(runner, fresh):
    """The literature ranks all items: slates then hold items of the session, and find more next clicks."""
    sequences, targets = fresh[0][:4000], fresh[1][:4000]
    kept = runner.recommend(sequences, 20, keep_seen=True).items
    assert (kept[:, :, None] == sequences[:, None, :]).any()
    assert hits(kept, targets).p_at_20 > hits(runner.recommend(sequences, 20).items, targets).p_at_20


def test_new_items_take_their_place_by_probability(tiny):
    """Known items share what the new ones leave; slates without new ones stay as they are."""
    slates = tiny.recommend(np.array([[-1, -1, -1, -1, 0], [-1, -1, -1, 0, 1]], np.int32), 2)
    both = tiny.with_new(slates, NewItems([[], ["new"]], [[], [0.9]]))
    assert both.ids[0] == slates.ids[0] and np.array_equal(both.scores[0], slates.scores[0])
    assert both.ids[1] == ["new", slates.ids[1][0]]
    np.testing.assert_allclose(both.scores[1], [0.9, 0.1 * slates.scores[1, 0]], rtol=1e-5)


def test_unknown_part_is_refused(tiny):
    """The error lists the parts."""
    with pytest.raises(ModelError, match="item-item"):
        tiny.rank(row(0, length=5), 2, "network")


def test_past_sessions_vote_for_what_followed(tmp_path):
    """After b came c: by past sessions alone c is first, and the item before the match comes after it."""
    runner = RecommenderRunner(four_items(tmp_path, weights=(0.0, 1.0, 0.0)), "cpu")
    slates = runner.recommend(row(1, length=5), 4)
    assert slates.ids == [["c", "a"]]
    assert slates.strategies == [NEIGHBOURS]
    np.testing.assert_allclose(slates.scores[0, :2].sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("items", [1, 63, 64, 65, 500, 20_000])
@pytest.mark.parametrize("distinct", [3, 1_000_000])
def test_largest_are_those_of_a_sort(items, distinct):
    """Block maxima never hide an item, with many equal logits too; of equals the first come."""
    logits = np.random.default_rng(items).integers(0, distinct, (5, items)).astype(np.float32)
    count = min(items, 128)
    expected = np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :count], axis=1)
    by_blocks, by_cut = np.empty((5, count), np.int32), np.empty((5, count), np.int32)
    largest(logits, count, by_blocks)
    at_least(logits, np.sort(logits, axis=1)[:, -count], by_cut)
    for found in (by_blocks, by_cut, top_k(logits, count)):
        assert np.array_equal(np.sort(found, axis=1), expected)


def test_past_sessions_that_do_not_fit_are_refused(tmp_path):
    """Clicks on items beyond the vocabulary would read other memory."""
    with pytest.raises(ArtifactError, match="past clicks"):
        RecommenderRunner(four_items(tmp_path, **{"past.clicks": np.array([0, 1, 2, 3, 0, 1, 9], np.uint16)}), "cpu")
