"""Topics on a cluster: made where they do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from streams.clients.cluster import offset_ranges, partition_counts, reading_consumer
from streams.clients.connection import ANSWER_S_MAX
from streams.contract.topics import Topic
from streams.errors import KafkaUnavailable
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Creation:
    """What `create_topics` found or did: `created` is False for a topic that existed, with `partitions` as found."""

    topic: Topic
    partitions: int
    created: bool


def create_topics(admin: AdminClient, settings: Settings, topics: Sequence[Topic] | None = None) -> list[Creation]:
    """Create those of `topics` that do not exist; leave the others as they are.

    Args:
        admin: client of the cluster.
        settings: partitions and replication_factor of new topics.
        topics: None takes the public ones, under their names on this cluster.

    Returns:
        One entry a topic, in order.

    Raises:
        KafkaUnavailable: the cluster refuses.
    """
    topics = settings.topics.all if topics is None else topics
    found = partition_counts(admin)
    new = {
        topic.name: NewTopic(
            topic.name,
            num_partitions=topic.partition_count(settings.partitions),
            replication_factor=settings.replication_factor,
            config=topic.config,
        )
        for topic in topics
        if topic.name not in found
    }
    created: set[str] = set()
    futures = admin.create_topics(list(new.values()), request_timeout=ANSWER_S_MAX) if new else {}
    for name, future in futures.items():
        try:
            future.result()
            created.add(name)
        except KafkaException as exc:
            # Someone else's create won the race: the topic is there, which is what was asked for.
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaUnavailable(
                    f"topic {name}: the cluster refused to create it with {settings.partitions} partitions and "
                    f"replication_factor={settings.replication_factor}: {exc.args[0].str()}"
                ) from exc
    # Answered by the leaders: whoever produces or reads right after this call finds them.
    with closing(reading_consumer(settings)) as consumer:
        offset_ranges(consumer, {name: new[name].num_partitions for name in created})
    return [Creation(t, found.get(t.name, t.partition_count(settings.partitions)), t.name in created) for t in topics]
