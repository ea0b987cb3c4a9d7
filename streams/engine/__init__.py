"""From a fetch to confirmed outputs: micro-batches, the device, failing models, publishing, metrics.

What is decided is defined in `streams.agents`; Kafka clients are in `streams.transport`.
"""
