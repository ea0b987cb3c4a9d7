"""`python -m tests.support.warm` fills the caches on disk: bytecode, compiled kernels, Kafka's files.

Processes that start side by side without them would each spend half a minute on the same.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Fill the caches."""
    from models.recommender.runner import RecommenderRunner
    from streams.kafka.distribution import ensure_jars
    from tests.support import preload  # noqa: F401

    ensure_jars()
    RecommenderRunner.load(device="cpu").warm_up()


def is_cold() -> bool:
    """Tell whether this checkout's kernels were never compiled. Those that have changed since look warm, and are slow once."""
    return not any((ROOT / "models" / "features" / "__pycache__").glob("kernels.*.nbi"))


if __name__ == "__main__":
    main()
