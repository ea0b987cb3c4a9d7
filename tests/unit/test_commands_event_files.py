"""Files as events: formats, conversions, mapping, order."""

from __future__ import annotations

import gzip
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from streams.contract.topics import CLICKSTREAM, TRANSACTIONS
from streams.replaying.column_files import SourceError, as_list, to_flags, to_text
from streams.replaying.event_files import EventFile, Slice
from streams.replaying.event_times import EventTimes

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
    """An identifier is text, in any form; a row without a label is not labelled genuine."""
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
    assert EventTimes().to_ms(values).tolist() == [expected]


def test_identifiers_with_fractions_are_refused() -> None:
    """Whole floats (integers that met a null) are identifiers, 1.5 is not."""
    assert as_list(to_text(pa.array([1.0, None]))) == ["1", None]
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        to_text(pa.array([1.5]))


def test_flags_other_than_two_values_are_refused() -> None:
    """0, 1, true and false are labels; a 2 is a class of something else."""
    assert as_list(to_flags(pa.array(["TRUE", "0", None]))) == [True, False, None]
    assert as_list(to_flags(pa.array([1.0, 0.0]))) == [True, False]
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
        ({"columns": MAPPING, "constants": {"amount": "x"}}, "amount=x: expected a finite number"),
        ({"columns": MAPPING, "constants": {"amount": "nan"}}, "amount=nan: expected a finite number"),
    ],
)
def test_mapping_mistakes_name_the_remedy(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    """A mapping that cannot work is refused before anything is sent, with the columns that exist."""
    with pytest.raises(SourceError, match=sentence):
        EventFile(_payments(tmp_path / "p.parquet"), TRANSACTIONS, **options)


def test_constant_that_no_record_may_have_is_told_with_those_it_may(tmp_path: Path) -> None:
    """A kind of click that does not exist would make dead letters of the whole file."""
    path = _payments(tmp_path / "p.parquet")
    mapping = {"event_time": "ts", "session_id": "customer", "item_id": "terminal"}
    with pytest.raises(SourceError, match="event_type=buy: expected view, cart, purchase"):
        EventFile(path, CLICKSTREAM, columns=mapping, constants={"event_type": "buy"})


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"ts": ["yesterday"] * 3}, r"column 'ts' \(string\), row 1: expected .*'yesterday'"),
        ({"ts": pa.array([T0, None, T0])}, r"column 'ts' \(int64\), row 2: expected a time, got none"),
        ({"ts": pa.array([2, 3, 4], pa.duration("ms"))}, "row 1: expected timestamps, RFC 3339 text, or seconds"),
        ({"amount": ["1", "b", "c"]}, r"column 'amount' \(string\), row 2: .*'b'"),
        ({"amount": [1.0, None, float("nan")]}, "column 'amount' .*, row 3: expected a finite number, got nan"),
        ({"amount": [1.0, float("-inf"), 2.0]}, "column 'amount' .*, row 2: expected a finite number, got -inf"),
        ({"fraud": [0, 1, 2]}, "column 'fraud' .*, row 3: expected 0 or 1, true or false, got '2'"),
        ({"customer": [1.0, 2.0, 2.5]}, "column 'customer' .*, row 3: "),
        ({"customer": [[1], [2], [3]]}, "column 'customer' .*, row 1: expected text or whole numbers"),
    ],
)
def test_values_that_cannot_be_converted_name_the_column(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    """What does not convert is told with file, column and type."""
    file = EventFile(_payments(tmp_path / "p.parquet", **changed), TRANSACTIONS, columns=MAPPING, label="fraud")
    for read in (file.extent, lambda: list(file.slices(sort=False)), lambda: list(file.slices(sort=True))):
        with pytest.raises(SourceError, match=sentence):
            read()


ZONED = "2018-04-01T00:00:31Z"
LOCAL = "2018-04-01 00:00:31"


@pytest.mark.parametrize(
    ("first", "other", "sentence"),
    [
        (T0 // 1000, T0, "got 1522540831000 seconds since 1970 .the first row tells the unit"),
        (T0, T0 // 1000, "got 1522540831 milliseconds since 1970"),
        (T0, T0 * 1000, "expected a time from 2000 to 2100, got 1522540831000000 milliseconds"),
        (T0 / 1000, 1e300, "got 1.* seconds since 1970"),
        (T0 / 1000, float("nan"), "got nan seconds since 1970"),
        (str(T0 // 1000), str(T0), "got 1522540831000 seconds since 1970"),
        (str(T0), ZONED, f"expected milliseconds since 1970 as in the first row, got '{ZONED}'"),
        (ZONED, LOCAL, f"expected text with an offset .* as in the first row, got '{LOCAL}'"),
        (LOCAL, ZONED, f"expected text without an offset .* as in the first row, got '{ZONED}'"),
        (LOCAL, "1999-12-31", "expected a time from 2000 to 2100, got 1999-12-31T00:00:00.000"),
        (LOCAL, "9999-12-31", "9999-12-31"),
        (datetime(2018, 4, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), "got 2100-01-01T00:00:00.000"),
    ],
)
def test_first_row_tells_how_all_times_are_written(tmp_path: Path, first: Any, other: Any, sentence: str) -> None:
    """A time that is off by the factor of a unit, or in another form, is refused by its row, in any batch."""
    for count, row in ((3, 2), (40_000, 39_000)):
        times = [first] * count
        times[row] = other
        file = EventFile(_payments(tmp_path / "p.parquet", count, ts=times), TRANSACTIONS, columns=MAPPING)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(SourceError, match=rf"column 'ts' .*, row {row + 1:,}: .*{sentence}"):
                file.extent()


def test_form_of_the_first_batch_holds_for_those_of_another_type(tmp_path: Path) -> None:
    """In NDJSON, text may turn to numbers from line to line, and so from batch to batch."""
    path = tmp_path / "clicks.ndjson"
    path.write_text(
        "".join(f'{{"t": {T0 if i == 33_000 else chr(34) + ZONED + chr(34)}, "s": 1}}\n' for i in range(33_001))
    )
    mapping = {"event_time": "t", "session_id": "s", "item_id": "s"}
    file = EventFile(path, CLICKSTREAM, columns=mapping, constants={"event_type": "view"})
    with pytest.raises(SourceError, match=rf"row 33,001: expected text with an offset .*, got '?{T0}"):
        file.extent()
    path.write_text(
        "".join(f'{{"t": {T0 if i > 32_767 else chr(34) + ZONED + chr(34)}, "s": 1}}\n' for i in range(33_001))
    )
    with pytest.raises(SourceError, match=rf"row 32,769: expected text with an offset .*, got {T0}"):
        file.extent()


def test_first_time_of_no_unit_is_refused(tmp_path: Path) -> None:
    """A first row that is neither seconds nor milliseconds of these years says nothing about the others."""
    for first in (1, T0 * 1_000_000, 1e300):
        file = EventFile(_payments(tmp_path / "p.parquet", ts=[first] * 3), TRANSACTIONS, columns=MAPPING)
        with pytest.raises(SourceError, match="row 1: expected a time from 2000 to 2100"):
            file.extent()


def test_csv_is_text_whatever_its_first_block_looks_like(tmp_path: Path) -> None:
    """Whole amounts for a megabyte, then cents; labels that begin behind a megabyte of blanks: all is read."""
    count = 70_000
    path = tmp_path / "p.csv"
    rows = [
        f"{i},{T0 // 1000 + i},{i % 7},t,{'1' if i < 60_000 else ' 1.5'},{'' if i < 60_000 else i % 2}\n"
        for i in range(count)
    ]
    path.write_text("transaction_id,event_time,card_id,terminal_id,amount,fraud\n" + "".join(rows))
    file = EventFile(path, TRANSACTIONS, label="fraud")
    assert file.extent().records == count
    slices = list(file.slices(sort=False))
    assert [a for part in slices for a in part.fields["amount"]] == [1.0] * 60_000 + [1.5] * 10_000
    assert [flag for part in slices for flag in part.labels or []] == [None] * 60_000 + [False, True] * 5_000


def test_csv_amount_that_is_no_number_is_told_and_an_identifier_of_that_name_kept(tmp_path: Path) -> None:
    """`nan` is a mistake as an amount, a name as a card; blank and NA are no value."""
    path = tmp_path / "p.csv"
    head = "transaction_id,event_time,card_id,terminal_id,amount\n"
    path.write_text(head + f"1,{T0},nan,,\n2,{T0},c,NA,1\n")
    assert _only(EventFile(path, TRANSACTIONS)).fields == {
        "transaction_id": ["1", "2"],
        "event_time": [T0, T0],
        "card_id": ["nan", "c"],
        "terminal_id": [None, None],
        "amount": [None, 1.0],
    }
    path.write_text(head + f"1,{T0},c,t,1\n2,{T0},c,t,nan\n")
    with pytest.raises(SourceError, match="row 2: expected a finite number, got nan"):
        EventFile(path, TRANSACTIONS).extent()


def test_column_that_is_there_twice_is_refused_where_it_is_used(tmp_path: Path) -> None:
    """Two columns of one name are ambiguous; a pair that no field is mapped to does no harm."""
    table = pa.Table.from_arrays(
        [pa.array([value]) for value in ("a", T0, "c", "d", "t", 1.0, "x", "y")],
        names=["transaction_id", "event_time", "card_id", "card_id", "terminal_id", "amount", "note", "note"],
    )
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text(",".join(table.column_names) + f"\na,{T0},c,d,t,1.0,x,y\n")
    for name in ("p.parquet", "p.csv"):
        with pytest.raises(SourceError, match="expected one column 'card_id', got 2; rename the others"):
            EventFile(tmp_path / name, TRANSACTIONS)
    once = table.drop_columns([]).rename_columns([*table.column_names[:3], "other", *table.column_names[4:]])
    pyarrow.parquet.write_table(once, tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text(",".join(once.column_names) + f"\na,{T0},c,d,t,1.0,x,y\n")
    for name in ("p.parquet", "p.csv"):
        assert _only(EventFile(tmp_path / name, TRANSACTIONS)).fields["card_id"] == ["c"]


def test_ndjson_identifiers_may_be_any_whole_number_of_64_bits(tmp_path: Path) -> None:
    """Where Arrow has no type for all of them, they are text, as they will be in the record."""
    path = tmp_path / "p.ndjson"
    row = '{{"transaction_id": {}, "event_time": {}, "card_id": "c", "terminal_id": "t", "amount": 1}}\n'
    path.write_text(row.format(2**64 - 1, T0) + row.format(-1, T0))
    assert _only(EventFile(path, TRANSACTIONS)).fields["transaction_id"] == [str(2**64 - 1), "-1"]
    path.write_text(row.format(1, T0) + row.format(2, 2**64 - 1))
    with pytest.raises(
        SourceError, match=r"row 2: expected a time from 2000 to 2100, got 1\.8446744073709552e\+19 mill"
    ):
        EventFile(path, TRANSACTIONS).extent()


def test_ndjson_types_may_change_between_batches_and_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    """What changes from line to line may change from batch to batch, in either order of sending."""
    path = tmp_path / "clicks.ndjson"
    rows = [f'{{"t": {T0 + i}, "s": {i if i < 32_768 else chr(34) + "x" + chr(34)}, "i": "a"}}' for i in range(40_000)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode())
    mapping = {"event_time": "t", "session_id": "s", "item_id": "i"}
    file = EventFile(path, CLICKSTREAM, columns=mapping, constants={"event_type": "view"})
    assert file.extent().records == 40_000
    for sort in (False, True):
        sessions = [name for part in file.slices(sort=sort) for name in part.fields["session_id"]]
        assert sessions == [str(i) if i < 32_768 else "x" for i in range(40_000)]


def test_views_of_text_are_text(tmp_path: Path) -> None:
    """The newer layout of text in Arrow, as polars writes it, holds times and identifiers as the older one does."""
    path = _payments(
        tmp_path / "p.parquet",
        ts=pa.array([ZONED] * 3, pa.string_view()),
        customer=pa.array(["a", "b", "c"], pa.string_view()),
        amount=pa.array(["1", "2", "3.5"], pa.string_view()),
        fraud=pa.array(["0", "1", None], pa.string_view()),
    )
    events = _only(EventFile(path, TRANSACTIONS, columns=MAPPING, label="fraud"))
    assert events.fields["event_time"] == [T0] * 3
    assert events.fields["card_id"] == ["a", "b", "c"]
    assert events.fields["amount"] == [1.0, 2.0, 3.5]
    assert events.labels == [False, True, None]


def test_limit_may_be_beyond_64_bits(tmp_path: Path) -> None:
    """A limit larger than anything means all."""
    file = EventFile(_payments(tmp_path / "p.parquet"), TRANSACTIONS, columns=MAPPING)
    assert len(_only(file, limit=10**30)) == 3


def test_file_without_rows_is_told(tmp_path: Path) -> None:
    """A header alone, or a table of nothing, is a mistake more often than an export of a quiet day."""
    csv = tmp_path / "p.csv"
    csv.write_text("transaction_id,event_time,card_id,terminal_id,amount\n")
    parquet = _payments(tmp_path / "p.parquet", 0)
    for file in (EventFile(csv, TRANSACTIONS), EventFile(parquet, TRANSACTIONS, columns=MAPPING)):
        with pytest.raises(SourceError, match=": no rows"):
            file.extent()


def test_unreadable_files_are_told_by_name(tmp_path: Path) -> None:
    """A wrong suffix, and a suffix that lies."""
    with pytest.raises(SourceError, match="expected a name that ends in"):
        EventFile(tmp_path / "p.xlsx", TRANSACTIONS)
    (tmp_path / "p.ndjson").write_text("\n\n")
    with pytest.raises(SourceError, match=r"p\.ndjson: no rows"):
        EventFile(tmp_path / "p.ndjson", TRANSACTIONS)
    (tmp_path / "p.parquet").write_text("not parquet")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        EventFile(tmp_path / "p.parquet", TRANSACTIONS)
