"""Files as events: formats, conversions, mapping, order."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from streams.commands.column_files import SourceError, to_flags, to_ms, to_text
from streams.commands.event_files import EventFile, Slice
from streams.topics import CLICKSTREAM, TRANSACTIONS

T0 = 1_522_540_831_000  # 2018-04-01T00:00:31Z
MAPPING = {"transaction_id": "tx", "event_time": "ts", "card_id": "customer", "terminal_id": "terminal"}


def _parquet(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def _payments(path: Path, count: int = 3, **changed: Any) -> Path:
    columns: dict[str, Any] = {
        "tx": list(range(count)),
        "ts": pa.array([T0 + 1000 * i for i in range(count)], pa.timestamp("ms")),
        "customer": pa.array([7] * count, pa.int16()),
        "terminal": [9] * count,
        "amount": [1.5] * count,
        "scenario": [3] * count,
        "fraud": pa.array([i % 2 for i in range(count)], pa.int8()),
    }
    return _parquet(path, **{**columns, **changed})


def _only(file: EventFile, **options: Any) -> Slice:
    slices = list(file.slices(**{"sort": False, **options}))
    assert len(slices) == 1
    return slices[0]


def test_parquet_columns_become_fields(tmp_path: Path) -> None:
    """Integers become text identifiers, timestamps milliseconds; a column that is not mapped stays behind."""
    events = _only(EventFile(_payments(tmp_path / "p.parquet"), TRANSACTIONS, columns=MAPPING, label="fraud"))
    assert events.fields == {
        "transaction_id": ["0", "1", "2"],
        "event_time": [T0, T0 + 1000, T0 + 2000],
        "card_id": ["7"] * 3,
        "terminal_id": ["9"] * 3,
        "amount": [1.5] * 3,
    }
    assert events.labels == [False, True, False]


def test_csv_keeps_leading_zeros_and_empty_labels_are_unknown(tmp_path: Path) -> None:
    """An identifier is text, whatever it looks like; a row without a label is not labelled genuine."""
    path = tmp_path / "p.csv.gz"
    with gzip.open(path, "wt") as out:
        out.write("transaction_id,event_time,card_id,terminal_id,amount,bad\n")
        out.write("0001,2018-04-01T00:00:31Z,007,T,12,1\n0002,2018-04-01T00:00:32Z,08,T,1.25,\n")
    events = _only(EventFile(path, TRANSACTIONS, label="bad"))
    assert events.fields["transaction_id"] == ["0001", "0002"]
    assert events.fields["card_id"] == ["007", "08"]
    assert events.fields["amount"] == [12.0, 1.25]
    assert events.fields["event_time"] == [T0, T0 + 1000]
    assert events.labels == [True, None]


def test_ndjson_takes_numbers_and_text_as_identifiers(tmp_path: Path) -> None:
    """A line is an object; identifiers may change their type from line to line."""
    path = tmp_path / "clicks.ndjson"
    path.write_text(
        '{"t": 1522540831.5, "s": 1, "i": "a"}\n\n{"t": 1522540832, "s": "x", "i": 2, "more": {"deep": 1}}\n'
    )
    mapping = {"event_time": "t", "session_id": "s", "item_id": "i"}
    events = _only(EventFile(path, CLICKSTREAM, columns=mapping, constants={"event_type": "view"}))
    assert events.fields == {
        "event_id": ["clicks-0", "clicks-1"],
        "event_time": [T0 + 500, T0 + 1000],
        "session_id": ["1", "x"],
        "item_id": ["a", "2"],
        "event_type": ["view", "view"],
    }


def test_ndjson_names_the_bad_line(tmp_path: Path) -> None:
    """A line that is no object is named by its number."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"event_time": 1, "card_id": "a", "terminal_id": "b", "amount": 1}\n{"event_time"\n')
    with pytest.raises(SourceError, match=r"p\.jsonl:2: expected one JSON object"):
        list(EventFile(path, TRANSACTIONS).slices(sort=False))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([T0], pa.int64()), T0),
        (pa.array([T0 // 1000], pa.int32()), T0),
        (pa.array([T0 / 1000 + 0.513]), T0 + 513),
        (pa.array([float(T0)]), T0),
        (pa.array([T0 * 1000 + 999], pa.timestamp("us")), T0),
        (pa.array([T0], pa.timestamp("ms", tz="Europe/Paris")), T0),
        (pa.array([datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC)]), T0),
        (pa.array(["2018-04-01T02:00:31.000+02:00"]), T0),
        (pa.array(["2018-04-01 00:00:31"]), T0),
        (pa.array([17622], pa.date32()), 17622 * 86_400_000),
    ],
)
def test_times_of_many_kinds_become_milliseconds(values: pa.Array, expected: int) -> None:
    """Seconds, milliseconds, timestamps, dates and text mean the same instant; without a zone it is UTC."""
    assert to_ms(values).tolist() == [expected]


