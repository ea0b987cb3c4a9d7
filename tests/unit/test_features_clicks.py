"""New items: recommended from where they were chosen, at once, and the same after a restart."""

from __future__ import annotations

import numpy as np
import pytest

from models.features import followers as module
from models.features.clicks import PRIOR, ClickHistory
from models.features.followers import FOLLOWED_MS, HOUR_MS
from models.features.items import ItemTable

T0 = 1_700_000_000_000 // HOUR_MS * HOUR_MS
KNOWN = ItemTable(["a", "b", "c"])


def update(history, clicks, table=KNOWN, is_retry=None):
    """Apply (session, item, ms since T0) clicks; return the known items and the new ones of each."""
    sessions, ids, times = zip(*clicks, strict=True)
    trails = history.update(list(sessions), list(ids), T0 + np.array(times, np.int64), is_retry)
    new = history.new_items(trails, table.places(trails.followers) >= 0)
    return table.places(trails.sessions), new.ids, new.shares


def random_clicks(count, seed):
    rng = np.random.default_rng(seed)
    ids = ["a", "b", "c", "new-1", "new-2", "new-3"]
    return [(f"s{rng.integers(25)}", ids[rng.integers(6)], 1000 * k) for k in range(count)]


def test_new_item_is_recommended_at_once_from_where_it_was_chosen():
    """One click after a on an item that no model knows; the next session on a may see it, a session on b not."""
    _, ids, shares = update(ClickHistory(), [("s", "a", 0), ("s", "new", 1), ("t", "a", 2), ("u", "b", 3)])
    assert ids == [[], [], ["new"], []]
    assert shares[2] == [pytest.approx(1 / (1 + PRIOR))]


def test_own_new_item_is_not_recommended_again():
    """The session that chose it is still on a, and is not sent back."""
    _, ids, _ = update(ClickHistory(), [("s", "a", 0), ("s", "new", 1), ("s", "new", 2), ("t", "a", 3)])
    assert ids == [[], [], [], ["new"]]


def test_share_falls_as_others_are_chosen():
    """Known items that follow count against the new one, and only the newest followers count at all."""
    history = ClickHistory()
    update(history, [("s", "a", 0), ("s", "new", 1)])
    last = []
    for visit in range(30):
        at = 10 * (visit + 1)
        _, ids, shares = update(history, [(f"v{visit}", "a", at), (f"v{visit}", "b", at + 1)])
        last.append(shares[0][0] if ids[0] else 0.0)
    assert last == sorted(last, reverse=True)
    assert last[0] == pytest.approx(1 / (1 + PRIOR)) and last[-1] == 0


def test_click_that_comes_again_is_answered_and_teaches_nothing_more():
    """Session, followers and shares are what they were; the click gets the answer that it should have had."""
    history, clicks = ClickHistory(), [("s", "a", 0), ("s", "new", 1), ("t", "a", 2), ("t", "b", 3), ("u", "a", 4)]
    sequences, ids, shares = update(history, clicks)
    before = history.digest()
    found, new, again = update(history, clicks, is_retry=np.ones(len(clicks), bool))
    assert np.array_equal(found, sequences) and history.digest() == before
    assert (new[-1], again[-1]) == (ids[-1], shares[-1]) and ids[-1]


def test_sequences_hold_known_items_only():
    """The network reads the model's own items; new ones leave a gap."""
    sequences, _, _ = update(ClickHistory(4), [("s", "a", 0), ("s", "new", 1), ("s", "c", 2)])
    assert sequences[2].tolist() == [-1, 0, -1, 2]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_change_nothing(size):
    """However records are batched, each sees the same; the state ends the same."""
    whole, parts, clicks = ClickHistory(), ClickHistory(), random_clicks(400, 1)
    sequences, ids, shares = update(whole, clicks)
    found = [update(parts, clicks[begin : begin + size]) for begin in range(0, 400, size)]
    assert np.array_equal(np.concatenate([part[0] for part in found]), sequences)
    assert [row for part in found for row in part[1]] == ids and any(ids)
    assert [row for part in found for row in part[2]] == shares
    assert parts.digest() == whole.digest()


def test_restored_history_goes_on_as_if_nothing_had_happened():
    """Snapshots, a whole one and then changes, bring back sessions, followers and the ids of new items."""
    live, restored, clicks = ClickHistory(), ClickHistory(), random_clicks(600, 2)
    rows = {}
    for begin in (0, 150, 300):
        update(live, clicks[begin : begin + 150])
        for key, payload in live.freeze(begin > 0):
            rows[key] = payload
    restored.watermarks = live.watermarks
    restored.load_many([(key, payload) for key, payload in rows.items() if payload is not None])
    assert restored.digest() == live.digest()
    newcomer = [("newcomer", "a", 450_000)]  # nothing in its batch tells the ids again
    assert update(restored, newcomer)[1:] == update(live, newcomer)[1:]
    after, expected = update(restored, clicks[450:]), update(live, clicks[450:])
    assert np.array_equal(after[0], expected[0])
    assert after[1:] == expected[1:] and any(after[1])
    assert restored.digest() == live.digest()


def test_new_item_that_nobody_clicks_is_forgotten():
    """From the hour after FOLLOWED_MS without a click it is not recommended, and its id is told as evicted."""
    history = ClickHistory()
    update(history, [("s", "a", 0), ("s", "new", 1)])
    list(history.freeze(False))
    _, ids, _ = update(history, [("t", "a", FOLLOWED_MS + HOUR_MS - 1), ("u", "a", FOLLOWED_MS + HOUR_MS)])
    assert ids == [["new"], []]
    assert (b"1new", None) in list(history.freeze(True))


def test_snapshot_is_read_twice_and_by_two_at_once():
    """A checkpoint that is given up while it is written is read by the writer and by the thread that takes it back."""
    history = ClickHistory()
    update(history, random_clicks(100, 3))
    snapshot = history.freeze(False)
    rows = list(snapshot)
    writer = iter(snapshot)
    begun = [next(writer), next(writer)]
    assert list(snapshot) == rows
    assert [*begun, *writer] == rows and len(rows) > 2


def test_ids_without_end_are_not_learned(monkeypatch):
    """Beyond the bound a new id is not recommended; those learned before still are."""
    monkeypatch.setattr(module, "ITEMS_MAX", 3)  # a and two others
    history = ClickHistory()
    for number in range(4):
        update(history, [(f"s{number}", "a", 2 * number), (f"s{number}", f"new-{number}", 2 * number + 1)])
    _, ids, _ = update(history, [("t", "a", 100)])
    assert sorted(ids[0]) == ["new-0", "new-1"]
