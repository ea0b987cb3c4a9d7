"""What a call costs, in a unit that is as slow as the machine is at the time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ROUNDS = 20
SIDE = 512


def in_matrix_products(call: Callable[[], object]) -> float:
    """Return a call's processor time, in products of two float32 matrices of 512 rows and columns.

    A product is 1.6 ms of a Zen 4's core that has nothing else to do. Both are timed in turns, and the best of twenty
    counts: neither other processes nor a slow hour of a shared machine do.
    """
    assert torch.get_num_threads() == 1, "only this thread's processor time is counted"
    matrix = torch.ones(SIDE, SIDE)
    rounds = [(_spent_s(call), _spent_s(lambda: matrix @ matrix)) for _ in range(ROUNDS)]
    ours_s, product_s = (min(column) for column in zip(*rounds, strict=True))
    return ours_s / product_s


def _spent_s(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began
