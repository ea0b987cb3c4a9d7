"""Embedded Apache Kafka for the demo, the tests and a first try: a real broker from pip alone.

Clients of a cluster are in `streams.clients`. A cluster of your own needs nothing of this room.
"""

from streams.kafka.cluster import EmbeddedKafka, running

__all__ = ("EmbeddedKafka", "running")
