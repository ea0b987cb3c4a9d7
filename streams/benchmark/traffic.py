"""Traffic of a benchmark: payments with ids, preloaded or sent open-loop; decisions, received by id."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import Producer, TopicPartition

from models.simulator.payments import simulate_payments
from streams.benchmark.cluster import Kafka, end_offsets, reader
from streams.benchmark.statistics import BenchmarkError, position_of
from streams.clients.cluster import require_topics
from streams.clients.connection import COMMAND_ANSWER_S_MAX, PRODUCING, idempotent_producer
from streams.clients.records import poll_records

CARDS = 50_000
POSITION_DIGITS = 9  # the last characters of every id: the record's position in the run


@dataclass(frozen=True, slots=True)
class Payments:
    """Encoded input: one key and one value for each position."""

    keys: Sequence[bytes]
    values: Sequence[bytes]


def make_payments(count: int, run: str, seed: int = 7, cards: int = CARDS) -> Payments:
    """Return simulated payments of about 260 B, keyed by card, with ids `run-position`.

    Args:
        count: number of payments.
        run: prefix of every id, unique to the run.
        seed: seed of the simulator; the same seed gives the same payments, under the ids of the run.
        cards: number of cards that pay.
    """
    columns = simulate_payments(count, seed=seed, cards=cards)
    cards_text, terminals = list(map(str, columns["card_id"])), list(map(str, columns["terminal_id"]))
    rows = zip(columns["event_time"].tolist(), cards_text, terminals, columns["amount"].tolist(), strict=True)
    values = [
        orjson.dumps(
            {
                "transaction_id": f"{run}-{position:0{POSITION_DIGITS}d}",
                "event_time": event_time,
                "card_id": card,
                "terminal_id": terminal,
                "amount": amount,
                "currency": "EUR",
                "user_id": f"user-of-{card}",
                "channel": "point-of-sale",
                "merchant_id": f"merchant-of-{terminal}",
                "country": "DE",
            }
        )
        for position, (event_time, card, terminal, amount) in enumerate(rows)
    ]
    return Payments([card.encode() for card in cards_text], values)


def preload(kafka: Kafka, topic: str, payments: Payments) -> None:
    """Write all payments; return when the log has grown by exactly these.

    Raises:
        BenchmarkError: the log has grown by another number of records.
    """
    before = sum(end_offsets(kafka, topic))
    count = len(payments.keys)
    bulk = {"linger.ms": 20, "batch.size": 262_144, "queue.buffering.max.messages": 1_000_000}
    producer = idempotent_producer(kafka, **bulk)
    for low in range(0, count, 10_000):
        pairs = zip(payments.keys[low : low + 10_000], payments.values[low : low + 10_000], strict=True)
        producer.produce_batch(topic, [{"key": key, "value": value} for key, value in pairs])
        while len(producer) > 500_000:
            producer.poll(0.05)
    producer.flush(120)
    written = sum(end_offsets(kafka, topic)) - before
    if written != count:
        raise BenchmarkError(f"{topic}: expected {count} preloaded records, got {written}; see the broker's log")


# The generator shares two cores with the system that it measures: it wakes once a tick and sends the payments that are
# due, each with its own send time.
TICK_S = 0.001
# The linger sends records together: many small requests keep the broker so busy that the run would measure only the
# broker (p99 of the plain loop at 10,000/s: 1,266 ms with the short linger, 23 ms with the long one).
SHORT_LINGER_MS, LONG_LINGER_MS = 0.5, 2.0
SHORT_LINGER_RATE_MAX = 2_000.0  # records a second
RECEIVED_RECORDS_MAX = 1_000


def send_open_loop(
    kafka: Kafka,
    topic: str,
    count: int,
    first: int,
    run: str,
    rate: float,
    cards: int,
    clocks: Path,
    ready: Event,
    go: Event,
) -> None:
    """Send payments `first` to `count - 1` at a fixed rate, however slow the answers. Runs in its own process.

    Args:
        kafka, topic: cluster and input topic.
        count, first, run, cards: the payments: `make_payments(count, run, cards=cards)[first:]`.
        rate: payments/s.
        clocks: file of int64[count]; gets each send time (monotonic ns) at its position.
        ready: set when all payments are encoded.
        go: waited for before the first payment is sent.
    """
    payments = make_payments(count, run, cards=cards)
    sent = np.memmap(clocks, np.int64, "r+", shape=(count,))
    linger_ms = SHORT_LINGER_MS if rate <= SHORT_LINGER_RATE_MAX else LONG_LINGER_MS
    # While 5 records of a partition are unanswered, an idempotent producer sends no more of it and uses up a core.
    # Without retries no record is sent twice; a record that the broker refuses counts as lost.
    once = {"enable.idempotence": False, "retries": 0}
    producer = Producer({**kafka, **PRODUCING, **once, "linger.ms": linger_ms, "socket.nagle.disable": True})
    producer.list_topics(topic, timeout=COMMAND_ANSWER_S_MAX)
    # The generator must not measure its own garbage collector: nothing below makes cycles.
    gc.collect()
    gc.freeze()
    gc.disable()
    ready.set()
    go.wait()
    keys, values, clock, period_ns = payments.keys, payments.values, time.monotonic_ns, 1e9 / rate
    begin, position = clock(), first
    while position < count:
        due = min(count, first + int((clock() - begin) / period_ns) + 1)
        while position < due:
            sent[position] = clock()
            producer.produce(topic, values[position], keys[position])
            position += 1
        producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(60)
    sent.flush()


def receive(
    kafka: Kafka, topic: str, count: int, run: str, clocks: Path, seen: Path, ready: Event, stop: Event
) -> None:
    """Poll decisions and write each one's first arrival at its position. Runs in its own process.

    Args:
        kafka, topic: cluster and output topic.
        count, run: the ids to count.
        clocks: file of int64[count]; gets the first arrival time (monotonic ns) at each position.
        seen: file of int64[count + 1]; gets the arrivals of each position, foreign ones last.
        ready: set when polling begins.
        stop: ends the polling.
    """
    received = np.memmap(clocks, np.int64, "r+", shape=(count,))
    arrivals = np.memmap(seen, np.int64, "r+", shape=(count + 1,))
    # Ends are of no use here, and an event at each end would take time between two arrivals.
    extra = {"fetch.wait.max.ms": 100, "socket.nagle.disable": True, "enable.partition.eof": False}
    with closing(reader(kafka, **extra)) as consumer:
        partitions = range(require_topics(consumer, [topic])[topic])
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        gc.collect()
        gc.freeze()
        gc.disable()
        clock = time.monotonic_ns
        ready.set()
        while not stop.is_set():
            for message in poll_records(consumer, 0.1, RECEIVED_RECORDS_MAX)[0]:
                now = clock()
                position = position_of(message.value(), run)
                if not 0 <= position < count:
                    position = count
                elif not received[position]:
                    received[position] = now
                arrivals[position] += 1
    received.flush()
    arrivals.flush()
