"""Commands under `topic_prefix`: every one reads and writes the prefixed topics, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streams.commands import main
from streams.contract.letters import encode_dead_letter
from streams.contract.topics import ALL
from tests.support.workers import read_topic

pytestmark = pytest.mark.kafka

PREFIX = "shop.eu-"


@pytest.fixture
def streams(kafka: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call the command line with the prefix set; return what it printed."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("STREAMS_CONFIG", "")
    monkeypatch.setenv("STREAMS_TOPIC_PREFIX", PREFIX)

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_commands_use_the_prefixed_topics_alone(streams: Callable[..., str], kafka: str) -> None:
    """Topics are created, described, written, read, and replayed to under the prefix; words on the command line stay."""
    before = set(AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics)
    assert streams("topics", "create").count(f"created  {PREFIX}") == len(ALL)
    made = set(AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics) - before
    assert made - {"__consumer_offsets"} == {PREFIX + topic.name for topic in ALL}
    assert streams("topics", "list").count(PREFIX) == len(ALL)
    assert streams("topics", "describe", "transactions").startswith(f"{PREFIX}transactions: ")

    assert f"50 records to {PREFIX}transactions" in streams("produce", "simulate", "--limit", 100)
    client = {"bootstrap.servers": kafka}
    assert len(list(read_topic(client, f"{PREFIX}transactions"))) == 50
    assert len(list(read_topic(client, f"{PREFIX}clickstream"))) == 50

    letter = encode_dead_letter(
        topic=f"{PREFIX}transactions", partition=0, offset=3, key=b"card-1", value=b"{}", stage="decode",
        code="missing-field", message="",
    )  # fmt: skip
    producer = Producer(client)
    producer.produce(f"{PREFIX}dead-letters", letter)
    assert producer.flush(10) == 0
    assert "missing-field" in streams("watch", "dead-letters", "--no-follow", "--topic", "transactions")
    for name in ("transactions", f"{PREFIX}transactions"):
        assert "1  dead letters" in streams("dead-letters", "list", "--topic", name)
    assert f"1 went back to {PREFIX}transactions" in streams("dead-letters", "replay")
    assert len(list(read_topic(client, f"{PREFIX}transactions"))) == 51
    assert "no dead letter matches" in streams("dead-letters", "replay")
