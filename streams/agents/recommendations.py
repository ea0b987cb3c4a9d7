"""Recommendations: every click gets a slate of items for its session, the click itself included."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features.clicks import ClickHistory, NewItems
from models.features.seen import SeenRecords
from models.recommender.runner import RecommenderRunner, Slates
from streams.agents.answering import AnsweringJob, RemembersRecords
from streams.contract.columns import Clicks, Limits
from streams.contract.decoding import decode_clicks
from streams.contract.encoding import Made, encode_recommendations
from streams.contract.events import Headers
from streams.engine.failover import Answers
from streams.transport.record_batch import RecordBatch


class SessionState(RemembersRecords, ClickHistory):
    """State of a partition's clicks: sessions, the followers of each item, and the ids of the clicks seen."""

    def __init__(self, length: int, duplicates_horizon_ms: int) -> None:
        self.seen = SeenRecords(duplicates_horizon_ms)
        super().__init__(length, self.seen)


class SessionReplay:
    """Rebuilds a partition's state from the log: applies clicks without answering them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(
        self, state: SessionState, values: list[bytes | None], timestamps: list[int], headers: list[Headers]
    ) -> None:
        clicks = decode_clicks(values, now_ms=timestamps, limits=self._limits, headers=headers)
        clicks = state.without_duplicates(clicks, timestamps)
        state.update(clicks.session_ids, clicks.item_ids, clicks.event_times, clicks.is_retry())


class RecommendationJob(AnsweringJob[Clicks, SessionState, RecommenderRunner, Slates]):
    """Answers clicks by the recommender, or with popular items while it fails.

    Args:
        top_k: items of a slate.
        keep_seen: whether a slate may have items that the session has seen.
        new_items: whether a slate may have items that the model has never seen.
        shared: as for `AnsweringJob`.
    """

    name = "recommendations"

    def __init__(self, *args: Any, top_k: int, keep_seen: bool, new_items: bool, **shared: Any) -> None:
        super().__init__(*args, **shared)
        self._top_k, self._keep_seen, self._new_items = top_k, keep_seen, new_items

    def decode(self, batch: RecordBatch) -> Clicks:
        return decode_clicks(batch.values, now_ms=batch.timestamps, limits=self._limits, headers=batch.headers)

    def features(
        self, model: RecommenderRunner, state: SessionState, columns: Clicks
    ) -> tuple[NDArray[np.int32], NewItems]:
        trails = state.update(columns.session_ids, columns.item_ids, columns.event_times, columns.is_retry())
        return model.places(trails.sessions), state.new_items(trails, model.places(trails.followers) >= 0)

    def judge(self, model: RecommenderRunner, rows: NDArray[np.int32]) -> Slates:
        slates = model.recommend(rows, self._top_k, self._keep_seen)
        if not np.isfinite(slates.scores).all():
            raise ArithmeticError("a score is not a finite number")
        return slates

    def stand_in(self, model: RecommenderRunner, rows: NDArray[np.int32]) -> Slates:
        return model.recommend_popular(rows, self._top_k, self._keep_seen)

    def join(self, model: RecommenderRunner, answers: Answers[Slates], beside: list[NewItems]) -> Slates:
        slates = Slates.joined(answers.parts)
        if not self._new_items:
            return slates
        new = NewItems([], [])
        for each in beside:
            new.extend(each)
        return model.with_new(slates, new.without(answers.culprits) if answers.culprits else new)

    def encode(self, columns: Clicks, answer: Slates, rows: slice, made: Made) -> list[bytes]:
        return encode_recommendations(
            columns,
            made,
            item_ids=answer.ids[rows],
            scores=answer.scores[rows].tolist(),
            strategies=answer.strategies[rows],
        )

    def count(self, answer: Slates) -> None:
        for strategy, count in Counter(answer.strategies).items():
            self._metrics.slates.labels(strategy).inc(count)
