"""What a worker's memory at its start is made of: `python tests/bench/memory.py`.

Prints resident and own memory, MB, after each step of a start, in one process: resident counts pages of files that
other processes share (libraries), own is what this process alone costs. No broker is needed.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import psutil

MB: Final = 1e6
made: dict[str, Any] = {}


def _imports(*names: str) -> Callable[[], None]:
    def step() -> None:
        for name in names:
            importlib.import_module(name)

    return step


def _fraud() -> None:
    from models.fraud.runner import FraudRunner

    made["fraud"] = FraudRunner.load("", "cpu")
    made["fraud"].warm_up()


def _recommender() -> None:
    from models.recommender.runner import RecommenderRunner

    made["recommender"] = RecommenderRunner.load("", "cpu")
    made["recommender"].warm_up()


def _kernels() -> None:
    from streams.worker.kernels import warm_up_kernels

    warm_up_kernels()


def _clients() -> None:
    from confluent_kafka import Consumer, Producer

    nowhere = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    made["clients"] = [Consumer({**nowhere, "group.id": "memory"}) for _ in range(5)] + [Producer(nowhere)]


STEPS: Final[dict[str, Callable[[], None]]] = {
    "numpy": _imports("numpy"),
    "torch": _imports("torch"),
    "numba, llvmlite": _imports("numba"),
    "confluent_kafka, aiokafka, aiohttp": _imports("confluent_kafka", "aiokafka", "aiohttp.web"),
    "faust": _imports("faust"),
    "kernels, from the cache": _kernels,
    "the application": _imports("streams.worker.application"),
    "fraud model, run once": _fraud,
    "recommender, run once": _recommender,
    "6 clients of librdkafka": _clients,
}


def main() -> None:
    """Print the table."""
    process = psutil.Process()
    before = process.memory_full_info()
    print(f"{'step':36}{'resident':>10}{'own':>8}")
    print(f"{'Python ' + sys.version.split()[0]:36}{before.rss / MB:10.0f}{before.uss / MB:8.0f}")
    for name, step in STEPS.items():
        step()
        after = process.memory_full_info()
        print(f"{name:36}{(after.rss - before.rss) / MB:+10.0f}{(after.uss - before.uss) / MB:+8.0f}")
        before = after
    print(f"{'in all':36}{before.rss / MB:10.0f}{before.uss / MB:8.0f}   {threading.active_count()} Python threads")


if __name__ == "__main__":
    main()
