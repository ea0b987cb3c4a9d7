"""How transactions ended, asked of a real broker."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.clients.log_reader import LogReader
from streams.errors import KafkaUnavailable
from streams.processes.identity import free_ports
from streams.transport.ownership import coordinator
from streams.transport.ownership.coordinator import TransactionCoordinator
from tests.support.workers import poll_until

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
    """Also to a worker that fences after an unfinished fence, but not once a worker has begun anew."""
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
    for _ in range(2):
        fenced = asked.fence([*names, "writer-unknown"])
        assert [each.transactional_id for each in fenced if each.to_commit] == ["writer-committed"]
    again = Producer({"bootstrap.servers": kafka, "transactional.id": names[0]})
    again.init_transactions(30)
    assert not any(each.to_commit for each in asked.fence(names))


def test_a_fence_refuses_who_wrote_before(kafka: str) -> None:
    """It would write into what is ended; a worker that is fenced itself meanwhile leaves the end to the other."""
    topic = created(kafka, "fenced")
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    begin(producer, topic)
    asked = TransactionCoordinator(kafka, {})
    first, second = (asked.fence([topic]) for _ in range(2))
    with pytest.raises(KafkaException, match="fenced"):
        producer.commit_transaction(10)
    with closing(LogReader({"bootstrap.servers": kafka}, "test", isolation="read_uncommitted")) as reader:
        before = reader.ends(topic, [0])[0]
        asked.end(first, [(topic, 0)], "group")
        assert reader.ends(topic, [0])[0] == before
        asked.end(second, [(topic, 0)], "group")
        poll_until(lambda: reader.ends(topic, [0])[0] == before + 1, 10, "the marker of the end")


def test_no_answer_and_a_refusal_are_told(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the time that is left for it, and by the broker's own word: of good partitions it says another."""
    topic = created(kafka, "good")
    fenced = TransactionCoordinator(kafka, {}).fence(["one"])
    monkeypatch.setattr(coordinator, "WORKER_ANSWER_S_MAX", 1.0)
    began = time.monotonic()
    with pytest.raises(KafkaUnavailable, match=r"one: what hangs .* not ended within 1 s: .*UnknownTopic"):
        TransactionCoordinator(kafka, {}).end(fenced, [(topic, 0), ("no such topic", 0)], None)
    with pytest.raises(KafkaUnavailable, match="one, two: not fenced within 1 s: no broker answers"):
        TransactionCoordinator(f"127.0.0.1:{free_ports(1)[0]}", {}).fence(["one", "two"])
    assert time.monotonic() - began < 5.0
