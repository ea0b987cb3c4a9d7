"""Quix Streams: one record at a time through a StreamingDataFrame, which has no batch for stateless steps."""

from __future__ import annotations

from job import COMMIT_INTERVAL_S, decide, options
from quixstreams import Application


def main() -> None:
    asked = options()
    app = Application(
        broker_address=asked.bootstrap,
        consumer_group=asked.group,
        auto_offset_reset="earliest",
        commit_interval=COMMIT_INTERVAL_S,
        auto_create_topics=False,
        state_dir=asked.folder,
        producer_extra_config={"linger.ms": 0 if asked.low_latency else 5, "partitioner": "murmur2_random"},
        processing_guarantee="at-least-once",
        loglevel="WARNING",
    )
    source = app.topic(asked.input, key_deserializer="bytes", value_deserializer="bytes")
    sink = app.topic(asked.output, key_serializer="bytes", value_serializer="bytes")
    frame = app.dataframe(source)
    frame.apply(lambda value: decide((value,))[1][0]).to_topic(sink)
    app.run()


main()
