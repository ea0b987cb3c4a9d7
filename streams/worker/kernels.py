"""Kernels of a worker, compiled or read from the cache before the first record waits for them, in two groups.

The groups share no kernel: two processes that save specialisations of one kernel at once lose some of them, since numba
reads and rewrites its index without a lock. `python -m streams.worker.kernels blend` compiles one group and ends: a
second core compiles beside the first. Imports neither torch nor Faust, which take longer than a cached group.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Final

import numpy as np

from models.artifacts import default_artifact, load_artifact
from models.features import items, kernels, payments, seen, sessions
from models.features.compilation import is_cached, one_compiles
from models.recommender.blend import Blend
from models.recommender.blend_kernels import blend_rows
from models.recommender.top_k import at_least, largest, top_k


def warm_up_features() -> None:
    """Compile what decodes, builds features, keeps sessions and identities, and writes and reads their state."""
    from streams.contract.columns import Limits
    from streams.contract.decoding import decode_transactions  # compiles on import

    payments.warm_up()
    sessions.warm_up()
    seen.warm_up()
    items.warm_up()
    decode_transactions([b"{}"], now_ms=0, limits=Limits())


def warm_up_blend() -> None:
    """Compile what picks candidates and blends a slate."""
    artifact = load_artifact(default_artifact("recommender"))
    architecture = artifact.section("architecture")
    count, width = int(architecture["items"]), int(architecture["width"])
    blend = Blend.from_artifact(artifact, np.zeros((count, width), np.float32), 0.0)
    logits = np.zeros((1, count), np.float32)
    top_k(logits, 1)  # by blocks
    best = top_k(logits, count)  # by the cut
    session, length = np.zeros((1, len(blend.repeats)), np.int32), np.ones(1, np.int32)
    blend.rank(session, length, np.zeros((1, width), np.float32), best, 1, keep_seen=False)


GROUPS: Final[dict[str, Callable[[], None]]] = {"features": warm_up_features, "blend": warm_up_blend}


def warm_up_kernels(*groups: str) -> None:
    """Compile these groups (all by default), one process of the machine at a time each, or load them from the cache."""
    for group in groups or GROUPS:
        with one_compiles(kernels.insert, group):
            GROUPS[group]()


def compile_beside() -> None:
    """Have another process compile the blend if it is not in the cache, while this one does others."""
    if not all(map(is_cached, (largest, at_least, blend_rows))):
        subprocess.Popen([sys.executable, "-m", __name__, "blend"], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    warm_up_kernels(*sys.argv[1:])