def test_identifiers_with_fractions_are_refused() -> None:
    """Whole floats (integers that met a null) are identifiers, 1.5 is not."""
    assert to_text(pa.array([1.0, None])) == ["1", None]
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        to_text(pa.array([1.5]))


def test_flags_other_than_two_values_are_refused() -> None:
    """0, 1, true and false are labels; a 2 is a class of something else."""
    assert to_flags(pa.array(["TRUE", "0", None])) == [True, False, None]
    assert to_flags(pa.array([1.0, 0.0])) == [True, False]
    with pytest.raises(ValueError, match="got '2'"):
        to_flags(pa.array([0, 2]))


def test_unsorted_file_is_seen_and_sorted_by_time(tmp_path: Path) -> None:
    """Order by event time is stable, and a made-up identifier still tells the row of the file."""
    times = [T0 + 2000, T0, T0 + 2000, T0 + 1000]
    path = _payments(tmp_path / "p.parquet", 4, ts=times, amount=[0.0, 1.0, 2.0, 3.0])
    mapping = {name: column for name, column in MAPPING.items() if name != "transaction_id"}
    file = EventFile(path, TRANSACTIONS, columns=mapping)
    extent = file.extent()
    assert (extent.records, extent.in_time_order) == (4, False)
    assert (extent.event_time_min, extent.event_time_max) == (T0, T0 + 2000)
    events = _only(file, sort=True)
    assert events.fields["amount"] == [1.0, 3.0, 0.0, 2.0]
    assert events.fields["transaction_id"] == ["p-1", "p-3", "p-0", "p-2"]
    assert _only(file, sort=True, limit=2).fields["amount"] == [1.0, 3.0]


def test_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """Events of one instant go out as their rows stand, however many there are."""
    times = [T0 + 1000 * (i % 3) for i in range(600)]
    file = EventFile(_payments(tmp_path / "p.parquet", 600, ts=times), TRANSACTIONS, columns=MAPPING)
    rows = [int(name) for name in _only(file, sort=True).fields["transaction_id"]]
    assert rows == sorted(range(600), key=lambda row: (row % 3, row))


def test_limit_counts_across_batches(tmp_path: Path) -> None:
    """A limit above the size of a batch is kept as well."""
    count = 70_000
    times = [T0 + i for i in range(count)]
    file = EventFile(_payments(tmp_path / "p.parquet", count, ts=times), TRANSACTIONS, columns=MAPPING)
    assert sum(map(len, file.slices(sort=False, limit=40_000))) == 40_000


def test_order_is_checked_across_batches(tmp_path: Path) -> None:
    """A step back between two batches of a large file is a step back."""
    count = 70_000
    times = [T0 + i for i in range(count)]
    assert (
        EventFile(_payments(tmp_path / "a.parquet", count, ts=times), TRANSACTIONS, columns=MAPPING)
        .extent()
        .in_time_order
    )
    times[32_768:] = [T0 + i for i in range(count - 32_768)]
    file = EventFile(_payments(tmp_path / "b.parquet", count, ts=times), TRANSACTIONS, columns=MAPPING)
    assert not file.extent().in_time_order


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "no column for event_time, card_id, terminal_id"),
        ({"columns": {**MAPPING, "card_id": "custmer"}}, "no column 'custmer'; did you mean 'customer'"),
        ({"columns": {**MAPPING, "card": "customer"}}, "card: transactions has no such field"),
        ({"columns": MAPPING, "label": "is_fraud"}, "no column 'is_fraud'"),
        ({"columns": MAPPING, "constants": {"event_time": "1"}}, "event_time: cannot be a constant"),
        ({"columns": MAPPING, "constants": {"amount": "x"}}, "amount=x: expected a number"),
    ],
)
def test_mapping_mistakes_name_the_remedy(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    """A mapping that cannot work is refused before anything is sent, with the columns that exist."""
    with pytest.raises(SourceError, match=sentence):
        EventFile(_payments(tmp_path / "p.parquet"), TRANSACTIONS, **options)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"ts": ["yesterday"] * 3}, "column 'ts' .*"),
        ({"ts": pa.array([T0, None, T0])}, "expected a time in each row, got 1 without"),
        ({"amount": ["a", "b", "c"]}, "column 'amount'"),
        ({"fraud": [0, 1, 2]}, "expected 0 or 1"),
    ],
)
def test_values_that_cannot_be_converted_name_the_column(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    """What does not convert is told with file, column and type."""
    file = EventFile(_payments(tmp_path / "p.parquet", **changed), TRANSACTIONS, columns=MAPPING, label="fraud")
    with pytest.raises(SourceError, match=sentence):
        list(file.slices(sort=False))


def test_unreadable_files_are_told_by_name(tmp_path: Path) -> None:
    """A wrong suffix, and a suffix that lies."""
    with pytest.raises(SourceError, match="expected a name that ends in"):
        EventFile(tmp_path / "p.xlsx", TRANSACTIONS)
    (tmp_path / "p.parquet").write_text("not parquet")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        EventFile(tmp_path / "p.parquet", TRANSACTIONS)
