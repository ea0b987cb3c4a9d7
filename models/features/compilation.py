"""Compilation of kernels by numba."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from numba import njit


def compiled(function: Callable[..., Any], *, fastmath: bool = False) -> Callable[..., Any]:
    """Compile `function` on first use, cached on disk.

    numba caches beside the source, or in the user's cache folder where an installation is read-only. Where neither can
    be written it refuses to cache: each process then compiles for itself, unless NUMBA_CACHE_DIR names a folder.

    Args:
        function: What numba compiles.
        fastmath: Let sums be reordered, so that they use whole vectors.
    """
    try:
        return cast(Callable[..., Any], njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)(function))
    except RuntimeError:
        return cast(Callable[..., Any], njit(nogil=True, error_model="numpy", fastmath=fastmath)(function))


def is_cached(kernel: Any) -> bool:
    """Tell whether numba's cache holds the kernel, written after its source: else its first call compiles."""
    if kernel.stats.cache_path is None:
        return False
    source = Path(kernel.py_func.__code__.co_filename)
    indexes = Path(kernel.stats.cache_path).glob(f"{source.stem}.{kernel.py_func.__qualname__}-*.nbi")
    return any(index.stat().st_mtime >= source.stat().st_mtime for index in indexes)


@contextmanager
def one_compiles(kernel: Any, name: str) -> Iterator[None]:
    """Let one process of this machine at a time into the block: the next finds the kernels in the cache.

    Args:
        kernel: any of them; its cache folder holds the lock. Without a cache each process compiles for itself.
        name: what the block compiles; blocks of other names run beside it.
    """
    if kernel.stats.cache_path is None:
        yield
        return
    folder = Path(kernel.stats.cache_path)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it, however this process ends
        yield
