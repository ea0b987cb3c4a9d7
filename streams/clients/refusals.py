"""Refusals: why the cluster does not do what a producer asks."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as RdProducer

# Trying again changes nothing.
NOT_ALLOWED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)


def cause_of(error: KafkaError, client: RdProducer) -> KafkaError:
    """Return why a transaction has failed, where `error` says only that it has: librdkafka gives the cause to the next call."""
    if error.code() not in (KafkaError._STATE, KafkaError._FATAL):
        return error
    try:
        client.begin_transaction()  # refused within a transaction, with the cause of its failure if that is known
    except KafkaException as exc:
        found: KafkaError = exc.args[0]
        if found.code() not in (KafkaError._STATE, KafkaError._CONFLICT):
            return found
    return error
