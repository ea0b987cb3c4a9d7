"""Stock Faust: an agent that takes batches with `stream.take`, sends each decision, commits by Faust's own rules."""

from __future__ import annotations

import faust
from faust.types import StreamT
from job import BATCH_RECORDS_MAX, COMMIT_INTERVAL_S, decide, options

asked = options()
app = faust.App(
    asked.group,
    broker=f"kafka://{asked.bootstrap}",
    store="memory://",
    datadir=asked.folder,
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=COMMIT_INTERVAL_S,
    producer_acks=-1,
    producer_linger_ms=0 if asked.low_latency else 5,
    stream_buffer_maxsize=BATCH_RECORDS_MAX * 2,
)
source = app.topic(asked.input, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
sink = app.topic(asked.output, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


@app.agent(source)
async def decider(stream: StreamT[bytes]) -> None:
    # `take` waits up to `within` for a full batch: shorter means lower latency, longer larger batches.
    async for values in stream.take(BATCH_RECORDS_MAX, within=0.005 if asked.low_latency else 0.1):
        for key, value in zip(*decide(values), strict=True):
            await sink.send(key=key, value=value)


app.Worker(loglevel="WARNING").execute_from_commandline()
