"""A worker that imports and compiles while its cluster is still being started.

`python -m streams.worker.ahead GATE` does what takes seconds and needs no broker, waits until the file GATE exists, adds
the variables that it holds (a JSON object) to the environment, and is `faust -A streams worker` from there on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from streams.worker.kernels import compile_beside, warm_up_kernels

ARGUMENTS: Final = ("-A", "streams", "worker", "--loglevel", "info")
POLL_S: Final = 0.02


def main(gate: Path) -> None:
    """Get ready, wait for the gate, be a worker."""
    compile_beside()
    warm_up_kernels("features")
    import streams.worker.application  # noqa: F401 - torch, Faust and the rest, before the broker is there

    warm_up_kernels("blend")
    while not gate.exists():
        time.sleep(POLL_S)
    os.environ.update(json.loads(gate.read_bytes()))
    from faust.cli.faust import cli

    sys.argv = ["faust", *ARGUMENTS]
    cli()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
