"""What every worker does before anything else, done once: the fork server imports this and forks workers from it.

No model runs here: torch's threads would not be in a forked worker, which would wait for them for ever.
"""

import streams.worker.application  # noqa: F401
from streams.worker.kernels import warm_up_kernels

warm_up_kernels()
