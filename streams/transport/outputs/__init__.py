"""Producers of decisions: plain (at least once) and transactional (exactly once).

What the outputs say is made elsewhere; who may write is decided in `streams.transport.ownership.ownership`.
"""
