"""Kafka in, Kafka out: fraud decisions and recommendations by frozen torch models, in Python.

`faust -A streams worker` finds the application as `streams.app`. Reading that attribute, and only that, starts Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.worker.application import Application

    app: Application

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "app":
        from streams.errors import StreamsError
        from streams.worker.application import create_app

        try:
            globals()["app"] = application = create_app()
        except StreamsError as exc:
            # Read by `faust -A streams`: a user's mistake ends in one line, not in a traceback.
            raise SystemExit(f"streams: {exc}") from None
        return application
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
