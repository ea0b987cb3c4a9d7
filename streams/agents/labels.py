"""Labels: outcomes of payments. One worker checks each label; every worker reads all of them into its terminal history."""

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

# As long as the topic keeps labels: a starting worker reads all of them and reaches the same history.
DUPLICATES_HORIZON_MS = 90 * DAY_MS


class LabelJob:
    """Checks labels: the owner of a partition makes each invalid one a dead letter.

    Args:
        topic: topic of the labels; a label has no answer.
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
        """Do nothing: a label waits for no other record."""

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[Labels]) -> list[Answered]:
        """Return the rejected labels of each batch."""
        return [Answered(self._topic, [], [], labels.rejected) for labels in decoded]


class LabelReplay:
    """Applies labels to the terminal history, each once: the first label for a transaction_id counts."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._seen = limits, SeenRecords(DUPLICATES_HORIZON_MS)

    def __call__(self, terminals: TerminalHistory, values: Sequence[bytes | None], timestamps: Sequence[int]) -> None:
        labels = decode_labels(values, now_ms=timestamps, limits=self._limits)
        moments = np.array(timestamps, np.int64)[labels.accepted]
        labels = labels.without(self._seen.duplicates(labels.terminal_ids, labels.transaction_ids, moments))
        terminals.add(labels.terminal_ids, labels.event_times, labels.is_fraud)
