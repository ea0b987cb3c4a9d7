"""Frozen models: features, artifacts, inference, training, evaluation, and a simulator to train on.

Nothing here speaks to Kafka, and nothing here imports `streams`.
"""
