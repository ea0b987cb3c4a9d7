"""Isolation: the rows for which a model fails, found by splitting, so that their neighbours are decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.contract.columns import Columns, Rejection
from streams.errors import ModelFailed

Result = TypeVar("Result")
C = TypeVar("C", bound=Columns)

# After so many failing rows in a row, and no success between them, the model is at fault and not the rows.
FAILURES_IN_A_ROW_MAX = 8


class Isolation:
    """Calls a model, and calls it again with halves of what it failed for until the culprits are alone.

    k culprits among B rows cost about k log2 B calls. The count of failures in a row goes on from call to call, since
    at low load every micro-batch is a single record.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def __call__(
        self, model: Callable[[NDArray[Any]], Result], rows: NDArray[Any]
    ) -> tuple[list[Result], dict[int, Exception]]:
        """Return what the model says of the rows it does not fail for, and what it raises for the others.

        Args:
            model: takes [b, ...] with b >= 1; raises when it fails.
            rows: [B, ...].

        Returns:
            Results of consecutive rows, in order, without the culprits; exceptions by row, in order.

        Raises:
            ModelFailed: FAILURES_IN_A_ROW_MAX single rows in a row failed.
        """
        pending = [slice(0, len(rows))] if len(rows) else []
        results: list[Result] = []
        culprits: dict[int, Exception] = {}
        while pending:
            part = pending.pop()
            try:
                results.append(model(rows[part]))
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
        return results, culprits


def set_aside(batches: Sequence[C], culprits: Mapping[int, Exception]) -> list[C]:
    """Return the batches without the culprits, each rejected with the model's exception.

    Args:
        batches: decoded rows, B in all.
        culprits: exceptions by row, counted over all batches.
    """
    kept, end = [], 0
    for columns in batches:
        begin, end = end, end + len(columns.accepted)
        drop = np.zeros(end - begin, np.bool_)
        rejected = []
        for row, exc in culprits.items():
            if begin <= row < end:
                drop[row - begin] = True
                message = f"the model fails for this record: {exc!r}"
                rejected.append(Rejection(int(columns.accepted[row - begin]), "model-failed", message, "inference"))
        kept.append(columns.without(drop, rejected))
    return kept
