"""The pipeline from fetches to outputs: what a failure stops, and what waits for the device."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.contract.topics import DECISIONS
from streams.engine.answered import Answered
from streams.engine.device import Device
from streams.engine.metrics import Metrics
from streams.engine.pipeline import Pipeline
from streams.settings import Settings
from streams.transport.outputs.producer import Delivery, Outputs
from streams.transport.record_batch import RecordBatch


class Failing:
    """A job that raises on the batch at one position, when it decodes it or when it runs it."""

    name = "failing"

    def __init__(self, position: int, in_decode: bool = False) -> None:
        self._position, self._in_decode = position, in_decode

    def decode(self, batch: RecordBatch) -> None:
        if self._in_decode and batch.first == self._position:
            raise RuntimeError("on purpose")

    def is_quick(self, batches: Sequence[RecordBatch], decoded: Sequence[None]) -> bool:
        return True

    def prepare(self, decoded: Sequence[None]) -> None:
        """Nothing is missing."""

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[None]) -> list[Answered]:
        if batches[0].first == self._position:
            raise RuntimeError("on purpose")
        return [Answered(DECISIONS, [], []) for _ in batches]


def assignment(stop_with: Callable[[BaseException], None]) -> Any:
    """Return an assignment that keeps every batch."""
    return SimpleNamespace(is_current=lambda _: True, confirm=lambda _: None, stop_with=stop_with)


class Published(list[int]):
    """Positions of the batches that were published."""

    @staticmethod
    def outputs(batch: RecordBatch, answered: Answered) -> list[Outputs]:
        return []

    def publish(self, delivery: Delivery) -> None:
        self.append(delivery.batch.first)


def batch(first: int) -> RecordBatch:
    return RecordBatch(TP("t", 0), first, first + 1, [first], [b""], [b""], [0], [()], 1, time.monotonic())


@pytest.mark.parametrize("inline_records_max", [0, 1], ids=["device thread", "inline"])
def test_nothing_behind_a_failed_micro_batch_is_published(inline_records_max: int) -> None:
    """Its successors would be committed over it, and its records never decided."""
    failures: list[BaseException] = []
    published = Published()

    async def main() -> None:
        device = Device(lambda: None)
        settings = Settings(batch_records_max=1, inline_records_max=inline_records_max)
        pipeline = Pipeline(
            Failing(1), device, published, assignment(failures.append), settings, Metrics(),  # type: ignore[arg-type]
        )  # fmt: skip
        pipeline.submit([batch(first) for first in range(4)])
        while not failures:
            await asyncio.sleep(0.001)
        device.close()
        await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert published == [0]
    assert {str(failure) for failure in failures} == {"on purpose"}


@pytest.mark.parametrize("inline_records_max", [0, 1], ids=["device thread", "inline"])
@pytest.mark.parametrize("fails", ["decode", "publish"])
def test_a_failure_before_or_after_the_run_stops_the_worker_too(fails: str, inline_records_max: int) -> None:
    """It is told once, names the records, and nothing behind it is published or counted as done."""
    failures: list[BaseException] = []
    published = Published()

    def publish(delivery: Delivery) -> None:
        if fails == "publish" and delivery.batch.first == 1:
            raise RuntimeError("on purpose")
        Published.publish(published, delivery)

    async def main() -> None:
        device = Device(lambda: None)
        settings = Settings(batch_records_max=1, inline_records_max=inline_records_max)
        job = Failing(1, in_decode=True) if fails == "decode" else Failing(-1)
        pipeline = Pipeline(
            job, device, SimpleNamespace(publish=publish, outputs=Published.outputs), assignment(failures.append),  # type: ignore[arg-type]
            settings, Metrics(),
        )  # fmt: skip
        pipeline.submit([batch(first) for first in range(4)])
        while not failures:
            await asyncio.sleep(0.001)
        assert not await pipeline.drain(time.monotonic() + 0.05)
        device.close()
        await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert published == [0]
    assert [str(failure) for failure in failures] == ["on purpose"]
    assert "t[0]@1..2: not committed, and read again" in failures[0].__notes__[0]


class Recording(Failing):
    """A job that keeps the sizes of its micro-batches and the threads that they ran on."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.runs: list[tuple[int, bool]] = []

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[None]) -> list[Answered]:
        self.runs.append((len(batches), threading.current_thread() is threading.main_thread()))
        return super().run(batches, decoded)


class Slow(Recording):
    """A job whose micro-batches take 10 ms."""

    def run(self, batches: Sequence[RecordBatch], decoded: Sequence[None]) -> list[Answered]:
        time.sleep(0.01)
        return super().run(batches, decoded)


@pytest.mark.parametrize(
    "records, runs",
    [
        (3, [(3, True)]),
        (5, [(4, False), (1, True)]),
        (8, [(4, False), (4, False)]),
    ],
    ids=["few: together on the loop", "many: on the device thread, but for the last", "many: on the device thread"],
)
def test_what_is_few_waits_for_the_device_and_runs_on_the_loop(records: int, runs: list[tuple[int, bool]]) -> None:
    """On another thread it would run beside the loop's fetching, and the interpreter lock would slow both."""
    job, published = Recording(), Published()

    async def main() -> None:
        device, busy = Device(lambda: None), threading.Event()
        settings = Settings(batch_records_max=4, inline_records_max=3)
        pipeline = Pipeline(
            job, device, published, assignment(lambda exc: None), settings, Metrics(),  # type: ignore[arg-type]
        )  # fmt: skip
        device.submit(partial(busy.wait, 10))
        for first in range(records):
            pipeline.submit([batch(first)])
        assert not job.runs
        busy.set()
        while len(published) < records:
            await asyncio.sleep(0.001)
        device.close()

    asyncio.run(asyncio.wait_for(main(), 10))
    assert job.runs == runs
    assert published == list(range(records))


def test_few_records_do_not_wait_for_the_end_of_another_topics_backlog() -> None:
    """The device is never free while others fill it: after a while they take their turn on its thread."""
    few, many = Recording(), Slow()
    published = Published()

    async def main() -> None:
        device = Device(lambda: None)
        settings = Settings(batch_records_max=4, inline_records_max=3)
        clicks, payments = (
            Pipeline(
                job, device, published, assignment(lambda exc: None), settings, Metrics(),  # type: ignore[arg-type]
            )
            for job in (few, many)
        )  # fmt: skip
        payments.submit([batch(first) for first in range(400)])
        clicks.submit([batch(1_000)])
        while not few.runs:
            await asyncio.sleep(0.001)
        payments.abandon()
        device.close()

    asyncio.run(asyncio.wait_for(main(), 10))
    assert few.runs == [(1, False)]
    assert len(many.runs) < 50  # of 100
