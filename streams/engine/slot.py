"""ModelSlot: the model that decides now. A job reads it once a micro-batch, so that a micro-batch has one model."""

from __future__ import annotations

from typing import Generic, TypeVar

M = TypeVar("M")


class ModelSlot(Generic[M]):
    """Holds one model; `swap` puts another in its place, from any thread.

    The name, version, thresholds and vocabulary of a decision are those of the model that was read: no other part of the
    worker keeps them. A micro-batch that runs during a swap is finished by the model that it began with.
    """

    def __init__(self, model: M) -> None:
        self._model = model

    @property
    def current(self) -> M:
        """The model that the next micro-batch is decided by. One reference, read whole: without a lock."""
        return self._model

    def swap(self, model: M) -> None:
        """Let `model`, warmed up already, decide every micro-batch that begins after this call."""
        self._model = model
