"""Jobs of a worker without a worker: a log in memory, one partition, outputs in the hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
from faust.types import TP

from models.features.sessions import LENGTH
from models.features.terminals import TerminalHistory
from models.fraud.runner import FraudRunner
from models.recommender.runner import RecommenderRunner
from streams.agents.fraud import CardReplay, CardState, FraudJob, FraudModel
from streams.agents.recommendations import RecommendationJob, SessionReplay, SessionState
from streams.contract.columns import Limits
from streams.contract.events import FAILED_AT, Headers
from streams.contract.topics import CLICKSTREAM, DECISIONS, RECOMMENDATIONS, TRANSACTIONS, Topic, Topics
from streams.engine.failover import Failover
from streams.engine.metrics import Metrics
from streams.engine.publishing import Publisher
from streams.engine.slot import ModelSlot
from streams.policy.rules import Rules, default_rules
from streams.policy.thresholds import Thresholds
from streams.state.table import StateTable
from streams.transport.outputs.producer import Outputs
from streams.transport.record_batch import RecordBatch

DAY_MS = 86_400_000
LIMITS = Limits()
RULES = Rules(default_rules(card_count_10min=4, amount_over_typical=5.0, terminal_frauds=2.0, night_amount=500.0))


class Log:
    """A partition of a topic, and a reader of it; the state topic beside it stays empty."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.records: list[tuple[bytes, Headers]] = []

    def ends(self, topic: str, numbers: Sequence[int]) -> dict[int, int]:
        """Return where a topic's partitions end, as a `LogReader` does."""
        return dict.fromkeys(numbers, len(self.records) if topic == self.topic.name else 0)

    def append(self, records: Sequence[dict[str, Any]], headers: Headers = None) -> RecordBatch:
        """Add records and return them as the batch that a consumer would make of them."""
        first = len(self.records)
        self.records += [(orjson.dumps(record), headers) for record in records]
        values: list[bytes | None] = [value for value, _ in self.records[first:]]
        keys: list[bytes | None] = [str(record[self.topic.key or ""]).encode() for record in records]
        stop, count = len(self.records), len(records)
        offsets, timestamps = list(range(first, stop)), list(map(self.timestamp, range(first, stop)))
        place = TP(self.topic.name, 0)
        return RecordBatch(
            place, first, stop, offsets, keys, values, timestamps, [headers] * count, 1, time.monotonic()
        )

    @staticmethod
    def timestamp(offset: int) -> int:
        """Return a record's Kafka timestamp: well after any event time of the simulator's."""
        return 4_000_000_000_000 + offset

    def read(self, topic: str, partition: int, first: int, stop: int | None = None) -> Iterator[list[Any]]:
        if topic == self.topic.name and self.records[first:stop]:
            yield [
                SimpleNamespace(
                    value=lambda v=value: v, timestamp=lambda o=first + n: (1, self.timestamp(o)), headers=lambda h=headers: h
                )
                for n, (value, headers) in enumerate(self.records[first:stop])
            ]  # fmt: skip


def failed_at(topic: Topic, offset: int) -> Headers:
    """Return the headers of a record that is sent again because the model failed for the one at `offset`."""
    return [(FAILED_AT, f"{topic.name}[0]@{offset}".encode())]


class Model:
    """A runner that can be told to fail: for everything, or where `fails` says so of the rows."""

    def __init__(self, runner: Any) -> None:
        self._runner, self.broken = runner, False
        self.fails: Callable[[Any], bool] = lambda rows: False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def _refuse(self, rows: Any) -> None:
        if self.broken or self.fails(rows):
            raise RuntimeError("the model fails, because a test told it to")

    def score(self, features: Any) -> Any:
        self._refuse(features)
        return self._runner.score(features)

    def recommend(self, sequences: Any, *args: Any) -> Any:
        self._refuse(sequences)
        return self._runner.recommend(sequences, *args)


class Bench:
    """A job over a log.

    Args:
        kind: FraudJob or RecommendationJob.
        runner: its model.
        degrade: as for `Failover`.
    """

    def __init__(self, kind: Any, runner: FraudRunner | RecommenderRunner, degrade: bool = False) -> None:
        self.model: Any = Model(runner)
        self.metrics, self.now = Metrics(), 0.0
        self.failover = Failover(kind.name, degrade, lambda: self.now)
        self._kind, self._log = kind, Log(TRANSACTIONS if kind is FraudJob else CLICKSTREAM)
        self.slot: ModelSlot[Any] = ModelSlot(None)
        producer: Any = SimpleNamespace(partition_counts=lambda names: dict.fromkeys(names, 1))
        self._publisher = Publisher(producer, Topics())
        self.restart()

    def restart(self) -> None:
        """Forget the state; it is rebuilt from the log."""
        reader: Any = self._log
        shared: dict[str, Any] = {"limits": LIMITS, "metrics": self.metrics}
        if self._kind is FraudJob:
            labels: Any = SimpleNamespace(
                lock=threading.Lock(), history=TerminalHistory(), wait_for=lambda _: None, is_complete=lambda _: True
            )
            self.table: StateTable[Any] = StateTable(
                "state", TRANSACTIONS.name, "cards/2", lambda: CardState(DAY_MS), CardReplay(LIMITS), reader
            )
            self.slot.swap(FraudModel(self.model, Thresholds(0.5, 0.9)))
            self.job: Any = FraudJob(
                self.slot,
                self.table,
                self.failover,
                output=DECISIONS,
                labels=labels,
                rules=RULES,
                reasons_max=3,
                **shared,
            )
        else:
            self.table = StateTable(
                "state", CLICKSTREAM.name, "sessions/4", lambda: SessionState(LENGTH, DAY_MS), SessionReplay(LIMITS), reader,
            )  # fmt: skip
            self.slot.swap(self.model)
            self.job = RecommendationJob(
                self.slot, self.table, self.failover, output=RECOMMENDATIONS, top_k=10, keep_seen=False, new_items=True,
                **shared,
            )  # fmt: skip

    def send(
        self, records: Sequence[dict[str, Any]], headers: Headers = None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Have the job run over one batch of these records; return its answers and dead letters."""
        batch = self._log.append(records, headers)
        (answered,) = self.job.run([batch], [self.job.decode(batch)])
        self.metrics.answered(batch.tp.topic, answered)
        outputs = self._publisher.outputs(batch, answered)
        return values(outputs, letters=False), values(outputs, letters=True)

    @property
    def position(self) -> int:
        """Where the log ends."""
        return len(self._log.records)

    def digest(self) -> str:
        """Return the digest of the state as it stands behind the log's last record."""
        batch = self._log.append([])
        found: str = self.table.at(batch).digest()
        self.table.advance(batch)
        return found


def values(outputs: Sequence[Outputs], *, letters: bool) -> list[dict[str, Any]]:
    """Return the values of outputs: the dead letters, or all others."""
    return [
        orjson.loads(value) for each in outputs if (each.topic == "dead-letters") == letters for value in each.values
    ]
