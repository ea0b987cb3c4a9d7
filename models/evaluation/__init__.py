"""Judging models by the protocols of the literature: fraud week after week, next clicks of held-out sessions."""
