"""Judging models by the protocols of the literature: fraud week after week, next clicks of held-out sessions.

Judging through a worker and a broker is in `streams.judging`; single metrics are in `models.metrics`.
"""
