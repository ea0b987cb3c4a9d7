"""Batches of records: what they weigh."""

from __future__ import annotations

from faust.types import TP

from streams.transport.record_batch import RecordBatch


def test_keys_and_headers_weigh_as_values_do() -> None:
    """The bound on what waits in memory is in bytes: a record may be all key, or all header."""
    headers = [(), (("name", b"12345"), ("none", None)), None]
    batch = RecordBatch(
        TP("t", 0), 0, 3, [0, 1, 2], [b"key", None, b""], [b"value", None, b"v"], [0] * 3, headers, 1, 0.0
    )
    assert batch.size_bytes == len(b"key" + b"value" + b"v" + b"name" + b"12345" + b"none")
