"""The recommender: its network, candidates, blend and runner.

Features are in `models.features`, training in `models.training`.
"""
