"""Compilation of kernels by numba."""

from collections.abc import Callable
from typing import Any, cast

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on first use, cached on disk.

    numba caches beside the source, or in the user's cache folder where an installation is read-only. Where neither can
    be written it refuses to cache: each process then compiles for itself, unless NUMBA_CACHE_DIR names a folder.
    """
    try:
        return cast(Callable[..., Any], njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:
        return cast(Callable[..., Any], njit(nogil=True, error_model="numpy")(function))
