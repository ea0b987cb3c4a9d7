"""Feature state of a partition: in memory, as checkpoints in Kafka and as files, and its restore.

What a row means is defined in `models.features`; no decision is made here.
"""
