"""What `streams evaluate` and `streams watch --summary` compute, through the serving path or a real Kafka.

Protocols and metrics themselves are in `models.evaluation`.
"""
