"""An application of ordinary per-record topics and a table on the project's transport, and one batched topic that probes."""

from __future__ import annotations

import os

import faust
import orjson

from streams.transport.record_batch import BatchSchema


class Order(faust.Record):
    """One order of a customer."""

    customer: str
    amount: float


app = faust.App(
    os.environ["APPLICATION"],
    broker=f"streams://{os.environ['SERVERS']}",
    store="memory://",
    topic_partitions=2,
    topic_disable_leader=True,
    stream_recovery_delay=0.0,
    broker_commit_interval=0.1,
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
orders = app.topic("orders", key_type=str, value_type=Order, partitions=2)
totals_out = app.topic("totals", key_type=str, value_type=dict, partitions=2)
probe = app.topic("probe", schema=BatchSchema(), acks=False, partitions=1)
seen = app.topic("seen", value_serializer="raw", partitions=1)
totals = app.Table("totals-table", default=float, partitions=2)


@app.agent(orders)
async def add_up(stream):  # type: ignore[no-untyped-def]
    async for order in stream:
        totals[order.customer] += order.amount
        await totals_out.send(key=order.customer, value={"customer": order.customer, "total": totals[order.customer]})


@app.agent(probe)
async def look(stream):  # type: ignore[no-untyped-def]
    async for fetch in stream.noack():
        for batch in fetch:
            for offset, key, value, timestamp, headers in zip(
                batch.offsets, batch.keys, batch.values, batch.timestamps, batch.headers, strict=True
            ):
                record = dict(
                    offset=offset, key=key.decode(), value=value.decode(), timestamp=timestamp,
                    headers=[[name, content.decode()] for name, content in headers],
                )  # fmt: skip
                await seen.send(value=orjson.dumps(record))
            app.consumer.confirm(batch)
