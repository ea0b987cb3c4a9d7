"""Fetched records whose headers have names that are no text."""

from __future__ import annotations

import struct

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from faust.types import TP

from streams.transport.fetched_records import FetchedRecords
from streams.transport.record_batch import RecordBatch, RecordSpan

CRC_AT, CRC_FROM, RECORDS_AT = 17, 21, 61
NO_TEXT = b"\xff\xfeme"


def batch(first: int, values: list[bytes], name: bytes = b"name") -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number, 1_000 + number, b"key", value, [("name", b"of " + value)])
    data = bytearray(bytes(builder.build()).replace(b"name", name))
    struct.pack_into(">q", data, 0, first)
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(memoryview(data)[CRC_FROM:]))
    return bytes(data)


def fetched(data: bytes) -> list[RecordBatch]:
    """Return what the consumer makes of an answer to its fetch."""
    records, span = FetchedRecords(data), RecordSpan(TP("topic", 0), 0, 1, 100)
    assert records.size_in_bytes() == len(data)
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        span.extend(records.present())
        span.pass_to(batch.next_offset)
    return span.close()


@pytest.mark.parametrize("name", [b"name", NO_TEXT], ids=["text", "no text"])
def test_a_name_that_is_no_text_stops_nothing(name: bytes) -> None:
    """Its record and the others come, in order, with all they carry."""
    (found,) = fetched(batch(0, [b"a", b"b"]) + batch(2, [b"c", b"d"], name) + batch(4, [b"e"]))
    assert found.offsets == [0, 1, 2, 3, 4] and found.values == [b"a", b"b", b"c", b"d", b"e"]
    assert found.timestamps == [1_000, 1_001, 1_000, 1_001, 1_000] and found.keys == [b"key"] * 5
    shown = name.decode("utf-8", "backslashreplace")
    assert [list(each) for each in found.headers] == [
        [(shown if value in b"cd" else "name", b"of " + value)] for value in (b"a", b"b", b"c", b"d", b"e")
    ]


def test_a_batch_that_is_damaged_is_refused() -> None:
    """Being lenient about names is no excuse for the rest."""
    data = bytearray(batch(0, [b"a"]))
    data[RECORDS_AT] ^= 2  # the length of the first
    records = FetchedRecords(bytes(data))
    records.next_batch()
    with pytest.raises(CorruptRecordException):
        records.present()
