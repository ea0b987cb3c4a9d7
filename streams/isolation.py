"""Isolation: the rows for which a model fails, found by splitting, so that their neighbours are decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.errors import ModelFailed

# So many rows one after the other for which the model fails, and none for which it does not: it is the model, not the rows.
FAILURES_IN_A_ROW_MAX = 8


class Isolation:
    """Calls a model, and calls it again with halves of what it failed for until the culprits are alone.

    k culprits among B rows cost about k log2 B calls. The count of failures in a row goes on from call to call, since
    at low load every micro-batch is a single record.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def __call__(
        self, model: Callable[[NDArray[Any]], NDArray[np.float32]], rows: NDArray[Any]
    ) -> tuple[NDArray[np.float32], dict[int, Exception]]:
        """Return what the model says of each row, and what it raised for the rows it fails for.

        Args:
            model: takes [b, ...] with b >= 1, returns float32[b, ...]; failing is raising, or a number that is not finite.
            rows: [B, ...].

        Returns:
            float32[B, ...], zeros for a culprit; exceptions by row.

        Raises:
            ModelFailed: FAILURES_IN_A_ROW_MAX single rows in a row failed.
        """
        pending = [slice(0, len(rows))] if len(rows) else []
        done: list[tuple[slice, NDArray[np.float32]]] = []
        culprits: dict[int, Exception] = {}
        while pending:
            part = pending.pop()
            try:
                result = model(rows[part])
                if not np.isfinite(result).all():
                    raise ArithmeticError("a score is not a finite number")
            except Exception as exc:
                middle = (part.start + part.stop) // 2
                if middle > part.start:
                    pending += [slice(middle, part.stop), slice(part.start, middle)]
                    continue
                self._in_a_row += 1
                if self._in_a_row >= FAILURES_IN_A_ROW_MAX:
                    raise ModelFailed(f"the model failed for {self._in_a_row} records in a row, last: {exc!r}") from exc
                culprits[part.start] = exc
            else:
                self._in_a_row = 0
                done.append((part, result))
        if len(done) == 1 and not culprits:
            return done[0][1], culprits
        shape = (len(rows), *(done[0][1].shape[1:] if done else ()))
        combined = np.zeros(shape, np.float32)
        for part, result in done:
            combined[part] = result
        return combined, culprits
