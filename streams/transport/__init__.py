"""Faust transport `streams://`: batched topics, own offsets, librdkafka for outputs. Registered in `faust.transports`.

What records mean is defined elsewhere; clients that work outside Faust are in `streams.clients`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import aiokafka

from streams.transport.consumer import Consumer
from streams.transport.outputs.producer import Producer
from streams.transport.upstream import DriverTransport


class Transport(DriverTransport):
    """aiokafka for group membership, assignment and fetching."""

    Consumer: ClassVar[Any] = Consumer
    Producer: ClassVar[Any] = Producer
    driver_version = f"streams aiokafka={aiokafka.__version__}"
