"""Every topic of the project, declared once: name, key, partitions, retention, schema."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from msgspec import Struct

from streams.contract.events import Click, DeadLetter, Decision, Recommendation, Transaction, TransactionLabel

DAY_MS: Final = 86_400_000
# Words for a topic that the cluster's metadata lacks.
MISSING: Final = "is missing, or this user may not see it; run `streams topics create`, or allow it"
# A row carries 67 days of one key's events, 1,024 at most; the largest seen is far below.
STATE_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic.

    Args:
        name: the topic's name on the cluster.
        key: field of the value that is also the Kafka key; None where the key is the original record's or internal.
        schema: struct of the JSON value; None for internal binary rows.
        config: topic settings as Kafka spells them.
        partitions: own count; None takes `Settings.partitions`. Topics that share a key must share the count.
    """

    name: str
    key: str | None
    schema: type[Struct] | None
    config: dict[str, str]
    partitions: int | None = None

    def partition_count(self, default: int) -> int:
        """Return how many partitions to create, `default` being `Settings.partitions`."""
        return default if self.partitions is None else self.partitions


def _kept_for(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}


# Small segments and an eager cleaner: a restore reads the whole topic, so dead rows cost start-up time.
_COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.2",
    "segment.bytes": str(64 * 1024 * 1024),
    "delete.retention.ms": str(DAY_MS),
    "max.message.bytes": str(STATE_BYTES_MAX),
}

TRANSACTIONS: Final = Topic("transactions", "card_id", Transaction, _kept_for(days=7))
CLICKSTREAM: Final = Topic("clickstream", "session_id", Click, _kept_for(days=7))
# Terminal features look back 30 days behind a delay of 7: what a restart may have to read again must still be there.
LABELS: Final = Topic("transaction-labels", "card_id", TransactionLabel, _kept_for(days=90))
DECISIONS: Final = Topic("fraud-decisions", "card_id", Decision, _kept_for(days=7))
RECOMMENDATIONS: Final = Topic("recommendations", "session_id", Recommendation, _kept_for(days=7))
DEAD_LETTERS: Final = Topic("dead-letters", None, DeadLetter, _kept_for(days=30), partitions=1)

INPUTS: Final = (TRANSACTIONS, CLICKSTREAM, LABELS)
OUTPUTS: Final = (DECISIONS, RECOMMENDATIONS, DEAD_LETTERS)
ALL: Final = INPUTS + OUTPUTS


@dataclass(frozen=True, slots=True)
class Topics:
    """The public topics by their role, with the names that they have on one cluster."""

    transactions: Topic = TRANSACTIONS
    clickstream: Topic = CLICKSTREAM
    labels: Topic = LABELS
    decisions: Topic = DECISIONS
    recommendations: Topic = RECOMMENDATIONS
    dead_letters: Topic = DEAD_LETTERS

    @classmethod
    def under(cls, prefix: str) -> Topics:
        """Return the topics whose names begin with `prefix` (the setting `topic_prefix`)."""
        return cls(*(replace(topic, name=prefix + topic.name) for topic in ALL)) if prefix else cls()

    def called(self, name: str) -> Topic:
        """Return the topic that is called `name` without the prefix."""
        return next(topic for topic, declared in zip(self.all, ALL, strict=True) if declared.name == name)

    @property
    def inputs(self) -> tuple[Topic, ...]:
        """Topics that workers read."""
        return self.transactions, self.clickstream, self.labels

    @property
    def outputs(self) -> tuple[Topic, ...]:
        """Topics that workers write."""
        return self.decisions, self.recommendations, self.dead_letters

    @property
    def all(self) -> tuple[Topic, ...]:
        """All of them, inputs first."""
        return self.inputs + self.outputs


def state_topic(application_id: str, name: str, source_partitions: int) -> Topic:
    """Return the topic of an application's checkpoints; its workers create it with the partitions of its source."""
    return Topic(f"{application_id}-{name}", None, None, _COMPACTED, source_partitions)
