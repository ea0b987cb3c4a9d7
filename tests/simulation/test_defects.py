"""The simulation sees: with any of these defects put in, some of the first seeds must fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from confluent_kafka import TopicPartition
from faust.types import TP

import streams.transport.ownership.ownership
from streams.state.checkpointer import Checkpointer
from streams.transport.offsets import OffsetTracker
from streams.transport.outputs.producer import Delivery, OutputProducer
from streams.transport.outputs.transactions import CALL_S_MAX, TransactionalProducer
from streams.transport.ownership.group_member import GroupMember
from streams.transport.ownership.leftovers import Leftovers
from streams.transport.ownership.ownership import Ownership
from streams.worker.process import WorkerProcess
from tests.simulation.application import Membership
from tests.simulation.oracle import Violation
from tests.simulation.world import short_times, simulate

Patch = pytest.MonkeyPatch


def acknowledged_before_delivery(patch: Patch) -> None:
    """A batch counts as confirmed once it is handed to the client."""

    def produce(self: OutputProducer, delivery: Delivery) -> None:
        for each in delivery.outputs:
            self._sender.send(each)
        delivery.confirmed()

    patch.setattr(OutputProducer, "produce", produce)


def committed_past_an_undelivered_span(patch: Patch) -> None:
    """The committed offset follows the last confirmation, not the lowest open span."""

    def confirm(self: OffsetTracker, first: int, next_offset: int) -> None:
        self._committable = max(self._committable or 0, next_offset)

    patch.setattr(OffsetTracker, "confirm", confirm)


def offsets_not_in_the_transaction(patch: Patch) -> None:
    """Outputs are committed first, the offsets behind them afterwards."""
    commit_open = TransactionalProducer._commit_open

    def outputs_first(self: TransactionalProducer, entries: Sequence[Delivery], member: GroupMember) -> bool:
        self._repeated(lambda: self._sender.client.commit_transaction(CALL_S_MAX))
        self._sender.client.begin_transaction()
        return commit_open(self, entries, member)

    patch.setattr(TransactionalProducer, "_commit_open", outputs_first)


def take_over_without_fencing(patch: Patch) -> None:
    """What a dead owner left open stays open until the broker's time-out."""
    patch.setattr(Ownership, "fence", lambda self, owner: None)


def take_over_of_unstable_offsets(patch: Patch) -> None:
    """Offsets are read while the transaction of a former owner is being ended, or might still be committed."""
    offsets = Ownership._offsets
    patch.setattr(Ownership, "_offsets", lambda self, found, *, stable: offsets(self, found, stable=False))
    patch.setattr(Ownership, "fence", lambda self, owner: None)


def state_ahead_of_the_commit(patch: Patch) -> None:
    """A checkpoint does not wait for the committed offset."""

    async def no_wait(self: Checkpointer, tp: TP, position: int, member: GroupMember) -> None:
        return None

    patch.setattr(Checkpointer, "_wait_until_committed", no_wait)


def state_read_before_it_is_settled(patch: Patch) -> None:
    """A checkpoint that a former owner has begun may commit after its successor has read the state."""
    take = Ownership.take

    def take_without_state(self: Ownership, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        self._state_topics = {}
        return take(self, partitions)

    patch.setattr(Ownership, "take", take_without_state)
    patch.setattr(streams.transport.ownership.ownership, "state_writer_id", lambda owner: owner)
    patch.setattr(Leftovers, "_stopped", lambda *_: {})  # takes its time, in which the checkpoint settles


def stale_generation_confirmed(patch: Patch) -> None:
    """Batches fetched under an earlier generation are decided and committed under the present one."""
    produce = TransactionalProducer.produce

    def produce_any(self: TransactionalProducer, delivery: Delivery) -> None:
        if self._member is not None:
            delivery.batch.generation = self._member.generation
        produce(self, delivery)

    patch.setattr(WorkerProcess, "is_current", lambda self, batch: True)
    patch.setattr(TransactionalProducer, "produce", produce_any)


def abort_without_reading_again(patch: Patch) -> None:
    """After a rebalance, partitions that stayed go on where they were, not where the committed offset is."""
    seek_to_committed = Membership.seek_to_committed

    async def stay(self: Membership) -> Mapping[TP, int]:
        before = dict(self._positions)
        found = await seek_to_committed(self)
        self._positions |= {tp: max(before.get(tp, 0), position) for tp, position in self._positions.items()}
        return found

    patch.setattr(Membership, "seek_to_committed", stay)


# Rare in general, so that the plan helps: workers that freeze at a request.
FREEZING = {"workers": 2, "pauses_at_request": 6, "crashes": 0, "outages": 0}

DEFECTS: list[tuple[Callable[[Patch], None], str, int]] = [
    (acknowledged_before_delivery, "at_least_once", 100),
    (committed_past_an_undelivered_span, "at_least_once", 100),
    (offsets_not_in_the_transaction, "exactly_once", 100),
    (take_over_without_fencing, "exactly_once", 200),
    (take_over_of_unstable_offsets, "exactly_once", 300),
    (state_ahead_of_the_commit, "exactly_once", 100),
    (state_ahead_of_the_commit, "at_least_once", 100),
    (state_read_before_it_is_settled, "exactly_once", 500),
    (stale_generation_confirmed, "exactly_once", 1_500),
    (abort_without_reading_again, "exactly_once", 100),
    (abort_without_reading_again, "at_least_once", 100),
]


@pytest.mark.parametrize(
    ("defect", "guarantee", "seeds_max"),
    DEFECTS,
    ids=[f"{defect.__name__}-{guarantee}" for defect, guarantee, _ in DEFECTS],
)
def test_a_defect_is_seen(defect: Callable[[Patch], None], guarantee: str, seeds_max: int) -> None:
    """The defect makes a seed fail, soon."""
    with short_times() as patch:
        defect(patch)
        for seed in range(seeds_max):
            try:
                simulate(seed, guarantee, **(FREEZING if defect is state_read_before_it_is_settled else {}))
            except Violation as found:
                print(f"{defect.__name__}: seed {seed}: {found}")
                return
    raise AssertionError(f"{defect.__doc__} Expected a violation within {seeds_max} seeds, got none")
