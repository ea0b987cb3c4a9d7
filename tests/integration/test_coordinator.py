"""How transactions ended, asked of a real broker."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.errors import KafkaUnavailable
from streams.kafka.processes import free_ports
from streams.transport import coordinator
from streams.transport.coordinator import TransactionCoordinator

pytestmark = pytest.mark.kafka


def created(servers: str, topic: str) -> str:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    return topic


def begin(producer: Producer, topic: str) -> None:
    producer.begin_transaction()
    producer.produce(topic, "value", "key", 0)
    assert producer.flush(10) == 0


def test_the_last_transaction_tells_how_it_was_to_end(kafka: str) -> None:
    """Until a new producer of the id takes the answer with it."""
    topic = created(kafka, "ended")
    asked = TransactionCoordinator(kafka, {})
    names = [f"writer-{how}" for how in ("committed", "aborted", "open", "idle")]
    producers = [Producer({"bootstrap.servers": kafka, "transactional.id": name}) for name in names]
    for producer in producers:
        producer.init_transactions(30)
    for producer in producers[:3]:
        begin(producer, topic)
    producers[0].commit_transaction(10)
    producers[1].abort_transaction(10)
    assert asked.committed([*names, "nobody"]) == {"writer-committed"}
    again = Producer({"bootstrap.servers": kafka, "transactional.id": names[0]})
    again.init_transactions(30)
    assert asked.committed(names) == frozenset()


def test_an_end_fences_who_wrote_before(kafka: str) -> None:
    """It would write into what was just ended."""
    topic = created(kafka, "fenced")
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    begin(producer, topic)
    TransactionCoordinator(kafka, {}).end(topic, [(topic, 0)], "group", commit=True)
    with pytest.raises(KafkaException, match="fenced"):
        producer.commit_transaction(10)


def test_no_answer_and_a_refusal_are_told(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the time that is left for it, and by the broker's own word."""
    monkeypatch.setattr(coordinator, "ANSWER_S_MAX", 1.0)
    began = time.monotonic()
    with pytest.raises(KafkaUnavailable, match=r"one: its last transaction was not ended within 1 s: .*UnknownTopic"):
        TransactionCoordinator(kafka, {}).end("one", [("no such topic", 0)], None, commit=False)
    with pytest.raises(KafkaUnavailable, match="one, two: no state within 1 s: no broker answers"):
        TransactionCoordinator(f"127.0.0.1:{free_ports(1)[0]}", {}).committed(["one", "two"])
    assert time.monotonic() - began < 5.0
