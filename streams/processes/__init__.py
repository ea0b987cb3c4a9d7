"""Processes that this project starts: workers, brokers, their supervisor, their identity.

What they run is defined elsewhere.
"""
