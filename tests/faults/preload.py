"""What every worker does before anything else, done once: the fork server imports this and forks workers from it."""

import streams.application  # noqa: F401
from streams.worker import warm_up_kernels

warm_up_kernels()
