"""Benchmark of any system that reads payments from one Kafka topic and writes one decision each to another.

An input's id carries its position, so that losses and repeats are counted by id and never inferred from totals. The
same harness measures this project's worker (`streams bench`) and other systems (tests/bench/compare.py).
`streams.judging` measures the quality of decisions.

Throughput: all input is in Kafka before the system starts. The rate comes from the log-append timestamps of the output
topic between 10 % and 100 % of the outputs: it leaves start-up out and includes the tail.
Latency: an open-loop producer and a polling consumer, each a process of its own, write monotonic clocks of the same
machine; a latency reaches from just before the producer's call to the decision in the consumer's hand.
"""

from streams.benchmark.engine import Launch, System, run_latency, run_throughput
from streams.benchmark.statistics import BenchmarkError

__all__ = ["BenchmarkError", "Launch", "System", "run_latency", "run_throughput"]
