"""Topics on a cluster: made where they do not exist, or given more partitions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from streams.clients.cluster import offset_ranges, partition_counts
from streams.clients.connection import COMMAND_ANSWER_S_MAX, command_config, reading_consumer
from streams.contract.topics import Topic
from streams.errors import KafkaUnavailable
from streams.settings import Settings

TAKEN_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Creation:
    """The outcome of `create_topics` for one topic.

    Attributes:
        topic: as declared.
        partitions: as found where the topic existed, else as created.
        created: False for a topic that existed.
    """

    topic: Topic
    partitions: int
    created: bool


def new_topic(topic: Topic, settings: Settings, **config: str) -> NewTopic:
    """Return the request for a declared topic.

    Args:
        topic: name, partitions and configuration.
        settings: replication_factor, and partitions of a topic that declares none.
        config: topic settings that win over the declared ones.
    """
    return NewTopic(
        topic.name,
        topic.partition_count(settings.partitions),
        settings.replication_factor,
        config={**topic.config, **config},
    )


def make_topics(
    admin: AdminClient,
    consumer: Consumer,
    topics: Sequence[NewTopic],
    *,
    answer_s_max: float = COMMAND_ANSWER_S_MAX,
    taken_s_max: float = 0.0,
) -> dict[str, KafkaError]:
    """Create topics, and return once the leaders of all that were created answer. Blocking.

    Args:
        admin: sends the request.
        consumer: asks the leaders.
        topics: what to create.
        answer_s_max: seconds for the answer of the cluster, and again for those of the leaders.
        taken_s_max: seconds to try again while a name is taken: a deleted one stays so for a moment.

    Returns:
        The refusal of each topic that was not created: TOPIC_ALREADY_EXISTS, a lacking permission, no answer in time.

    Raises:
        KafkaUnavailable: a partition has no leader in time.
    """
    missing = {topic.topic: topic for topic in topics}
    refused: dict[str, KafkaError] = {}
    deadline = time.monotonic() + taken_s_max
    while missing:
        for name, future in admin.create_topics(list(missing.values()), request_timeout=answer_s_max).items():
            try:
                future.result()
                refused.pop(name, None)
            except KafkaException as exc:
                refused[name] = exc.args[0]
                if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS and time.monotonic() < deadline:
                    continue
            del missing[name]
        if missing:
            time.sleep(TAKEN_PAUSE_S)
    # A producer or consumer that starts right after this call finds every leader.
    made = {topic.topic: topic.num_partitions for topic in topics if topic.topic not in refused}
    offset_ranges(consumer, made, answer_s_max)
    return refused


def grow_topic(admin: AdminClient, name: str, partitions: int, answer_s_max: float) -> KafkaError | None:
    """Give a topic so many partitions in all; return the cluster's refusal, or None. Blocking."""
    try:
        admin.create_partitions([NewPartitions(name, partitions)], request_timeout=answer_s_max)[name].result()
    except KafkaException as exc:
        error: KafkaError = exc.args[0]
        return error
    return None


def create_topics(admin: AdminClient, settings: Settings) -> list[Creation]:
    """Create those of the public topics that do not exist; leave the others as they are.

    Args:
        admin: client of the cluster.
        settings: the cluster; partitions and replication_factor of new topics.

    Returns:
        One entry a topic, in order.

    Raises:
        KafkaUnavailable: the cluster refuses.
    """
    topics = settings.topics.all
    found = partition_counts(admin)
    new = [new_topic(topic, settings) for topic in topics if topic.name not in found]
    with closing(reading_consumer(command_config(settings), settings.application_id)) as consumer:
        refused = make_topics(admin, consumer, new)
    for name, error in refused.items():
        # Another process created the topic in the meantime: the topic exists, as asked.
        if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise KafkaUnavailable(
                f"topic {name}: the cluster refused to create it with {settings.partitions} partitions and "
                f"replication_factor={settings.replication_factor}: {error.str()}"
            )
    created = {topic.topic for topic in new} - refused.keys()
    return [Creation(t, found.get(t.name, t.partition_count(settings.partitions)), t.name in created) for t in topics]
