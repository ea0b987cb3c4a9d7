"""Labels: what became of payments. The group checks each label once; every worker's terminal history follows the log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.features.seen import SeenRecords
from models.features.terminals import TerminalHistory
from streams.contract.columns import Labels, Limits
from streams.contract.decoding import decode_labels
from streams.contract.topics import DAY_MS, Topic
from streams.engine.answered import Answered
from streams.transport.record_batch import RecordBatch

# As long as the topic keeps labels: a worker that starts reads all of them, and comes to the same history.
DUPLICATES_HORIZON_MS = 90 * DAY_MS


class LabelJob:
    """Checks labels: the invalid ones become dead letters, by the one worker that owns their partition.

    Args:
        topic: the labels' own; a label has no answer.
        limits: bounds on a record.
    """

    name = "labels"

    def __init__(self, topic: Topic, limits: Limits) -> None:
        self._topic, self._limits = topic, limits

    def decode(self, batch: RecordBatch) -> Labels:
        return decode_labels(batch.values, now_ms=batch.timestamps, limits=self._limits)

    def is_quick(self, batches: Sequence[RecordBatch], decoded: Sequence[Labels]) -> bool:
        return True

    def prepare(self, decoded: Sequence[Labels]) -> None:
        """Wait for nothing."""

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[Labels]) -> list[Answered]:
        """Return what is wrong with each batch."""
        return [Answered(self._topic, [], [], labels.rejected) for labels in decoded]


class LabelReplay:
    """Applies labels to the terminal history, each once: of labels for one transaction_id the first counts."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._seen = limits, SeenRecords(DUPLICATES_HORIZON_MS)

    def __call__(self, terminals: TerminalHistory, values: Sequence[bytes | None], timestamps: Sequence[int]) -> None:
        labels = decode_labels(values, now_ms=timestamps, limits=self._limits)
        moments = np.array(timestamps, np.int64)[labels.accepted]
        labels = labels.without(self._seen.duplicates(labels.terminal_ids, labels.transaction_ids, moments))
        terminals.add(labels.terminal_ids, labels.event_times, labels.is_fraud)
