"""Sabotage: what a forked worker is told to do wrong, and when. Patches of its own process; nothing of it is shipped.

A fault is a word and its arguments, separated by colons:

    exit:STEP:N         die as by kill -9 when STEP is reached for the N-th time
    raise:N             the N-th micro-batch of payments raises, once
    culprit:AMOUNT      the model raises whenever a payment of this amount is among the rows
    head:SECONDS:ID     the micro-batch with this transaction_id takes so long
    broken:SECONDS      the model raises for everything, for so long from its first call on
    slow:FACTOR:SECONDS the model takes FACTOR times as long, and at least 0.2 s a micro-batch, for its first SECONDS
    defect:N            put defect N back, as the project's list of known defects of such workers numbers them

Steps of a batch: fetched, scored, sent, before-offsets, after-offsets, before-commit, after-commit; of an assignment:
take-over; of a checkpoint: rows, before-checkpoint, after-checkpoint; of a restore: loaded, replayed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import numpy as np
from confluent_kafka import KafkaException, TopicPartition

from models.fraud.runner import FraudRunner
from streams.agents.fraud import CardReplay, FraudJob
from streams.contract.topics import TRANSACTIONS
from streams.engine import pipeline as scoring
from streams.state import writer as state_writer
from streams.state.table import StateTable
from streams.transport import consumer
from streams.transport.outputs import producer, transactions
from streams.transport.ownership import ownership

SLOW_S_MIN = 0.2
HELD = "the slow head is being decided"  # in the worker's log


def sabotage(faults: Sequence[str]) -> None:
    """Patch this process."""
    for fault in faults:
        word, *arguments = fault.split(":")
        _FAULTS[word](*arguments)


def after(owner: Any, name: str, then: Callable[..., None]) -> None:
    """Have `then` called with the arguments of a method when it has returned."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        then(*args, **kwargs)
        return result

    setattr(owner, name, patched)


def before(owner: Any, name: str, first: Callable[..., None]) -> None:
    """Have `first` called with the arguments of a method before it begins."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        first(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


class Client(confluent_kafka.Producer):
    """librdkafka's producer as a Python class, so that its calls can be patched."""

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], *args: Any) -> None:
        super().send_offsets_to_transaction(offsets, *args)

    def commit_transaction(self, *args: Any) -> None:
        super().commit_transaction(*args)


class CheckpointClient(Client):
    """The producer of checkpoints: patched apart from the one of decisions."""


