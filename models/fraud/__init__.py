"""The fraud model: its network and its runner.

Features are in `models.features`, training in `models.training`.
"""
