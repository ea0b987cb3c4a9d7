"""Clients of a Kafka cluster that work outside Faust: readers, producers, admin clients, their settings.

Nothing here knows agents, models or state; the worker's own consumer and producers are in `streams.transport`.
"""
