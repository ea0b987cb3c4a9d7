"""Agents: the story of each input topic, from records to answers; `answering` holds what they share.

How micro-batches form and answers are sent is in `streams.engine`; Faust and the group are in `streams.worker`.
"""
