"""Frozen models: features, artifacts, inference and training. Never imports `streams`."""
