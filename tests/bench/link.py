"""A slow link: a TCP relay on loopback that passes on so many bits a second, as a network card would."""

import asyncio
import threading
from typing import Self

PIECE_BYTES = 16_384
# What the link may catch up on after a sleep that lasted too long: without it, the timer's errors add up.
CREDIT_S = 0.05


class Link:
    """Relays connections to a port; all of them share one rate for what the other end answers.

    Args:
        port: where it listens, on 127.0.0.1.
        target: port that it relays to.
        megabits: 1,000,000 bits a second, of the answers; requests pass at once.
    """

    def __init__(self, port: int, target: int, megabits: float) -> None:
        self._port, self._target, self._bytes_per_s = port, target, megabits * 125_000.0
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._relay, "127.0.0.1", self._port)
        asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass(reader, far_writer, slow=False), self._pass(far_reader, writer, slow=True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        try:
            while piece := await reader.read(PIECE_BYTES):
                if slow:
                    now = self._loop.time()
                    self._free_at = max(self._free_at, now - CREDIT_S) + len(piece) / self._bytes_per_s
                    await asyncio.sleep(max(0.0, self._free_at - now))
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # either end may go: its client connects anew
        finally:
            writer.close()
