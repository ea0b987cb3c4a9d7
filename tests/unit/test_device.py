"""The device: one piece of work at a time, and free only when it is."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from streams.engine.device import Device


def test_a_call_that_nobody_waits_for_keeps_the_device_busy() -> None:
    """A caller that gives up does not free the thread: the next user is told when the work has ended, not before."""

    async def main() -> None:
        device, go_on, freed = Device(lambda: None), threading.Event(), asyncio.Event()
        device.on_free(freed.set)
        waiting = asyncio.ensure_future(device.call(go_on.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert (device.in_flight, freed.is_set()) == (1, False)
        go_on.set()
        await freed.wait()
        assert device.in_flight == 0
        device.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_work_that_raises_frees_the_device() -> None:
    """Its caller is told, the others go on."""

    async def main() -> None:
        device, freed = Device(lambda: None), asyncio.Event()
        device.on_free(freed.set)
        try:
            await device.call(lambda: 1 // 0)
        except ZeroDivisionError:
            await freed.wait()
        assert device.in_flight == 0
        device.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_users_take_turns() -> None:
    """Who is told first that the device is free changes, so that no topic starves another."""

    async def main() -> list[str]:
        device, told = Device(lambda: None), list[str]()
        for name in "ab":
            device.on_free(lambda name=name: told.append(name))  # type: ignore[misc]
        for number in (1, 2):
            await device.call(lambda: None)
            while len(told) < 2 * number:
                await asyncio.sleep(0.001)
        device.close()
        return told

    assert asyncio.run(asyncio.wait_for(main(), 10)) == ["b", "a", "a", "b"]
