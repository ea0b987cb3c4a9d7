"""Recommendations: every click gets a slate of items for its session, the click itself included."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.features.clicks import ClickHistory, NewItems
from models.features.seen import SeenRecords
from models.recommender.runner import RecommenderRunner, Slates
from streams.contract.columns import Clicks, Limits
from streams.contract.decoding import decode_clicks
from streams.contract.encoding import ModelName, Timing, encode_recommendations
from streams.contract.events import Headers
from streams.contract.topics import CLICKSTREAM, RECOMMENDATIONS
from streams.engine.failover import Failover
from streams.engine.isolation import set_aside
from streams.engine.metrics import Metrics
from streams.engine.publishing import Publisher
from streams.state.table import StateTable
from streams.transport.outputs.producer import Outputs
from streams.transport.record_batch import RecordBatch

if TYPE_CHECKING:
    from streams.worker.application import Application


def recommendations_agent(app: Application) -> None:
    """Declare the agent that answers clicks."""

    @app.agent(app.batched(CLICKSTREAM), name="recommendations")
    async def recommend(stream):  # type: ignore[no-untyped-def]
        async for fetch in stream.noack():
            app.worker.recommendations.submit(fetch)


class SessionState(ClickHistory):
    """What a partition's clicks leave behind: sessions, what followed each item, and which clicks it has seen."""

    def __init__(self, length: int, duplicates_horizon_ms: int) -> None:
        self.seen = SeenRecords(duplicates_horizon_ms)
        super().__init__(length, self.seen)

    def without_duplicates(self, clicks: Clicks, timestamps: Sequence[int]) -> Clicks:
        """Return the clicks that were not seen before, each remembered now.

        Args:
            timestamps: of the records that the clicks were decoded from, ms.
        """
        moments = np.array(timestamps, np.int64)[clicks.accepted]
        return clicks.without(self.seen.duplicates(clicks.session_ids, clicks.identities(), moments))


class SessionReplay:
    """Applies clicks to a partition's state without answering them: how state is rebuilt from the log."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(
        self, state: SessionState, values: list[bytes | None], timestamps: list[int], headers: list[Headers]
    ) -> None:
        clicks = decode_clicks(values, now_ms=timestamps, limits=self._limits, headers=headers)
        clicks = state.without_duplicates(clicks, timestamps)
        state.update(clicks.session_ids, clicks.item_ids, clicks.event_times, clicks.again())


class RecommendationJob:
    """One micro-batch of clicks: session history, one forward pass, slates."""

    name = "recommendations"

    def __init__(
        self,
        runner: RecommenderRunner,
        sessions: StateTable[SessionState],
        top_k: int,
        keep_seen: bool,
        new_items: bool,
        failover: Failover,
        limits: Limits,
        publisher: Publisher,
        metrics: Metrics,
    ) -> None:
        self._runner, self._sessions, self._limits = runner, sessions, limits
        self._top_k, self._keep_seen, self._new_items = top_k, keep_seen, new_items
        self._publisher, self._metrics = publisher, metrics
        self._failover = failover
        self._model = ModelName(runner.name, runner.version)
        self._degraded = metrics.degraded.labels(self.name)

    def decode(self, batch: RecordBatch) -> Clicks:
        return decode_clicks(batch.values, now_ms=batch.timestamps, limits=self._limits, headers=batch.headers)

    def is_quick(self, batches: Sequence[RecordBatch], clicks: Sequence[Clicks]) -> bool:
        return self._sessions.stands_before(batches)

    def run(self, batches: Sequence[RecordBatch], clicks: Sequence[Clicks]) -> list[list[Outputs]]:
        """Return each batch's slates and dead letters."""
        started = time.monotonic()
        sequences, new, clicks = self._sequences(batches, clicks)
        answers = self._failover(self._recommend, sequences, self._recommend_popular)
        if answers.culprits:
            clicks, new = set_aside(clicks, answers.culprits), new.without(answers.culprits)
        slates = Slates.joined(answers.parts)
        if self._new_items:
            slates = self._runner.with_new(slates, new)
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
                degraded=answers.degraded,
            )
            outputs.append(self._outputs(batch, columns, values))
        for strategy, count in Counter(slates.strategies).items():
            self._metrics.slates.labels(strategy).inc(count)
        if answers.degraded:
            self._degraded.inc(end)
        return outputs

    def _sequences(
        self, batches: Sequence[RecordBatch], clicks: Sequence[Clicks]
    ) -> tuple[NDArray[np.int32], NewItems, list[Clicks]]:
        """Return what each click that is no repeat has seen, int32[B, T] and new items, and those clicks by batch."""
        sequences, new, fresh = [], NewItems([], []), []
        for batch, decoded in zip(batches, clicks, strict=True):
            state = self._sessions.at(batch)
            columns = state.without_duplicates(decoded, batch.timestamps)
            trails = state.update(columns.session_ids, columns.item_ids, columns.event_times, columns.again())
            sequences.append(self._runner.places(trails.sessions))
            new.extend(state.new_items(trails, self._runner.places(trails.followers) >= 0))
            self._sessions.advance(batch)
            self._metrics.duplicates.labels(batch.tp.topic).inc(len(decoded.accepted) - len(columns.accepted))
            fresh.append(columns)
        return np.concatenate(sequences), new, fresh

    def _recommend(self, sequences: NDArray[np.int32]) -> Slates:
        slates = self._runner.recommend(sequences, self._top_k, self._keep_seen)
        if not np.isfinite(slates.scores).all():
            raise ArithmeticError("a score is not a finite number")
        return slates

    def _recommend_popular(self, sequences: NDArray[np.int32]) -> Slates:
        return self._runner.recommend_popular(sequences, self._top_k, self._keep_seen)

    def _outputs(self, batch: RecordBatch, columns: Clicks, values: list[bytes]) -> list[Outputs]:
        keys: list[bytes | None] = [session.encode() for session in columns.session_ids]
        outputs = [self._publisher.decisions(batch, RECOMMENDATIONS, values, keys)]
        if columns.rejected:
            outputs.append(self._publisher.dead_letters(batch, columns.rejected))
            for each in columns.rejected:
                self._metrics.rejected.labels(batch.tp.topic, each.code).inc()
        return outputs
