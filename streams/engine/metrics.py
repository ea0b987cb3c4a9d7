"""Every metric, once, with its meaning. Times are in seconds, as Prometheus wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from streams.engine.answered import Answered
from streams.transport.record_batch import RecordBatch

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class _Common(TypedDict):
    registry: CollectorRegistry
    namespace: str


class Metrics:
    """The worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: _Common = {"registry": self.registry, "namespace": "streams"}
        # Input records taken into a micro-batch, by job.
        self.records = Counter("records_total", "Input records taken into a micro-batch", ["job"], **common)
        # Input records refused by validation, by topic and code; each becomes one dead letter.
        self.rejected = Counter("rejected_total", "Input records sent to dead-letters", ["topic", "code"], **common)
        # Input records that came before within the horizon, and are not decided again, by topic.
        self.duplicates = Counter("duplicates_total", "Duplicate input records, decided once", ["topic"], **common)
        # Decisions by outcome: approve, review, decline.
        self.decisions = Counter("fraud_decisions_total", "Fraud decisions", ["decision"], **common)
        # Slates by strategy: sequence, neighbours, popular.
        self.slates = Counter("recommendations_total", "Recommendation slates", ["strategy"], **common)
        # Decisions and slates made without the model, which fails for everything, by job; counted among the above too.
        self.degraded = Counter("degraded_total", "Decisions without the model, which fails", ["job"], **common)
        # Records in one micro-batch: how well the device is used.
        self.batch_records = Histogram("batch_records", "Micro-batch size", ["job"], buckets=_RECORDS, **common)
        # From the fetch of a micro-batch's oldest record to its start: waiting for the device.
        self.queue_seconds = Histogram("queue_seconds", "Fetch to start", ["job"], buckets=_SECONDS, **common)
        # Running a micro-batch: decode, features, model, decision, encode.
        self.run_seconds = Histogram("run_seconds", "Run of a micro-batch", ["job"], buckets=_SECONDS, **common)
        # Checkpoints of the feature state, by table and result (written, failed).
        self.checkpoints = Counter("checkpoints_total", "Checkpoints of the state", ["table", "result"], **common)
        # Rows written by checkpoints, by table.
        self.checkpoint_rows = Counter("checkpoint_rows_total", "Rows written by checkpoints", ["table"], **common)
        # Failed writes of checkpoint files on this machine, one for each partition and round.
        self.checkpoint_file_failures = Counter(
            "checkpoint_file_failures_total", "Checkpoint files that could not be written", **common
        )
        # Input records replayed into state by restores, by table.
        self.restored = Gauge("restored_records", "Input records replayed since start", ["table"], **common)
        # Seconds this worker waited until its labels were complete.
        self.label_wait = Gauge("label_wait_seconds", "Time spent waiting for labels since start", **common)
        # Records between the committed offset and the end of the log, by topic and partition.
        self.lag = Gauge("lag_records", "Log end minus committed offset", ["topic", "partition"], **common)
        # Records delivered to agents and not confirmed, by topic.
        self.in_flight = Gauge("in_flight_records", "Records delivered, not confirmed", ["topic"], **common)

    def micro_batch(self, job: str, batches: Sequence[RecordBatch], started: float, ended: float) -> None:
        """Observe one micro-batch; times are monotonic seconds."""
        count = sum(map(len, batches))
        self.records.labels(job).inc(count)
        self.batch_records.labels(job).observe(count)
        self.queue_seconds.labels(job).observe(max(0.0, started - batches[0].fetched_at))
        self.run_seconds.labels(job).observe(ended - started)

    def answered(self, topic: str, answers: Answered) -> None:
        """Count the rejected and the repeated records of a batch."""
        if answers.repeats is not None:  # a job that looks for no repeats must not show a count of 0
            self.duplicates.labels(topic).inc(answers.repeats)
        for each in answers.rejected:
            self.rejected.labels(topic, each.code).inc()

    def text(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return generate_latest(self.registry)
