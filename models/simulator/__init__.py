"""A seeded world of endless payments and clicks: the shipped models were trained on it, and the demo sends it.

Training is in `models.training`; nothing here knows a model.
"""
