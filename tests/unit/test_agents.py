"""Jobs whose model fails: who answers, what stays in the state, and how a record that was set aside is answered after all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.features.payments import FRAUD_FEATURES
from models.fraud.runner import FraudRunner
from models.recommender.runner import RecommenderRunner
from streams.agents.fraud import FraudJob, FraudModel
from streams.agents.recommendations import RecommendationJob
from streams.contract.topics import CLICKSTREAM, TRANSACTIONS
from streams.engine.failover import PAUSE_S_MIN
from streams.errors import ModelFailed
from streams.policy.thresholds import Thresholds
from tests.support.jobs import Bench, failed_at
from tests.support.traffic import clicks, payments

PAYMENTS = payments(400, cards=20)[0]
CLICKS = clicks(400)
IDS = {FraudJob: "transaction_id", RecommendationJob: "event_id"}
RECORDS: dict[Any, list[dict[str, Any]]] = {FraudJob: PAYMENTS, RecommendationJob: CLICKS}
TOPICS = {FraudJob: TRANSACTIONS, RecommendationJob: CLICKSTREAM}
TIMED = ("decided_at", "timings")


@pytest.fixture(scope="module")
def runners() -> dict[Any, Any]:
    return {FraudJob: FraudRunner.load(device="cpu"), RecommendationJob: RecommenderRunner.load(device="cpu")}


@pytest.fixture(params=[FraudJob, RecommendationJob], ids=["payments", "clicks"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def untimed(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in each.items() if key not in TIMED} for each in answers]


def names(answers: list[dict[str, Any]]) -> list[str]:
    return [each.get("transaction_id") or each["event_id"] for each in answers]


# ---- without the model


def test_a_broken_model_stops_the_job_by_default(kind: Any, runners: dict[Any, Any]) -> None:
    """Nothing of the micro-batch is answered: its records are read again."""
    bench = Bench(kind, runners[kind])
    bench.model.broken = True
    with pytest.raises(ModelFailed):
        bench.send(RECORDS[kind][:50])


def test_degraded_answers_are_marked_whole_and_name_the_model_they_stand_in_for(
    kind: Any, runners: dict[Any, Any]
) -> None:
    """Each record of a micro-batch has one answer; its id, and so its repeats, are those of the model's answer."""
    bench, healthy = Bench(kind, runners[kind], degrade=True), Bench(kind, runners[kind])
    bench.model.broken = True
    answers, letters = bench.send(RECORDS[kind])
    expected, _ = healthy.send(RECORDS[kind])
    assert (names(answers), letters) == (names(expected), [])
    for answer, of_the_model in zip(answers, expected, strict=True):
        assert answer["degraded"] is True and "degraded" not in of_the_model
        assert all(answer[key] == of_the_model[key] for key in ("decision_id", "model", "model_version"))
    assert bench.metrics.degraded.labels(kind.name)._value.get() == len(answers)
    assert healthy.metrics.degraded.labels(kind.name)._value.get() == 0


def test_degraded_payments_are_decided_by_the_rules(runners: dict[Any, Any]) -> None:
    """A card with many payments in ten minutes is reviewed, with the rule as its reason and without a score."""
    bench = Bench(FraudJob, runners[FraudJob], degrade=True)
    bench.model.broken = True
    noon = PAYMENTS[0]["event_time"] // 86_400_000 * 86_400_000 + 43_200_000
    burst = [PAYMENTS[0] | {"transaction_id": f"b{n}", "event_time": noon + n, "amount": 10.0} for n in range(9)]
    answers, _ = bench.send(burst)
    assert [each["decision"] for each in answers] == ["approve"] * 3 + ["review"] * 6
    assert {each["score"] for each in answers} == {each["confidence"] for each in answers} == {None}
    assert {each["strategy"] for each in answers} == {"rules"}
    assert answers[3]["reasons"] == [{"feature": "card_count_10min", "contribution": None, "value": 4.0, "limit": 4.0}]


def test_degraded_slates_are_of_the_popular_items_that_the_session_has_not_seen(runners: dict[Any, Any]) -> None:
    """The fallback for unknown sessions serves all."""
    bench = Bench(RecommendationJob, runners[RecommendationJob], degrade=True)
    bench.model.broken = True
    answers, _ = bench.send(CLICKS)
    assert {each["strategy"] for each in answers} == {"popular"}
    seen: dict[str, set[str]] = {}
    for click, slate in zip(CLICKS, answers, strict=True):
        mine = seen.setdefault(click["session_id"], set())
        mine.add(click["item_id"])
        items = [item["item_id"] for item in slate["items"]]
        assert len(items) == len(set(items)) == 10 and not mine.intersection(items)


def test_state_goes_on_without_the_model_as_with_it(kind: Any, runners: dict[Any, Any]) -> None:
    """After a degradation the model says of later records what it would have said, and the state is the same to the bit."""
    bench, healthy = Bench(kind, runners[kind], degrade=True), Bench(kind, runners[kind])
    records = RECORDS[kind]
    bench.model.broken = True
    bench.send(records[:200])
    healthy.send(records[:200])
    bench.model.broken, bench.now = False, 2 * PAUSE_S_MIN
    answers, _ = bench.send(records[200:])
    expected, _ = healthy.send(records[200:])
    assert untimed(answers) == untimed(expected)
    assert bench.digest() == healthy.digest()


