"""A cluster that wants a password: workers, commands and state writers all show it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.commands.topics import create_topics
from streams.kafka import EmbeddedKafka
from streams.settings import load_settings
from tests.support.traffic import payments
from tests.support.workers import Bench, poll_until

pytestmark = pytest.mark.kafka

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SERVER = {
    "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": f'{LOGIN} username="u" password="p" user_u="p";',
}
SETTINGS = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "u", "sasl_password": "p"}


def test_a_worker_decides_on_a_cluster_with_passwords(tmp_path: Path) -> None:
    """Group membership, outputs, label readers and checkpoints all pass the broker's SASL listener."""
    settings = load_settings(env={}, bootstrap_servers="x:1", **SETTINGS)
    client = {key: value for key, value in settings.librdkafka().items() if key != "bootstrap.servers"}
    with EmbeddedKafka(tmp_path / "kafka", extra=SERVER, client=client) as kafka:
        bench = Bench(kafka.bootstrap_servers, tmp_path, "secure", checkpoint_interval_s=1, **SETTINGS)
        config = {"bootstrap.servers": kafka.bootstrap_servers, **client}
        admin = AdminClient(config)
        create_topics(admin, load_settings(env={}, bootstrap_servers=kafka.bootstrap_servers, **SETTINGS))
        producer = Producer({**config, "partitioner": "murmur2_random"})
        records, _ = payments(500)
        for record in records:
            producer.produce("transactions", orjson.dumps(record), record["card_id"])
        assert producer.flush(30) == 0
        consumer = Consumer({**config, "group.id": "look"})

        def held(topic: str) -> int:
            numbers = consumer.list_topics(topic, 10).topics[topic].partitions
            return sum(consumer.get_watermark_offsets(TopicPartition(topic, n), 10)[1] for n in numbers)

        try:
            worker = bench.start(0).wait_until_ready()
            poll_until(lambda: held("fraud-decisions") == 500, 60, "500 decisions")
            poll_until(lambda: held("secure-card-state") > 0, 30, "a checkpoint")
            assert worker.stop() < 10.0
            assert "p" not in [word.strip("'\"") for word in worker.log.read_text().split()]
        finally:
            consumer.close()
            bench.close()
