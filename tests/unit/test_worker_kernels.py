"""Kernels of a worker: compiled once for a machine, by two processes side by side, and never while a record waits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from models.features import kernels
from models.features.compilation import one_compiles

ROOT = Path(kernels.__file__).parents[2]

START = """
import sys
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from streams.worker.kernels import compile_beside, warm_up_kernels
    from models.fraud.runner import FraudRunner
    from models.recommender.runner import RecommenderRunner
    compile_beside()
    warm_up_kernels()
    FraudRunner.load("", "cpu").warm_up()
    RecommenderRunner.load("", "cpu").warm_up()
print(len(recorder.buffer))
"""


def _run(*arguments: str, cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_start_behind_both_groups_compiles_nothing(tmp_path: Path) -> None:
    """What the two processes of a cold start compile apart is all that a worker calls when it warms up its models."""
    beside = threading.Thread(target=_run, args=("-m", "streams.worker.kernels", "blend"), kwargs={"cache": tmp_path})
    beside.start()
    _run("-m", "streams.worker.kernels", "features", cache=tmp_path)
    beside.join()
    assert _run("-c", START, cache=tmp_path) == "0\n"


def test_one_process_compiles_and_the_next_waits(tmp_path: Path) -> None:
    """Two workers that start together do not both compile: the second enters when the first has filled the cache."""
    code = (
        "import sys\nfrom models.features import kernels\nfrom models.features.compilation import one_compiles\n"
        "with one_compiles(kernels.insert, 'test'):\n    print('in', flush=True); sys.stdin.readline()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdin is not None and first.stdout is not None
        assert first.stdout.readline() == "in\n"
        entered: list[float] = []

        def enter() -> None:
            with one_compiles(kernels.insert, "test"):
                entered.append(time.monotonic())

        second = threading.Thread(target=enter)
        second.start()
        second.join(0.3)
        assert not entered
        released = time.monotonic()
        first.stdin.write("\n")
        first.stdin.close()
        second.join(20.0)
        assert entered and entered[0] >= released


def test_a_kernel_is_cached_until_its_source_is_newer(tmp_path: Path) -> None:
    """A changed source makes its kernels cold again."""
    code = """
import os, sys, time
from pathlib import Path
from models.features import seen, kernels
from models.features.compilation import is_cached
before = is_cached(kernels.mark_duplicates)
seen.warm_up()
print(before, is_cached(kernels.mark_duplicates), is_cached(kernels.update_cards))
for index in Path(kernels.insert.stats.cache_path).glob("*.nbi"):
    os.utime(index, (0, 0))
print(is_cached(kernels.mark_duplicates))
"""
    assert _run("-c", code, cache=tmp_path) == "False True False\nFalse\n"
