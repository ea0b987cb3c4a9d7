"""A TCP proxy on loopback between workers and a broker: delays, resets, swallows, and cuts what a request hoped to hear."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Self

PRODUCE, TXN_OFFSET_COMMIT, ADD_PARTITIONS, END_TXN = 0, 28, 24, 26  # Kafka's request keys
HEAD_BYTES = 6  # length int32, request key int16


class Proxy:
    """Relays every connection to one port. Its faults may be set from any thread, at any time.

    Attributes:
        delay_s: how long each piece waits before it is passed on, in either direction.
        blackhole: nothing is passed on, without an error; the bytes that arrive meanwhile are passed on later.
        cuts: request key -> how many of its answers are still to be withheld: the connection is reset instead.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self.delay_s = 0.0
        self.blackhole = False
        self.cuts: dict[int, int] = {}
        self.cut = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    def reset(self) -> None:
        """Break all connections; new ones are taken."""

        def abort() -> None:
            for writer in tuple(self._writers):
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def heal(self) -> None:
        """End all faults."""
        self.delay_s, self.blackhole = 0.0, False
        self.cuts.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server_writer}
        self._writers |= both
        answers = asyncio.ensure_future(self._answers(server_reader, writer))
        try:
            await self._requests(reader, server_writer, answers)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either end may go at any time: that is what a proxy is for here
        finally:
            answers.cancel()
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.Future[None]
    ) -> None:
        while True:
            head = await reader.readexactly(HEAD_BYTES)
            length, key = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
            body = await reader.readexactly(length - 2)
            if self.cuts.get(key, 0) > 0:
                self.cuts[key] -= 1
                self.cut += 1
                answers.cancel()
                writer.write(head + body)
                await writer.drain()
                await asyncio.sleep(0.3)  # the broker does what was asked
                return
            await self._pass(head + body, writer)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                await self._pass(piece, writer)
            writer.transport.abort()

    async def _pass(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        while self.blackhole or time.monotonic() - began < self.delay_s:
            await asyncio.sleep(0.01)
        writer.write(piece)
        await writer.drain()
