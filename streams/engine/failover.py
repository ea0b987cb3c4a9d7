"""Failover: a model that fails for everything stops the worker, or a stand-in answers until it works again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from streams.engine.isolation import Isolation
from streams.errors import ModelFailed

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# A failure of a moment costs one second of decisions without the model. A lasting one costs the retries of one
# micro-batch a minute, and the model is back within a minute of its repair.
PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Answers(Generic[Result]):
    """Answers to a micro-batch's rows: all by the model, or all by the stand-in.

    Attributes:
        parts: answers for consecutive rows, in order, without the culprits.
        culprits: the model's exceptions, by failing row.
        degraded: whether the stand-in answered.
    """

    parts: list[Result]
    culprits: dict[int, Exception]
    degraded: bool


class Failover:
    """Calls a model through `Isolation`, and after `ModelFailed` a stand-in, until the model answers again.

    The model is asked again after a pause of PAUSE_S_MIN, which doubles with each failure up to PAUSE_S_MAX. One failing
    row ends such an attempt, and no record is set aside.

    Args:
        name: of the job, for the log.
        degrade: whether a stand-in answers; False: `ModelFailed` is raised.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, degrade: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._degrade, self._clock = name, degrade, clock
        self._isolate = Isolation()
        self._pause_s, self._ask_again_at, self._began_at = PAUSE_S_MIN, 0.0, 0.0
        self.is_degraded = False

    def __call__(
        self,
        model: Callable[[NDArray[Any]], Result],
        rows: NDArray[Any],
        stand_in: Callable[[NDArray[Any]], Result],
    ) -> Answers[Result]:
        """Return the model's answers to the rows, or the stand-in's answers to all of them.

        Args:
            model: as for `Isolation`.
            rows: [B, ...].
            stand_in: takes the rows; never fails.

        Raises:
            ModelFailed: the model fails for everything, and `degrade` is False.
        """
        if self.is_degraded and self._clock() < self._ask_again_at:
            return Answers([stand_in(rows)], {}, True)
        try:
            parts, culprits = self._isolate(model, rows)
        except ModelFailed as exc:
            if not self._degrade:
                raise
            self._failed(exc)
            return Answers([stand_in(rows)], {}, True)
        if parts and self.is_degraded:
            self.is_degraded = False
            logger.warning("%s: the model answers again, after %.0f s", self.name, self._clock() - self._began_at)
        return Answers(parts, culprits, False)

    def _failed(self, exc: ModelFailed) -> None:
        now = self._clock()
        if self.is_degraded:
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        else:
            self.is_degraded, self._began_at, self._pause_s = True, now, PAUSE_S_MIN
        self._ask_again_at = now + self._pause_s
        logger.error("%s: %s; decided without it, asked again in %.0f s", self.name, exc, self._pause_s)
