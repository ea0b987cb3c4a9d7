"""PyFlink: the Table API with a vectorised (pandas) function, Flink's Kafka connector, parallelism 1."""

from __future__ import annotations

import os
import sys

import pandas as pd
from job import COMMIT_INTERVAL_S, decide, options
from pyflink.table import DataTypes, EnvironmentSettings, TableEnvironment
from pyflink.table.udf import udf


@udf(result_type=DataTypes.BYTES(), func_type="pandas")
def decision(values: pd.Series) -> pd.Series:
    return pd.Series(decide(values.tolist())[1], dtype=object)


def main() -> None:
    asked = options()
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    settings = {
        "parallelism.default": "1",
        "python.executable": sys.executable,
        "pipeline.jars": f"file://{os.environ['FLINK_KAFKA_JAR']}",
        "pipeline.object-reuse": "true",
        "execution.checkpointing.interval": f"{COMMIT_INTERVAL_S:.0f} s",
        "execution.checkpointing.dir": f"file://{asked.folder}",
        # A bundle goes to the Python process when it is full or this old: time is latency, size is throughput.
        "python.fn-execution.bundle.time": "5" if asked.low_latency else "100",
        "python.fn-execution.bundle.size": "10000",
        "python.fn-execution.arrow.batch.size": "5000",
        "taskmanager.memory.process.size": "2 gb",
    }
    for key, value in settings.items():
        tables.get_config().set(key, value)
    columns = "`card_id` BYTES, `payment` BYTES"
    tables.execute_sql(f"""CREATE TABLE payments ({columns}) WITH (
        'connector' = 'kafka', 'topic' = '{asked.input}', 'properties.bootstrap.servers' = '{asked.bootstrap}',
        'properties.group.id' = '{asked.group}', 'scan.startup.mode' = 'earliest-offset',
        'key.format' = 'raw', 'key.fields' = 'card_id', 'value.format' = 'raw',
        'value.fields-include' = 'EXCEPT_KEY')""")
    tables.execute_sql(f"""CREATE TABLE decisions (`card_id` BYTES, `decision` BYTES) WITH (
        'connector' = 'kafka', 'topic' = '{asked.output}', 'properties.bootstrap.servers' = '{asked.bootstrap}',
        'sink.delivery-guarantee' = 'at-least-once', 'properties.linger.ms' = '{0 if asked.low_latency else 5}',
        'properties.batch.size' = '131072',
        'key.format' = 'raw', 'key.fields' = 'card_id', 'value.format' = 'raw',
        'value.fields-include' = 'EXCEPT_KEY')""")
    tables.create_temporary_function("decide", decision)
    tables.execute_sql("INSERT INTO decisions SELECT card_id, decide(payment) FROM payments").wait()


main()