def die_at(step: str, count: str) -> None:
    left = int(count)
    has_outputs = False

    def reached(*_args: Any, **_kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def sent(_producer: Any, delivery: producer.Delivery) -> None:
        nonlocal has_outputs
        has_outputs = has_outputs or delivery.batch.tp.topic == TRANSACTIONS.name

    def of_outputs(*_args: Any) -> None:
        if has_outputs:
            reached()

    def of_payments(job: Any, *_args: Any) -> None:
        if isinstance(getattr(job, "_job", None), FraudJob):
            reached()

    after(transactions.TransactionalProducer, "_send", sent)
    producer.RdProducer = Client  # type: ignore[misc, assignment]
    state_writer.RdProducer = CheckpointClient  # type: ignore[misc, assignment]
    {
        "fetched": lambda: before(scoring.Pipeline, "submit", of_payments),
        "scored": lambda: after(FraudJob, "run", reached),
        "sent": lambda: after(transactions.TransactionalProducer, "_send", reached),
        "take-over": lambda: after(ownership.Ownership, "take", reached),
        "before-offsets": lambda: before(Client, "send_offsets_to_transaction", of_outputs),
        "after-offsets": lambda: after(Client, "send_offsets_to_transaction", of_outputs),
        "before-commit": lambda: before(Client, "commit_transaction", of_outputs),
        "after-commit": lambda: after(Client, "commit_transaction", of_outputs),
        "rows": lambda: before(CheckpointClient, "send_offsets_to_transaction", reached),
        "before-checkpoint": lambda: before(CheckpointClient, "commit_transaction", reached),
        "after-checkpoint": lambda: after(CheckpointClient, "commit_transaction", reached),
        "loaded": lambda: after(StateTable, "_load", reached),
        "replayed": lambda: after(CardReplay, "__call__", reached),
    }[step]()


def raise_once(count: str) -> None:
    left = int(count)

    def fail(*_args: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise RuntimeError("the micro-batch fails, because a test told it to")

    before(FraudJob, "run", fail)


def raise_on_culprit(amount: str) -> None:
    def fail(runner: FraudRunner, features: Any) -> None:
        column = features[:, runner.features.index("amount")]
        if np.any(column == np.float32(amount)):
            raise RuntimeError("the model fails on a row, because a test told it to")

    before(FraudRunner, "score", fail)


def model_is_broken(seconds: str) -> None:
    until: float | None = None

    def fail(_job: FraudJob, _model: Any, _features: Any) -> None:
        nonlocal until
        until = until or time.monotonic() + float(seconds)
        if time.monotonic() < until:
            raise RuntimeError("the model fails for everything, because a test told it to")

    before(FraudJob, "judge", fail)


def slow_head(seconds: str, transaction_id: str) -> None:
    def wait(_job: FraudJob, _batches: Any, payments: Sequence[Any]) -> None:
        if any(transaction_id in columns.transaction_ids for columns in payments):
            print(HELD, flush=True)
            time.sleep(float(seconds))

    before(FraudJob, "run", wait)


def slow_model(factor: str, seconds: str) -> None:
    until = time.monotonic() + float(seconds)
    original = FraudJob.run

    def run(*args: Any) -> Any:
        began = time.monotonic()
        result = original(*args)
        if time.monotonic() < until:
            time.sleep(max(SLOW_S_MIN, (float(factor) - 1) * (time.monotonic() - began)))
        return result

    FraudJob.run = run  # type: ignore[method-assign]


def acknowledge_in_finally() -> None:
    """1: a batch whose body raised is acknowledged."""

    @contextmanager
    def failures(self: Any, batches: Any, loop: Any) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            for batch in batches:
                confirmed = lambda batch=batch: self._on_loop(loop, self._confirmed, batch)  # noqa: E731
                self._publisher.publish(producer.Delivery(batch, [], confirmed, lambda: None, lambda exc: None))

    scoring.Pipeline._failures = failures  # type: ignore[method-assign, assignment]


def commit_what_is_in_flight() -> None:
    """2: the commit passes records that are delivered and not done."""
    producer.RdProducer = Client  # type: ignore[misc, assignment]
    delivered: dict[tuple[str, int], int] = {}

    def note(_consumer: Any, _tp: Any, record: Any) -> None:
        for batch in record if type(record) is list else ():
            delivered[batch.tp.topic, batch.tp.partition] = batch.next_offset

    def send_offsets(self: Client, offsets: list[TopicPartition], *args: Any) -> None:
        for tp in offsets:
            tp.offset = max(tp.offset, delivered.get((tp.topic, tp.partition), 0))
        confluent_kafka.Producer.send_offsets_to_transaction(self, offsets, *args)

    before(consumer.Consumer, "_to_message", note)
    Client.send_offsets_to_transaction = send_offsets  # type: ignore[method-assign]


def first_after_a_gap_is_done() -> None:
    """3: the first record after a gap in the offsets counts as done."""
    original = consumer.RecordSpan.extend
    last: dict[Any, int] = {}

    def extend(self: consumer.RecordSpan, records: Any) -> None:
        kept = []
        for record in records:
            if record.offset >= self.position:
                gap = record.offset > last.get(self.tp, record.offset) + 1
                last[self.tp] = record.offset
                if not gap:
                    kept.append(record)
        original(self, kept)

    consumer.RecordSpan.extend = extend  # type: ignore[method-assign]


def failed_output_is_logged() -> None:
    """4: an output that the broker refuses is logged, and its input committed."""
    producer.RdProducer = Client  # type: ignore[misc, assignment]
    joined: list[Any] = []

    def go_on(client: Client) -> None:
        print("an output failed", flush=True)
        confluent_kafka.Producer.abort_transaction(client, 10)
        confluent_kafka.Producer.begin_transaction(client)
        confluent_kafka.Producer.send_offsets_to_transaction(client, *joined)

    def send_offsets(self: Client, *args: Any) -> None:
        joined[:] = args
        try:
            confluent_kafka.Producer.send_offsets_to_transaction(self, *args)
        except KafkaException as exc:
            if not exc.args[0].txn_requires_abort():
                raise
            go_on(self)

    def commit(self: Client, *args: Any) -> None:
        try:
            confluent_kafka.Producer.commit_transaction(self, *args)
        except KafkaException as exc:
            if not exc.args[0].txn_requires_abort():
                raise
            go_on(self)
            confluent_kafka.Producer.commit_transaction(self, *args)

    Client.send_offsets_to_transaction, Client.commit_transaction = send_offsets, commit  # type: ignore[method-assign]


def offsets_in_a_transaction_of_their_own() -> None:
    """5: outputs and input offsets are not committed together."""
    producer.RdProducer = Client  # type: ignore[misc, assignment]

    def send_offsets(self: Client, *args: Any) -> None:
        confluent_kafka.Producer.commit_transaction(self, 10)
        confluent_kafka.Producer.begin_transaction(self)
        confluent_kafka.Producer.send_offsets_to_transaction(self, *args)

    Client.send_offsets_to_transaction = send_offsets  # type: ignore[method-assign]


def producer_is_not_idempotent() -> None:
    """6: a request whose answer is lost is sent again, and the broker takes it for new."""

    class Forgetful(confluent_kafka.Producer):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__({**config, "enable.idempotence": False})

    producer.RdProducer = Forgetful  # type: ignore[misc]


_DEFECTS = {
    "1": acknowledge_in_finally,
    "2": commit_what_is_in_flight,
    "3": first_after_a_gap_is_done,
    "4": failed_output_is_logged,
    "5": offsets_in_a_transaction_of_their_own,
    "6": producer_is_not_idempotent,
}

# Defects come before the steps of `exit`, which wrap what they find.
_FAULTS: dict[str, Callable[..., None]] = {
    "exit": die_at,
    "raise": raise_once,
    "culprit": raise_on_culprit,
    "broken": model_is_broken,
    "head": slow_head,
    "slow": slow_model,
    "defect": lambda number: _DEFECTS[number](),
}
