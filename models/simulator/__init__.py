"""A seeded world of payments and clicks, without an end: what models ship trained on, and what the demo sends.

Training is in `models.training`; nothing here knows a model.
"""
