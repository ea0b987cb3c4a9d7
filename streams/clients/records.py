"""Records of a consumer: the one place that polls and tells records from ends and errors."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, Message

from streams.errors import KafkaUnavailable

Place = tuple[str, int]  # topic and partition


def poll_records(consumer: Consumer, wait_s: float, records_max: int) -> tuple[list[Message], dict[Place, int]]:
    """Return the records that have arrived, and the end position of each partition whose end was reached.

    Args:
        consumer: with `enable.partition.eof` where ends are wanted.
        wait_s: seconds to wait for the first record; the others are taken without waiting.
        records_max: most records taken behind the first.

    Raises:
        KafkaUnavailable: an error of a partition. One that librdkafka heals by itself is passed over.
    """
    ends: dict[Place, int] = {}
    head = consumer.poll(wait_s)  # consume() alone would wait the whole time for a full list
    if head is None:
        return [], ends
    taken = [head, *consumer.consume(records_max, 0)]
    found = [message for message in taken if message.error() is None]
    if len(found) == len(taken):
        return found, ends
    for message in taken:
        error = message.error()
        if error is None:
            continue
        if error.code() == KafkaError._PARTITION_EOF:
            ends[str(message.topic()), message.partition() or 0] = message.offset() or 0
        elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
            raise KafkaUnavailable(f"{message.topic()}[{message.partition()}]: {error.str()}")
    return found, ends
