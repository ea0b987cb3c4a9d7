"""From a score to a decision: thresholds, rules, verdicts.

Functions over arrays; no model, no Kafka.
"""
