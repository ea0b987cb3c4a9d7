"""Stopping a worker: one time for all that is left to do, and nothing waited for that cannot come."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, patch

import faust
import pytest

from streams.errors import ClientHangs, StateCorrupt, StreamsError
from streams.settings import Settings
from streams.worker.application import END_HUNG_S, END_S_MAX, create_app
from streams.worker.assembly import Parts
from streams.worker.process import WorkerProcess
from streams.worker.worker import Worker


def test_drains_of_a_stop_share_its_time(tmp_path: Path) -> None:
    """Faust empties the consumer more than once while it stops; a rebalance has the whole time for itself."""
    app = create_app(Settings(bootstrap_servers="127.0.0.1:1", state_dir=str(tmp_path), drain_s_max=5.0))
    before = app.drain_deadline()
    time.sleep(0.01)
    assert app.drain_deadline() > before

    async def upstream(_: faust.App) -> None:
        """Nothing runs that would have to stop."""

    with patch.object(faust.App, "on_stop", upstream), patch.object(app, "_end_soon") as ending:
        asyncio.run(app.on_stop())
    ending.assert_called_once()
    first = app.drain_deadline()
    time.sleep(0.01)
    assert app.drain_deadline() == first
    assert time.monotonic() < first < time.monotonic() + 5.0


def test_checkpoints_that_hang_stop_the_worker() -> None:
    """Without them a restart would replay more every hour."""
    told: list[BaseException] = []

    async def hang(_: float) -> int:
        raise ClientHangs("checkpoints hang")

    unused: Any = None
    process = WorkerProcess("worker", lambda: unused, told.append, unused)
    parts = Parts(
        device=unused, producer=unused, ownership=unused, checkpointer=SimpleNamespace(write=hang), ends_reader=unused,
        pipelines={}, tables={}, partitions={}, metrics=unused, closing=ExitStack(),
    )  # type: ignore[arg-type]  # fmt: skip
    worker = Worker(parts, process, stall_s_max=120.0)
    assert worker.not_ready_reason is None
    assert asyncio.run(worker.checkpoint(1.0)) == 0
    assert [str(each) for each in told] == ["checkpoints hang"] and worker.not_ready_reason == "checkpoints hang"


@pytest.mark.parametrize(
    ("failure", "seconds"), [(ClientHangs("on purpose"), END_HUNG_S), (StateCorrupt("on purpose"), END_S_MAX)]
)
def test_a_client_that_hangs_is_not_waited_for(tmp_path: Path, failure: StreamsError, seconds: float) -> None:
    """Its partitions stand still until the next worker has them."""
    app = create_app(Settings(bootstrap_servers="127.0.0.1:1", state_dir=str(tmp_path)))

    async def main() -> None:
        with patch.object(app, "crash", AsyncMock()), patch.object(app, "_end_soon") as ending:
            app._fail(failure)
            await app._crashing
        ending.assert_called_once_with(seconds)

    asyncio.run(main())
