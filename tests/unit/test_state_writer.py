"""The state writer: all rows of a checkpoint or none, and a failure does not spoil the next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.clients import hang_watch
from streams.errors import DeliveryFailed
from streams.state import writer as state_writer
from streams.state.writer import StateWriter
from streams.transport.ownership.group_member import GroupMember

MEMBER = GroupMember("group", 1, "member", None)


class Producers:
    """Makes producers that note what is called; `failing` names the calls that fail, once each."""

    def __init__(self, *failing: str) -> None:
        self.made = 0
        self.calls: list[str] = []
        self.failing = list(failing)

    def __call__(self, config: Mapping[str, Any]) -> Any:
        self.made += 1
        return self

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> None:
            if name in self.failing:
                self.failing.remove(name)
                raise BufferError if name == "produce" else KafkaException(KafkaError(KafkaError._FAIL))
            self.calls.append(name)

        return call


def write(writer: StateWriter, seconds: float = 1.0) -> int:
    return writer.write("state", 0, [(b"ra", b"1"), (b"m", b"{}")], MEMBER, 5, time.monotonic() + seconds)


def writer_of(monkeypatch: pytest.MonkeyPatch, producers: Producers) -> StateWriter:
    monkeypatch.setattr(state_writer, "RdProducer", producers)
    return StateWriter({}, "worker")


WHOLE = ["begin_transaction", "produce", "produce", "send_offsets_to_transaction", "commit_transaction"]


@pytest.mark.parametrize("failing", ["send_offsets_to_transaction", "commit_transaction"])
def test_a_failure_aborts_and_the_next_checkpoint_is_written(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """By the same producer."""
    producers = Producers(failing)
    writer = writer_of(monkeypatch, producers)
    with pytest.raises(DeliveryFailed, match=r"state\[0\]: the checkpoint was not written"):
        write(writer)
    assert producers.calls[-1] == "abort_transaction"
    assert write(writer) == 2
    assert (producers.made, producers.calls[-5:]) == (1, WHOLE)


def test_a_producer_that_cannot_abort_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one ends what the old one left open."""
    producers = Producers("commit_transaction", "abort_transaction")
    writer = writer_of(monkeypatch, producers)
    with pytest.raises(DeliveryFailed):
        write(writer)
    assert write(writer) == 2
    assert (producers.made, producers.calls[-6:]) == (2, ["init_transactions", *WHOLE])


def test_a_full_queue_is_waited_for_in_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop must not hang on a checkpoint that the broker does not take."""
    producers = Producers("produce")
    assert write(writer_of(monkeypatch, producers)) == 2
    assert "poll" in producers.calls
    producers = Producers(*["produce"] * 1000)
    with pytest.raises(DeliveryFailed, match="Queue full"):
        write(writer_of(monkeypatch, producers), seconds=-1.0)
    assert producers.calls[-1] == "abort_transaction"


def test_a_call_that_hangs_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lasts."""
    monkeypatch.setattr(state_writer, "HUNG_S", -1.0)
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.0)
    producers = Producers()
    writer = writer_of(monkeypatch, producers)
    looks: list[bool] = []

    def commit(_: float) -> None:
        looks.extend(writer.hangs() for _ in range(2))

    producers.commit_transaction = commit  # type: ignore[attr-defined]
    assert write(writer) == 2
    assert looks == [False, True]
    assert not writer.hangs()
