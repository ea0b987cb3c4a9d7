"""Scheduler: the threads and event loops of several processes, run as steps in the order that a seed decides.

Every simulated thread is a greenlet of the one real thread. It runs until it waits; then the scheduler takes the next event
off its queue and time jumps there. How long a wait or an answer takes is drawn from the seed, and so is which of two threads
comes first. Nothing else decides: a seed replays exactly.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

# How often a thread that could go on is interrupted, and for how long on average. Rarely it is for long: a busy machine.
PREEMPTIONS = 0.25
PREEMPTION_S = 0.0004
LONG_PREEMPTIONS = 0.02
LONG_PREEMPTION_S = 0.05
# More events than any run needs: beyond it, two threads wake each other for ever.
EVENTS_MAX = 400_000


class Scheduler:
    """Virtual time, the queue of what happens next, and the one source of chance."""

    current: Scheduler

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.thread: Thread | None = None
        self.processes: list[Process] = []
        self.events = 0
        self.over = False
        self.hub = getcurrent()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        Scheduler.current = self

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` so many seconds from now."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), call))

    def run(self, is_done: Callable[[], bool], until: float) -> bool:
        """Let things happen until `is_done` or the time `until`; tell whether it is done."""
        while not is_done():
            if not self._queue or self._queue[0][0] > until:
                self.now = until
                return False
            self.now, _, call = heapq.heappop(self._queue)
            self.events += 1
            assert self.events < EVENTS_MAX, (
                f"{self.events} events by {self.now:.3f} s: threads wake each other for ever"
            )
            call()
        return True

    def preemption_s(self) -> float:
        """Return for how long a thread that could go on does not."""
        chance = self.random.random()
        if chance >= PREEMPTIONS:
            return 0.0
        return self.random.expovariate(1.0 / (LONG_PREEMPTION_S if chance < LONG_PREEMPTIONS else PREEMPTION_S))

    def step(self) -> None:
        """A place where a thread may be interrupted."""
        seconds = self.preemption_s()
        if seconds and self.thread is not None:
            self.thread.park(seconds)

    def close(self) -> None:
        """End every thread and loop that is left."""
        self.over = True
        for process in self.processes:
            process.end()


class Process:
    """Threads that are stopped, frozen and killed together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive, self.paused = True, False
        self.requests_left: int | None = None  # None, or after how many requests `at_request` is called
        self.at_request: Callable[[], None] = lambda: None
        self._held: list[Callable[[], None]] = []
        self.threads: list[Thread] = []
        self.loops: list[Loop] = []
        self._scheduler = Scheduler.current
        self._scheduler.processes.append(self)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` so many seconds from now, later while the process is paused, never once it is dead."""
        self._scheduler.after(seconds, lambda: self.perform(call))

    def perform(self, call: Callable[[], None]) -> None:
        if self.alive and self.paused:
            self._held.append(call)
        elif self.alive:
            call()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        held, self._held = self._held, []
        for call in held:
            self.after(self._scheduler.random.expovariate(1.0 / PREEMPTION_S), call)

    def kill(self) -> None:
        """From here on nothing of the process runs. What it has sent arrives."""
        self.alive = False
        self._held.clear()

    def count_request(self) -> None:
        """Called with each request that the process sends: a fault may be due."""
        if self.requests_left is not None:
            self.requests_left -= 1
            if self.requests_left <= 0:
                self.requests_left = None
                self.at_request()

    def end(self) -> None:
        for thread in self.threads:
            thread.end()
        for loop in self.loops:
            loop.end()


class Thread:
    """A simulated thread. It is switched to by the scheduler alone."""

    def __init__(self, process: Process, target: Callable[[], None]) -> None:
        self._scheduler = Scheduler.current
        self.process = process
        self._greenlet = greenlet(target, self._scheduler.hub)
        self._ticket = 0
        process.threads.append(self)
        self._wake_in(self._scheduler.random.expovariate(1.0 / PREEMPTION_S))

    def park(self, seconds: float | None) -> None:
        """Wait so long, or until woken; None: until woken."""
        if self._scheduler.over:
            raise GreenletExit
        self._ticket += 1
        if seconds is not None:
            self._wake_in(seconds)
        loop = asyncio._get_running_loop()
        task = None if loop is None else asyncio.current_task(loop)
        if loop is not None and task is not None:
            asyncio.tasks._leave_task(loop, task)
        asyncio._set_running_loop(None)
        self._scheduler.hub.switch()
        asyncio._set_running_loop(loop)
        if loop is not None and task is not None:
            asyncio.tasks._enter_task(loop, task)
        if self._scheduler.over:
            raise GreenletExit

    def wake(self) -> None:
        """Let the thread go on a moment from now, if it waits."""
        self._wake_in(self._scheduler.random.expovariate(1.0 / PREEMPTION_S))

    def _wake_in(self, seconds: float) -> None:
        ticket = self._ticket
        self._scheduler.after(seconds, lambda: self._go_on(ticket))

    def _go_on(self, ticket: int) -> None:
        if ticket == self._ticket:
            self.process.perform(self._switch if not self.process.paused else lambda: self._go_on(ticket))

    def _switch(self) -> None:
        self._ticket += 1
        self._scheduler.thread = self
        try:
            self._greenlet.switch()
        finally:
            self._scheduler.thread = None

    def end(self) -> None:
        if self._greenlet:
            self._greenlet.throw(GreenletExit)


class Signal:
    """Wakes the threads that wait for it."""

    def __init__(self) -> None:
        self._waiting: list[Thread] = []

    def wait(self, seconds: float | None = None) -> None:
        thread = running_thread()
        self._waiting.append(thread)
        try:
            thread.park(seconds)
        finally:
            if thread in self._waiting:
                self._waiting.remove(thread)

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            thread.wake()


class Lock:
    """In place of `threading.Lock`."""

    def __init__(self) -> None:
        self._held, self._freed = False, Signal()

    def __enter__(self) -> None:
        Scheduler.current.step()
        while self._held:
            self._freed.wait()
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
        self._freed.notify()


class Clock:
    """In place of the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return Scheduler.current.now

    @staticmethod
    def sleep(seconds: float) -> None:
        running_thread().park(seconds)


class Pool:
    """In place of `ThreadPoolExecutor`, with one thread."""

    def __init__(
        self, max_workers: int = 1, thread_name_prefix: str = "", initializer: Callable[[], None] | None = None
    ) -> None:
        assert max_workers == 1, "what is simulated has pools of one thread"
        self._process = current_process()
        self._work: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed, self._ended = Signal(), Signal()
        self._initializer, self._thread, self._closed = initializer, None, False
        self._running = False

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self._work.append((future, lambda: call(*args)))
        if self._thread is None and not Scheduler.current.over:
            self._running = True
            self._thread = Thread(self._process, self._run)
        self._changed.notify()
        return future

    def _run(self) -> None:
        if self._initializer is not None:
            self._initializer()
        while not Scheduler.current.over:
            if self._work:
                future, call = self._work.popleft()
                if future.set_running_or_notify_cancel():
                    try:
                        result = call()
                    except GreenletExit:
                        raise
                    except BaseException as exc:  # noqa: BLE001 - as ThreadPoolExecutor does: the waiting caller gets it
                        future.set_exception(exc)
                    else:
                        future.set_result(result)
                Scheduler.current.step()
            elif self._closed:
                break
            else:
                self._changed.wait()
        self._running = False
        self._ended.notify()

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        self._closed = True
        while cancel_futures and self._work:
            self._work.popleft()[0].cancel()
        self._changed.notify()
        while wait and self._running:
            self._ended.wait()


class Loop(asyncio.BaseEventLoop):
    """asyncio's own loop; where it would wait for sockets, its simulated thread waits."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._woken, self._signal = False, Signal()
        self._pool: Pool | None = None
        self._is_stopped = False
        current_process().loops.append(self)

    def time(self) -> float:
        return Scheduler.current.now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout == 0 or self._woken:
            Scheduler.current.step()
        else:
            self._signal.wait(timeout)
        self._woken = False
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        self._woken = True
        self._signal.notify()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        if executor is None:
            executor = self._pool = self._pool or Pool()
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def run_until_complete(self, future: Any) -> None:
        """Run until a coroutine has ended. In a simulated thread."""
        asyncio._set_running_loop(self)
        task = self.create_task(future)
        while not task.done():
            self._run_once()
        asyncio._set_running_loop(None)
        self._is_stopped = True
        task.result()

    def end(self) -> None:
        """Close what never ended, as if the process had gone."""
        asyncio._set_running_loop(self)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what a coroutine was to wait for was never begun
            for task in asyncio.all_tasks(self):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                task.get_coro().close()  # type: ignore[union-attr]
        asyncio._set_running_loop(None)
        self._ready.clear()
        self.close()


def current_process() -> Process:
    """Return the process of the thread that runs."""
    return running_thread().process


def running_thread() -> Thread:
    """Return the thread that runs."""
    if Scheduler.current.over:
        raise GreenletExit
    thread = Scheduler.current.thread
    assert thread is not None, "no simulated thread runs; this is a bug"
    return thread
