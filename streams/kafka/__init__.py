"""Embedded Apache Kafka for the demo, the tests and a first try: a real broker from pip alone."""

from streams.kafka.cluster import EmbeddedKafka, running

__all__ = ("EmbeddedKafka", "running")
