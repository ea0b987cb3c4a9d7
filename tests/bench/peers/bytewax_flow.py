"""Bytewax: the Kafka source's batches through one `flat_map_batch`, one worker, with its recovery store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from job import BATCH_RECORDS_MAX, COMMIT_INTERVAL_S, decide, options


def to_decisions(messages: list[KafkaSourceMessage]) -> list[KafkaSinkMessage]:
    keys, values = decide([message.value for message in messages])
    return [KafkaSinkMessage(key, value) for key, value in zip(keys, values, strict=True)]


def main() -> None:
    asked = options()
    producer = {
        "acks": "all",
        "enable.idempotence": "true",
        "partitioner": "murmur2_random",
        # The sink flushes after every batch: any linger is waited out in full, so none is best in both modes.
        "linger.ms": "0",
        "queue.buffering.max.messages": "1000000",
    }
    flow = Dataflow("decisions")
    payments = op.input("in", flow, KafkaSource([asked.bootstrap], [asked.input], batch_size=BATCH_RECORDS_MAX))
    decisions = op.flat_map_batch("decide", payments, to_decisions)
    op.output("out", decisions, KafkaSink([asked.bootstrap], asked.output, producer))
    store = Path(asked.folder)
    init_db_dir(store, 1)
    cli_main(
        flow,
        workers_per_process=1,
        epoch_interval=timedelta(seconds=COMMIT_INTERVAL_S),
        recovery_config=RecoveryConfig(str(store)),
    )


main()
