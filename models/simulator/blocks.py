"""Blocks of simulated events: a span of event time each, as columns of one length."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Block = dict[str, NDArray[Any]]  # columns of one length

START_MS: Final = 1_704_067_200_000  # 2024-01-01T00:00:00Z, a Monday: weekdays are day % 7 from here
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

# Separates the generators of payments, clicks and catalogue under one seed.
PAYMENT_WORLD, PAYMENT_DAY, CLICK_HOUR, CATALOGUE = range(4)


def named(prefix: str, count: int) -> NDArray[np.object_]:
    return np.array([f"{prefix}-{i:06d}" for i in range(count)], dtype=object)


def join(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def split(block: Block, count: int) -> tuple[Block, Block]:
    head = {name: column[:count] for name, column in block.items()}
    return head, {name: column[count:] for name, column in block.items()}
