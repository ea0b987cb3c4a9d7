"""One device owner: micro-batches run one after the other, small ones on the loop, large ones on the device thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar

from streams.engine.answered import Answered
from streams.engine.batching import MicroBatcher
from streams.engine.device import Device
from streams.engine.metrics import Metrics
from streams.engine.publishing import Publisher
from streams.settings import Batching
from streams.transport.outputs.producer import Delivery
from streams.transport.record_batch import Fetch, RecordBatch

Decoded = TypeVar("Decoded")

# One running, one ready behind it; a third would only wait, and hold memory.
MICRO_BATCHES_IN_FLIGHT_MAX = 2
# How long few records of a topic wait for a busy device before they queue for its thread.
FEW_WAIT_S_MAX = 0.05


class Job(Protocol[Decoded]):
    """The work on a micro-batch. Never runs beside another job."""

    name: str

    def decode(self, batch: RecordBatch) -> Decoded:
        """Return the columns of a batch: a function of its bytes alone."""
        ...

    def is_quick(self, batches: Sequence[RecordBatch], decoded: Sequence[Decoded]) -> bool:
        """Tell whether `run` needs no restore and no wait."""
        ...

    def prepare(self, decoded: Sequence[Decoded]) -> None:
        """Wait for the data that `run` needs. Not called where `is_quick` returned True."""
        ...

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[Decoded]) -> list[Answered]:
        """Return the answers to each batch, in the order given: features, model, decision, encoding."""
        ...


class Assignment(Protocol):
    """The process as the pipeline uses it, on the loop."""

    def is_current(self, batch: RecordBatch) -> bool:
        """Tell whether a batch is of the present assignment; others are read again."""
        ...

    def confirm(self, batch: RecordBatch) -> None:
        """Note that all answers to a batch are confirmed by the broker."""
        ...

    def stop_with(self, exc: BaseException) -> None:
        """Stop the worker because of `exc`."""
        ...


class Pipeline(Generic[Decoded]):
    """From an agent's fetches to confirmed outputs.

    Args:
        job: works on a micro-batch.
        device: shared by all pipelines of a worker.
        publisher: sends answers and reports when the broker holds them.
        assignment: tells current batches, takes confirmations, stops the worker.
        settings: sizes and waiting time of micro-batches.
        metrics: counts records, refusals and repeats.
    """

    def __init__(
        self,
        job: Job[Decoded],
        device: Device,
        publisher: Publisher,
        assignment: Assignment,
        settings: Batching,
        metrics: Metrics,
    ) -> None:
        self._job, self._device, self._publisher, self._metrics = job, device, publisher, metrics
        self._inline_records_max = settings.inline_records_max
        self._batcher = MicroBatcher(settings.batch_records_max, settings.wait_ms_max)
        self._assignment = assignment
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self.unconfirmed = 0
        device.on_free(self._start_due)

    def submit(self, fetch: Fetch) -> None:
        """Take the batches of one fetch. The consumer bounds the records under way."""
        for batch in fetch:
            self._batcher.add(batch)
        self._start_due()

    def _start_due(self) -> None:
        while not self._failed and self._device.in_flight < MICRO_BATCHES_IN_FLIGHT_MAX:
            now = time.monotonic()
            if self._device.in_flight and self._are_few(now):
                return
            due_in = self._batcher.due_in(now)
            if due_in is None:
                return
            if due_in > 0.0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(due_in, self._timer_due)
                return
            batches = list(filter(self._assignment.is_current, self._batcher.take()))
            if not batches:
                continue
            self.unconfirmed += len(batches)
            self._start(batches, asyncio.get_running_loop())

    def _are_few(self, now: float) -> bool:
        """Tell whether the waiting records are few and should wait for a free device: loop and device thread slow each other."""
        return self._batcher.records <= self._inline_records_max and self._batcher.waited(now) < FEW_WAIT_S_MAX

    def _start(self, batches: list[RecordBatch], loop: asyncio.AbstractEventLoop) -> None:
        """Run a small micro-batch on the loop: two hand-overs of the interpreter lock cost more. Run others on the device."""
        if self._device.in_flight or sum(map(len, batches)) > self._inline_records_max:
            self._device.submit(partial(self._run_there, batches, None, loop))
            return
        with self._failures(batches, loop):
            decoded = list(map(self._job.decode, batches))
            if self._job.is_quick(batches, decoded):
                self._run(batches, decoded, loop)
            else:
                self._device.submit(partial(self._run_there, batches, decoded, loop))

    def _timer_due(self) -> None:
        self._timer = None
        self._start_due()

    def _run_there(
        self, batches: list[RecordBatch], decoded: list[Decoded] | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        with self._failures(batches, loop):
            decoded = list(map(self._job.decode, batches)) if decoded is None else decoded
            self._job.prepare(decoded)
            self._run(batches, decoded, loop)

    @contextmanager
    def _failures(self, batches: list[RecordBatch], loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Hand any exception to the loop, which stops the worker; unconfirmed records are not committed."""
        try:
            yield
        except BaseException as exc:  # noqa: BLE001 - see above: the worker ends with it
            self._failed = True  # at once, on any thread: else a later micro-batch would be committed past this one
            exc.add_note(f"{self._job.name}: {', '.join(map(str, batches))}: not committed, and read again")
            self._on_loop(loop, self._stop, exc)

    def _run(self, batches: list[RecordBatch], decoded: list[Decoded], loop: asyncio.AbstractEventLoop) -> None:
        if self._failed:  # while this waited for the device
            return
        started = time.monotonic()
        answered = self._job.run(batches, decoded)
        self._metrics.micro_batch(self._job.name, batches, started, time.monotonic())
        for batch, each in zip(batches, answered, strict=True):
            self._metrics.answered(batch.tp.topic, each)
            self._publisher.publish(
                Delivery(
                    batch,
                    self._publisher.outputs(batch, each),
                    confirmed=partial(self._on_loop, loop, self._confirmed, batch),
                    abandoned=partial(self._on_loop, loop, self._abandoned),
                    failed=partial(self._on_loop, loop, self._stop),
                )
            )

    @staticmethod
    def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
        if not loop.is_closed():  # after the worker's end a delivery report has no effect
            loop.call_soon_threadsafe(call, *args)

    def _confirmed(self, batch: RecordBatch) -> None:
        self.unconfirmed -= 1
        self._assignment.confirm(batch)

    def _abandoned(self) -> None:
        self.unconfirmed -= 1

    def _stop(self, exc: BaseException) -> None:
        self._failed = True
        self._assignment.stop_with(exc)

    def abandon(self) -> None:
        """Drop what waits: the next owner reads it again."""
        self._batcher.clear()

    async def drain(self, deadline: float) -> bool:
        """Finish the running micro-batches until `deadline` (monotonic, s); tell whether all outputs are confirmed."""
        while (self.unconfirmed or self._device.in_flight) and not self._failed and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        return self.unconfirmed == 0