def test_a_model_that_fails_for_its_reasons_alone_is_a_failing_model(runners: dict[Any, Any]) -> None:
    """Scores without the reasons that belong to them are not published, and do not end the worker either."""
    bench = Bench(FraudJob, runners[FraudJob], degrade=True)

    def reasons(*_: Any) -> Any:
        raise RuntimeError("no reasons")

    bench.model.reasons = reasons
    bench.slot.swap(FraudModel(bench.model, Thresholds(review=0.0, decline=1.0)))  # every payment is held up
    answers, letters = bench.send(PAYMENTS[:100])
    assert [each["degraded"] for each in answers] == [True] * 100 and letters == []


# ---- after the model


def set_aside(bench: Bench, kind: Any, count: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Send 100 records whose last `count` fail; return these, the letters, and where the first of them stands."""
    records = RECORDS[kind][:100]
    bench.send(records[: 100 - count])
    bench.model.broken, first = True, bench.position
    answers, letters = bench.send(records[100 - count :])
    bench.model.broken = False
    assert answers == [] and [each["stage"] for each in letters] == ["inference"] * count
    assert [each["offset"] for each in letters] == list(range(first, first + count))
    return records[100 - count :], letters, first


def test_a_record_set_aside_is_answered_once_however_often_it_is_sent_again(kind: Any, runners: dict[Any, Any]) -> None:
    """Its answer is the one that it should have had; without the header it is the repeat of an id that it looks like."""
    bench, healthy = Bench(kind, runners[kind]), Bench(kind, runners[kind])
    failed, _, first = set_aside(bench, kind)
    healthy.send(RECORDS[kind][:97])
    expected = [answer for each in failed for answer in healthy.send([each])[0]]
    assert bench.send(failed) == ([], []), "a producer's repeat"
    answers = [bench.send([each], failed_at(TOPICS[kind], first + n))[0] for n, each in enumerate(failed)]
    assert untimed([each for one in answers for each in one]) == untimed(expected)
    for _ in range(3):
        for n, each in enumerate(failed):
            assert bench.send([each], failed_at(TOPICS[kind], first + n)) == ([], [])


def test_a_record_that_fails_again_may_come_again(kind: Any, runners: dict[Any, Any]) -> None:
    """Its second letter names its second place: with that it is decided; with the first place it is not."""
    bench = Bench(kind, runners[kind])
    (failed,), _, first = set_aside(bench, kind, count=1)
    bench.model.broken, second = True, bench.position
    answers, letters = bench.send([failed], failed_at(TOPICS[kind], first))
    assert answers == [] and [each["offset"] for each in letters] == [second]
    bench.model.broken = False
    assert bench.send([failed], failed_at(TOPICS[kind], first)) == ([], [])
    assert len(bench.send([failed], failed_at(TOPICS[kind], second))[0]) == 1
    assert bench.send([failed], failed_at(TOPICS[kind], second)) == ([], [])


def test_what_is_sent_again_is_not_counted_twice_in_the_state(kind: Any, runners: dict[Any, Any]) -> None:
    """Cards and sessions know it since its first attempt: later records see what they would have seen."""
    bench, healthy = Bench(kind, runners[kind]), Bench(kind, runners[kind])
    failed, _, first = set_aside(bench, kind)
    healthy.send(RECORDS[kind][:100])
    for n, each in enumerate(failed):
        bench.send([each], failed_at(TOPICS[kind], first + n))
    assert untimed(bench.send(RECORDS[kind][100:])[0]) == untimed(healthy.send(RECORDS[kind][100:])[0])


@pytest.mark.parametrize("again", [1, 2])
def test_a_restore_comes_to_the_same_state_without_the_model(kind: Any, again: int, runners: dict[Any, Any]) -> None:
    """The log alone gives the state, to the bit, and its repeats, for records that failed, came again or were decided."""
    bench = Bench(kind, runners[kind])
    failed, _, first = set_aside(bench, kind)
    for _ in range(again):
        for n, each in enumerate(failed):
            bench.send([each], failed_at(TOPICS[kind], first + n))
    bench.send(RECORDS[kind][100:200])
    before = bench.digest()
    bench.restart()
    bench.model.broken = True
    assert bench.digest() == before
    for n, each in enumerate(failed):
        assert bench.send([each], failed_at(TOPICS[kind], first + n)) == ([], [])


def test_a_payment_whose_history_is_gone_stands_in_it_again(runners: dict[Any, Any]) -> None:
    """Letters are kept longer than payments: one that comes to an empty history is recorded as a new payment is."""
    bench, healthy = Bench(FraudJob, runners[FraudJob]), Bench(FraudJob, runners[FraudJob])
    bench.send(PAYMENTS[:1], failed_at(TRANSACTIONS, 7))
    healthy.send(PAYMENTS[:1])
    later = [PAYMENTS[0] | {"transaction_id": "later", "event_time": PAYMENTS[0]["event_time"] + 60_000}]
    seen: list[Any] = []

    def see(rows: Any) -> bool:
        seen.append(np.array(rows))
        return False

    bench.model.fails = healthy.model.fails = see
    bench.send(later)
    healthy.send(later)
    assert np.array_equal(*seen)
    assert seen[0][0, FRAUD_FEATURES.index("card_count_10min")] == 2.0
