"""World: one run from one seed. What is set up, what goes wrong and when, and what must be true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

import streams.state.writer as state_writer
import streams.transport.outputs.producer as producer
import streams.transport.outputs.transactions as transactions
import streams.transport.ownership.ownership as ownership
from tests.simulation.application import Application, Options
from tests.simulation.broker import Broker, Entry
from tests.simulation.clients import Cluster, simulated_world
from tests.simulation.oracle import INPUT, OUTPUT, STATE, Oracle, Violation
from tests.simulation.scheduler import Scheduler

SESSION_S = 1.0
RECORDS_S = 2.5  # for so long input comes
FAULTS_S = 3.5  # for so long things go wrong
# Then everything that is alive has this long to decide what is left. Less than a transaction may stay open.
RECOVERY_S_MAX = 12.0
TRANSACTION_S_MAX = 30.0


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    options: Options
    partitions: int
    output_partitions: int
    workers: int
    static: bool
    records: int
    aborted_inputs: float
    crashes: int
    crashes_at_request: int
    pauses: int
    pauses_at_request: int
    departures: int
    outages: int
    queue_records_max: int
    retriable_errors: float
    abortable_errors: float
    delivery_errors: float
    slow_runs: float


def plan_of(scheduler: Scheduler, guarantee: str) -> Plan:
    """Draw a plan. Each fault is absent from most runs, so that what two of them do together is not all there is."""
    random = scheduler.random

    def some(most: int) -> int:
        return random.choice((0, 0, 1, most))

    def at_times(chance: float) -> float:
        return random.choice((0.0, 0.0, chance))

    options = Options(
        guarantee=guarantee,
        inline_records_max=random.choice((0, 3, 256)),
        batch_records_max=random.choice((1, 4, 2048)),
        wait_ms_max=random.choice((0.0, 0.0, 5.0)),
        fetch_records_max=random.choice((1, 3, 1000)),
        queue_records_max=random.choice((4, 16_384)),
        commit_interval_ms=random.choice((20, 80)),
        checkpoint_interval_s=random.choice((0.2, 0.6)),
    )
    partitions = random.randint(1, 4)
    return Plan(
        options=options,
        partitions=partitions,
        output_partitions=random.choice((1, partitions, 4)),
        workers=random.randint(1, 3),
        static=random.random() < 0.3,
        records=random.randint(10, 60),
        aborted_inputs=at_times(0.2),
        crashes=some(3),
        crashes_at_request=some(3),
        pauses=some(2),
        pauses_at_request=some(2),
        departures=some(2),
        outages=some(1),
        queue_records_max=random.choice((2, 1000, 1000)),
        retriable_errors=at_times(0.05),
        abortable_errors=at_times(0.01),
        delivery_errors=at_times(0.01),
        slow_runs=at_times(0.03),
    )


@dataclass(frozen=True)
class Outcome:
    """What a run came to: equal for equal seeds."""

    now: float
    events: int
    decided: int
    repeated: int
    checkpoints: int
    generations: int
    restarts: int


class World:
    """One run.

    Args:
        seed: decides everything.
        guarantee: exactly_once or at_least_once.
        changes: fields of the plan that are not left to the seed.
    """

    def __init__(self, seed: int, guarantee: str, **changes: Any) -> None:
        self.scheduler = Scheduler(f"{guarantee}/{seed}")
        self.plan = replace(plan_of(self.scheduler, guarantee), **changes)
        plan = self.plan
        self.oracle = Oracle(plan.partitions, guarantee == "exactly_once")
        topics = {INPUT: plan.partitions, OUTPUT: plan.output_partitions, STATE: plan.partitions}
        self.broker = Broker(topics, SESSION_S, self.oracle)
        self.broker.assigned = [(INPUT, partition) for partition in range(plan.partitions)]
        self.cluster = Cluster(
            self.broker, plan.queue_records_max, plan.retriable_errors, plan.abortable_errors, plan.delivery_errors,
            plan.slow_runs,
        )  # fmt: skip
        Cluster.current = self.cluster
        self.applications: dict[int, Application] = {}
        self.starts = 0
        self._stopping = False
        self._schedule()

    # ---- what happens

    def _schedule(self) -> None:
        plan, random, after = self.plan, self.scheduler.random, self.scheduler.after
        for slot in range(plan.workers):
            after(random.choice((0.0, random.uniform(0.0, 1.5))), partial(self._start, slot))
        for number in range(plan.records):
            after(random.uniform(0.0, RECORDS_S), partial(self._add_input, number))
        for fault, count in (
            (self._crash, plan.crashes),
            (self._crash_at_request, plan.crashes_at_request),
            (self._pause, plan.pauses),
            (self._pause_at_request, plan.pauses_at_request),
            (self._depart, plan.departures),
            (self._outage, plan.outages),
        ):
            for _ in range(count):
                after(random.uniform(0.1, FAULTS_S), fault)
        after(FAULTS_S, self._end_faults)

    def _start(self, slot: int) -> None:
        if self._stopping:
            return
        self.starts += 1
        name = f"slot-{slot}" if self.plan.static else f"worker-{self.starts}"
        instance = name if self.plan.static else None
        self.applications[slot] = Application(
            name, instance, self.plan.options, self.broker, self.oracle, partial(self._restart, slot)
        )

    def _restart(self, slot: int) -> None:
        self.applications.pop(slot)
        self.scheduler.after(self.scheduler.random.choice((0.05, 0.3, 1.5)), partial(self._start, slot))

    def _add_input(self, number: int) -> None:
        random = self.scheduler.random
        partition = random.randrange(self.plan.partitions)
        log = self.broker.logs[(INPUT, partition)]
        key = f"k{partition}{random.randrange(3)}"
        value = f"{key}/{number}".encode()
        entry = Entry(key.encode(), value, 0)
        if random.random() < self.plan.aborted_inputs:
            log.aborted.add(len(log.entries))
            log.entries += [entry._replace(value=value + b"/aborted"), Entry(None, None, 0, is_marker=True)]
        self.oracle.note_input(partition, len(log.entries), value)
        log.entries.append(entry)

    def _any(self) -> int | None:
        slots = sorted(slot for slot, app in self.applications.items() if app.process.alive)
        return self.scheduler.random.choice(slots) if slots else None

    def _kill(self, slot: int, app: Application) -> None:
        if app.process.alive:
            app.process.kill()
            self._restart(slot)

    def _crash(self) -> None:
        slot = self._any()
        if slot is not None:
            self._kill(slot, self.applications[slot])

    def _crash_at_request(self) -> None:
        slot = self._any()
        if slot is None:
            return
        app, random = self.applications[slot], self.scheduler.random
        app.process.requests_left = random.randint(1, 30)
        if random.random() < 0.5:
            app.process.at_request = partial(self._kill, slot, app)  # before it is sent
        else:
            soon = random.choice((0.0, 0.001, 0.01))
            app.process.at_request = lambda: self.scheduler.after(soon, partial(self._kill, slot, app))

    def _freeze(self, app: Application) -> None:
        if app.process.alive and not self._stopping:
            app.process.pause()
            random = self.scheduler.random
            self.scheduler.after(random.choice((0.3, SESSION_S * 1.5, random.uniform(1.0, 3.0))), app.process.resume)

    def _pause(self) -> None:
        slot = self._any()
        if slot is not None:
            self._freeze(self.applications[slot])

    def _pause_at_request(self) -> None:
        slot = self._any()
        if slot is not None:
            app = self.applications[slot]
            app.process.requests_left = self.scheduler.random.randint(1, 30)
            app.process.at_request = partial(self._freeze, app)

    def _depart(self) -> None:
        slot = self._any()
        if slot is not None:
            self.applications[slot].stop_from_outside()

    def _outage(self) -> None:
        self.broker.down_until = self.scheduler.now + self.scheduler.random.uniform(0.1, 1.5)

    def _end_faults(self) -> None:
        self.broker.slow_answers = 0.0
        self.cluster.retriable_errors = self.cluster.abortable_errors = self.cluster.delivery_errors = 0.0
        self.cluster.slow_runs = 0.0
        for app in self.applications.values():
            app.process.requests_left = None

    # ---- the run

    def run(self) -> Outcome:
        """Return what the run came to.

        Raises:
            Violation: the system has done what it must never do.
        """
        scheduler, oracle = self.scheduler, self.oracle
        try:
            self._until(lambda: scheduler.now >= FAULTS_S, FAULTS_S)
            if not self._until(self._is_settled, FAULTS_S + RECOVERY_S_MAX):
                held = {place: sorted(log.open) for place, log in self.broker.logs.items() if log.open}
                raise Violation(
                    f"not settled {RECOVERY_S_MAX} s after the last fault: undecided {oracle.missing()[:5]}, readers held "
                    f"up by {held}, committed {self.broker.committed}"
                )
            self._stopping = True
            for app in self.applications.values():
                app.stop_from_outside()
            self._until(lambda: not self.applications, scheduler.now + RECOVERY_S_MAX)
            self._until(self._is_closed, scheduler.now + TRANSACTION_S_MAX)
            oracle.check_end(self.broker)
        finally:
            scheduler.close()
        return Outcome(
            scheduler.now, scheduler.events, len(oracle.decided), sum(n - 1 for n in oracle.decided.values()),
            oracle.checkpoints, self.broker.generation, self.starts - self.plan.workers,
        )  # fmt: skip

    def _until(self, is_done: object, until: float) -> bool:
        assert callable(is_done)
        done = self.scheduler.run(lambda: self.oracle.violation is not None or is_done(), until)
        if self.oracle.violation is not None:
            raise self.oracle.violation
        return done

    def _is_closed(self) -> bool:
        return not any(log.open for log in self.broker.logs.values())

    def _is_settled(self) -> bool:
        return self.oracle.is_all_decided() and not any(
            log.open for (topic, _), log in self.broker.logs.items() if topic == OUTPUT
        )


@contextmanager
def short_times() -> Iterator[pytest.MonkeyPatch]:
    """The simulated world, with limits of time in the proportions of the real ones but short."""
    with simulated_world() as patch:
        patch.setattr(transactions, "TRANSACTION_S_MAX", TRANSACTION_S_MAX)
        patch.setattr(ownership, "WORKER_ANSWER_S_MAX", 6.0)
        patch.setattr(state_writer, "TRANSACTION_S_MAX", 4.0)
        patch.setattr(state_writer, "CALL_S_MIN", 0.2)
        patch.setattr(producer, "DELIVERY_POLL_S", 0.02)
        yield patch


def simulate(seed: int, guarantee: str, **changes: Any) -> Outcome:
    """Run one seed in the simulated world, with fields of its plan changed."""
    return World(seed, guarantee, **changes).run()
