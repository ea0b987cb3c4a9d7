"""Labels: what became of payments. The group checks each label once; every worker's terminal history follows the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.features.seen import SeenRecords
from models.features.terminals import TerminalHistory
from streams.contract.columns import Labels, Limits
from streams.contract.decoding import decode_labels
from streams.contract.topics import DAY_MS, LABELS
from streams.engine.metrics import Metrics
from streams.engine.publishing import Publisher
from streams.transport.outputs.producer import Outputs
from streams.transport.record_batch import RecordBatch

# As long as the topic keeps labels: a worker that starts reads all of them, and comes to the same history.
DUPLICATES_HORIZON_MS = 90 * DAY_MS

if TYPE_CHECKING:
    from streams.worker.application import Application


def labels_agent(app: Application) -> None:
    """Declare the agent that checks labels."""

    @app.agent(app.batched(LABELS), name="labels")
    async def check_labels(stream):  # type: ignore[no-untyped-def]
        async for fetch in stream.noack():
            app.worker.labels.submit(fetch)


class LabelJob:
    """One micro-batch of labels: the invalid ones become dead letters, by the one worker that owns their partition."""

    name = "labels"

    def __init__(self, limits: Limits, publisher: Publisher, metrics: Metrics) -> None:
        self._limits, self._publisher, self._metrics = limits, publisher, metrics

    def decode(self, batch: RecordBatch) -> Labels:
        return decode_labels(batch.values, now_ms=batch.timestamps, limits=self._limits)

    def is_quick(self, batches: Sequence[RecordBatch], labels: Sequence[Labels]) -> bool:
        return True

    def run(self, batches: Sequence[RecordBatch], labels: Sequence[Labels]) -> list[list[Outputs]]:
        """Return each batch's dead letters."""
        outputs: list[list[Outputs]] = []
        for batch, columns in zip(batches, labels, strict=True):
            rejected = columns.rejected
            outputs.append([self._publisher.dead_letters(batch, rejected)] if rejected else [])
            for each in rejected:
                self._metrics.rejected.labels(batch.tp.topic, each.code).inc()
        return outputs


class LabelReplay:
    """Applies labels to the terminal history, each once: of labels for one transaction_id the first counts."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._seen = limits, SeenRecords(DUPLICATES_HORIZON_MS)

    def __call__(self, terminals: TerminalHistory, values: Sequence[bytes | None], timestamps: Sequence[int]) -> None:
        labels = decode_labels(values, now_ms=timestamps, limits=self._limits)
        moments = np.array(timestamps, np.int64)[labels.accepted]
        labels = labels.without(self._seen.duplicates(labels.terminal_ids, labels.transaction_ids, moments))
        terminals.add(labels.terminal_ids, labels.event_times, labels.is_fraud)
