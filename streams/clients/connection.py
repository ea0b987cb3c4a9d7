"""Connections to a cluster: one place that makes each kind of client, and the first contact of a process.

The clients of Faust and those that write outputs and state are in `streams.transport` and `streams.state`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from streams.errors import KafkaUnavailable
from streams.settings import Settings

# How long a command, and the start of a worker, wait for the cluster. A healthy cluster answers in milliseconds; ten
# seconds cover a broker that is still starting, and are what a user waits before a wrong address is an error.
COMMAND_ANSWER_S_MAX: Final = 10.0
# How long a running worker waits. Giving up costs a restart, which waits for the same cluster. Longer than a dead broker's
# leaders take to move (9 s), and than a dead worker's state transaction stays open: 15 s, which brokers check every 10 s.
WORKER_ANSWER_S_MAX: Final = 30.0
# librdkafka prints each failed connection on stderr; a command prints one sentence instead.
QUIET: Final[dict[str, Any]] = {"log_level": 0}
# Waiting does not make a certificate trusted or a password right; the other brokers had this long to answer.
REFUSED: Final = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION})
REFUSED_S: Final = 1.0

READING: Final[dict[str, Any]] = {
    # Positions are the reader's own: nothing is committed, so librdkafka need not keep them for a commit either.
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Records of an open or aborted transaction are no results.
    "isolation.level": "read_committed",
    # Transaction markers have offsets and are never handed out: only this event says that a log ends with one.
    "enable.partition.eof": True,
    # Where retention has deleted the position, read what is left instead of skipping to the end.
    "auto.offset.reset": "earliest",
    # Memory of one reader, in KiB.
    "queued.max.messages.kbytes": 65_536,
    # By default a full queue delays the next fetch by a second: most of the time of a long read.
    "fetch.queue.backoff.ms": 5,
}
PRODUCING: Final[dict[str, Any]] = {
    # All in-sync replicas hold a record before it counts as delivered.
    "acks": "all",
    # Java's and Faust's partitioner: a key's records reach the partition that holds the key's state.
    "partitioner": "murmur2_random",
}


def command_config(settings: Settings) -> dict[str, Any]:
    """Return librdkafka's connection settings for a client of a command, which logs nothing on stderr.

    Raises:
        SettingsError: no address is set and no embedded broker runs.
    """
    return {**settings.librdkafka(), **QUIET}


def reading_consumer(config: Mapping[str, Any], group: str, **extra: Any) -> Consumer:
    """Return a consumer that joins no group, commits nothing and sees committed records only.

    Args:
        config: connection settings of librdkafka.
        group: a group that this user may see. librdkafka requires one; `assign` never joins it.
        extra: settings of librdkafka that win over READING.
    """
    return Consumer({**config, "group.id": group, **READING, **extra})


def idempotent_producer(config: Mapping[str, Any], **extra: Any) -> Producer:
    """Return a producer that neither repeats nor reorders records, whatever it has to send again.

    Args:
        config: connection settings of librdkafka.
        extra: settings of librdkafka: batches, queues, callbacks.
    """
    return Producer({**config, **PRODUCING, "enable.idempotence": True, **extra})


def admin_client(config: Mapping[str, Any], **extra: Any) -> AdminClient:
    """Return a client for requests about topics and groups; it connects at the first one."""
    return AdminClient({**config, **extra})


def connect(settings: Settings) -> AdminClient:
    """Return an admin client of a cluster that has just answered.

    Raises:
        KafkaUnavailable: no broker answered within COMMAND_ANSWER_S_MAX, or one refused the client.
        SettingsError: no address is set and no embedded broker runs.
    """
    seen: list[KafkaError] = []
    config = command_config(settings)
    try:
        admin = admin_client(config, error_cb=seen.append)
    except KafkaException as exc:
        raise KafkaUnavailable(f"Kafka client: expected settings that it accepts, got {exc.args[0].str()!r}") from exc
    deadline = time.monotonic() + COMMAND_ANSWER_S_MAX
    while True:
        try:
            admin.list_topics(timeout=REFUSED_S)
        except KafkaException as exc:
            admin.poll(0)  # hands over the causes: "connection refused" says more than "transport failure"
            refusals = [error for error in seen if error.code() in REFUSED]
            if refusals or time.monotonic() > deadline:
                causes = [error for error in seen if error.code() != KafkaError._ALL_BROKERS_DOWN]
                cause = (refusals or causes or [exc.args[0]])[-1].str()
                raise KafkaUnavailable(
                    f"bootstrap_servers={config['bootstrap.servers']}: expected a broker's answer within "
                    f"{COMMAND_ANSWER_S_MAX:.0f} s, got {cause!r}; "
                    "check the address and the security settings, or run `streams kafka start`"
                ) from exc
        else:
            return admin
