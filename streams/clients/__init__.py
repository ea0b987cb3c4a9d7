"""Clients of a Kafka cluster outside Faust: readers, producers, admin clients, their settings.

`connection` makes every client, `records` polls every reader, `topic_admin` makes every topic. This room knows no agents,
models or state; the worker's own consumer and its producers of outputs are in `streams.transport`.
"""
