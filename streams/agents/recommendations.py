"""Recommendations: every click gets a slate of items for its session, the click itself included."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.features.clicks import ClickHistory, NewItems
from models.runner import RecommenderRunner
from streams.codecs import Clicks, Limits, decode_clicks
from streams.metrics import Metrics
from streams.publishing import ModelName, Publisher, Timing, encode_recommendations
from streams.state import StateTable
from streams.topics import CLICKSTREAM, RECOMMENDATIONS
from streams.transport.producer import Outputs
from streams.transport.record_batch import RecordBatch

if TYPE_CHECKING:
    from streams.application import Application


def recommendations_agent(app: Application) -> None:
    """Declare the agent that answers clicks."""

    @app.agent(app.batched(CLICKSTREAM), name="recommendations")
    async def recommend(stream):  # type: ignore[no-untyped-def]
        async for fetch in stream.noack():
            app.worker.recommendations.submit(fetch)


class SessionReplay:
    """Applies clicks to a session history without answering them: how state is rebuilt from the log."""

    def __init__(self, runner: RecommenderRunner, limits: Limits) -> None:
        self._runner, self._limits = runner, limits

    def __call__(self, sessions: ClickHistory, values: list[bytes | None], timestamps: list[int]) -> None:
        clicks = decode_clicks(values, now_ms=timestamps, limits=self._limits)
        items = self._runner.item_index(clicks.item_ids)
        sessions.update(clicks.session_ids, items, clicks.item_ids, clicks.event_times)


class RecommendationJob:
    """One micro-batch of clicks: decode, session history, one forward pass, slates."""

    name = "recommendations"

    def __init__(
        self,
        runner: RecommenderRunner,
        sessions: StateTable[ClickHistory],
        top_k: int,
        keep_seen: bool,
        new_items: bool,
        limits: Limits,
        publisher: Publisher,
        metrics: Metrics,
    ) -> None:
        self._runner, self._sessions, self._limits = runner, sessions, limits
        self._top_k, self._keep_seen, self._new_items = top_k, keep_seen, new_items
        self._publisher, self._metrics = publisher, metrics
        self._model = ModelName(runner.name, runner.version)

    def is_quick(self, batches: Sequence[RecordBatch]) -> bool:
        return all(map(self._sessions.has, batches))

    def run(self, batches: Sequence[RecordBatch]) -> list[list[Outputs]]:
        """Return each batch's slates and dead letters."""
        started = time.monotonic()
        clicks = [decode_clicks(b.values, now_ms=b.timestamps, limits=self._limits) for b in batches]
        seen = [self._sequences(batch, columns) for batch, columns in zip(batches, clicks, strict=True)]
        sequences = np.concatenate([items for items, _ in seen])
        slates = self._runner.recommend(sequences, self._top_k, self._keep_seen)
        if self._new_items:
            new_ids = [ids for _, new in seen for ids in new.ids]
            shares = [of_row for _, new in seen for of_row in new.shares]
            slates = self._runner.with_new(slates, NewItems(new_ids, shares))
        scores = slates.scores.tolist()
        outputs, end = [], 0
        for batch, columns in zip(batches, clicks, strict=True):
            begin, end = end, end + len(columns.accepted)
            values = encode_recommendations(
                columns,
                slates.ids[begin:end],
                scores[begin:end],
                slates.strategies[begin:end],
                self._model,
                Timing.since(batch.fetched_at, started),
            )
            outputs.append(self._outputs(batch, columns, values))
        for strategy, count in Counter(slates.strategies).items():
            self._metrics.slates.labels(strategy).inc(count)
        return outputs

    def _sequences(self, batch: RecordBatch, columns: Clicks) -> tuple[NDArray[np.int32], NewItems]:
        sessions = self._sessions.at(batch)
        items = self._runner.item_index(columns.item_ids)
        seen = sessions.update(columns.session_ids, items, columns.item_ids, columns.event_times)
        self._sessions.advance(batch)
        return seen

    def _outputs(self, batch: RecordBatch, columns: Clicks, values: list[bytes]) -> list[Outputs]:
        keys: list[bytes | None] = [session.encode() for session in columns.session_ids]
        outputs = [self._publisher.decisions(batch, RECOMMENDATIONS, values, keys)]
        if columns.rejected:
            outputs.append(self._publisher.dead_letters(batch, columns.rejected, "decode"))
            for each in columns.rejected:
                self._metrics.rejected.labels(batch.tp.topic, each.code).inc()
        return outputs
