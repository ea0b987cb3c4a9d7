"""Time to restore card state: `python tests/bench/restore.py --keys 1000000`, from Kafka and from checkpoint files.

A broker is started for the run, a checkpoint of so many cards written to it, each with `--payments` payments over 30 days
and the ids of those of the last day, on 4 partitions. Then a state table, as a worker has it, restores them one after the
other, from the log and from files that a mirror has made of it. Times are for all partitions together; the states that come
of it are compared by hash. `--link 100` reads the log over a link of 100 Mbit/s.
"""

import argparse
import gc
import logging
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from faust.types import TP
from link import Link

from streams.agents.fraud import CardReplay, CardState
from streams.clients.connection import command_config
from streams.clients.log_reader import LogReader
from streams.contract.columns import Limits
from streams.contract.topics import TRANSACTIONS, state_topic
from streams.kafka import EmbeddedKafka
from streams.processes.identity import free_ports
from streams.settings import load_settings
from streams.state.mirror import READ_RECORDS_MAX, Mirror
from streams.state.replica import MARKER, ROW
from streams.state.table import Marker, StateTable
from streams.transport.record_batch import RecordBatch
from streams.worker.kernels import warm_up_kernels

PARTITIONS = 4
DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
LAYOUT = "cards/2"


def filled(cards: int, payments: int, partition: int) -> CardState:
    """Return the state that payments of so many cards leave behind."""
    random = np.random.default_rng(partition)
    state = CardState(DAY_MS)
    names = [f"card-{partition}-{number:08d}" for number in range(cards)]
    for payment in range(payments):
        times = NOW_MS - 30 * DAY_MS + np.sort(random.integers(0, 30 * DAY_MS, cards)) // payments
        times += payment * 30 * DAY_MS // payments
        state.cards.update(names, times, random.integers(100, 50_000, cards) / 100)
        state.seen.duplicates(names, [f"tx-{payment}-{number}" for number in range(cards)], times)
    return state


def write(producer: Producer, topic: str, partition: int, state: CardState) -> tuple[int, int]:
    """Write a checkpoint; return its rows and bytes."""
    marker = msgspec.json.encode(Marker(LAYOUT, 0, state.watermarks))
    rows = size = 0
    producer.begin_transaction()
    for key, payload in [*((ROW + key, payload) for key, payload in state.freeze(dirty_only=False)), (MARKER, marker)]:
        while True:
            try:
                producer.produce(topic, payload, key, partition)
                break
            except BufferError:
                producer.poll(0.05)
        rows, size = rows + 1, size + len(key) + len(payload or b"")
    producer.commit_transaction(60)
    return rows, size


def restored(table: StateTable[CardState]) -> tuple[float, list[str]]:
    """Restore every partition; return the seconds and the hash of each."""
    gc.collect()
    gc.freeze()  # as a worker does
    began = time.perf_counter()
    states = [
        table.at(RecordBatch(TP(TRANSACTIONS.name, number), 0, 0, [], [], [], [], [], 0, 0.0))
        for number in range(PARTITIONS)
    ]
    return time.perf_counter() - began, [state.digest() for state in states]


def main() -> None:
    """Print the best of some runs of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="cards")
    parser.add_argument("--payments", type=int, default=6, help="of each card")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--link", type=float, help="Mbit/s between broker and worker (default: loopback as it is)")
    arguments = parser.parse_args()
    warm_up_kernels()
    client, controller, behind, front = free_ports(4)
    listeners = {
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,FAR:PLAINTEXT",
        "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},FAR://127.0.0.1:{behind}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{client},FAR://127.0.0.1:{front}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
    }
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-restore-"))
        kafka = stack.enter_context(EmbeddedKafka(Path(folder) / "kafka", port=client, extra=listeners))
        config = command_config(load_settings(env={}, bootstrap_servers=kafka.bootstrap_servers))
        topic = state_topic("bench", "card-state", PARTITIONS)
        new = [NewTopic(topic.name, PARTITIONS, 1, config=topic.config), NewTopic(TRANSACTIONS.name, PARTITIONS, 1)]
        admin = AdminClient(config)
        for future in admin.create_topics(new).values():
            future.result(30)
        producer = Producer(
            {**config, "transactional.id": "bench", "compression.type": "lz4", "message.max.bytes": 8 << 20}
        )
        producer.init_transactions(60)
        states = [filled(arguments.keys // PARTITIONS, arguments.payments, number) for number in range(PARTITIONS)]
        written = [write(producer, topic.name, number, state) for number, state in enumerate(states)]
        digests = [state.digest() for state in states]
        del states, producer
        print(f"{sum(rows for rows, _ in written):,} rows, {sum(size for _, size in written) / 1e6:.0f} MB", flush=True)

        far = config
        if arguments.link:
            stack.enter_context(Link(front, behind, arguments.link))
            far = config | {"bootstrap.servers": f"127.0.0.1:{front}"}
        new_table: Any = partial(
            StateTable, topic.name, TRANSACTIONS.name, LAYOUT, partial(CardState, DAY_MS), CardReplay(Limits()),
            LogReader(far, "bench"),
        )  # fmt: skip
        mirror = Mirror(
            Path(folder) / "files", LogReader(config, "bench", records_max=READ_RECORDS_MAX), 0.1, lambda: None
        )
        read_files = mirror.add(topic.name)
        began = time.perf_counter()
        mirror.follow((topic.name, number) for number in range(PARTITIONS))
        mirror.start()
        logging.disable(logging.WARNING)  # a file that is not yet whole is told each time
        ends = LogReader(config, "bench").ends(topic.name, range(PARTITIONS))
        while any(read_files(number, lambda end=end: end).next_offset < end for number, end in ends.items()):
            time.sleep(1.0)
        print(f"files written within {time.perf_counter() - began:.1f} s, in the background")
        mirror.close()
        for name, at_hand in (("the log", []), ("files", [read_files])):
            times = []
            for _ in range(arguments.runs):
                seconds, found = restored(new_table(*at_hand))
                assert found == digests, f"expected {digests}, got {found}"
                times.append(seconds)
            print(f"restored from {name} in {min(times):.2f} s (of {', '.join(f'{each:.2f}' for each in times)})")


if __name__ == "__main__":
    main()
