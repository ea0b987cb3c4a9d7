"""Repeatable trainings, and the versions that a manifest names."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import torch


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Run on one thread from a seed, and leave torch's threads and generator as they were.

    Sums are taken in another order by another number of threads: with one, a seed gives the same weights each time
    on one kind of processor.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    """Return the versions that a manifest names."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def date(event_time: int) -> str:
    """Return the UTC date of an event_time in milliseconds."""
    return datetime.fromtimestamp(event_time / 1000, UTC).date().isoformat()
