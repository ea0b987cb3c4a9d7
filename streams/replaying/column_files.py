"""Parquet, CSV and NDJSON files, column-wise: Arrow batches, and their columns as Python values."""

from __future__ import annotations

import difflib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from streams.errors import StreamsError
from streams.replaying.event_times import is_text

# Half a second of records at full speed: enough to amortise column-wise work, few enough to stop soon after Ctrl-C.
BATCH_RECORDS_MAX: Final = 32_768
ROW: Final = "\0row"  # no column of a file can have this name
# What R, SQL and pandas write for "no value". Not "nan": of an amount it is a mistake, of an identifier a name.
CSV_NULLS: Final = ("", "NA", "N/A", "null", "NULL")
COMPRESSED: Final = (".gz", ".bz2", ".zst", ".lz4")


Converted = TypeVar("Converted")


class SourceError(StreamsError):
    """A file that cannot be read as requested."""


class ColumnFile:
    """A file of rows.

    Args:
        path: .parquet, .csv, .tsv, .ndjson, .jsonl or .json (one object a line); text may be compressed.

    Raises:
        SourceError: unknown format, or unreadable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._format = _format(path)
        self.names = _column_names(path, self._format)

    def require(self, column: str) -> None:
        """Raise SourceError, with what the file has instead, unless it has this column, and once."""
        if column not in self.names:
            close = difflib.get_close_matches(column, self.names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SourceError(f"{self.path}: no column {column!r}; {hint}it has {', '.join(self.names)}")
        if (count := self.names.count(column)) > 1:
            raise SourceError(f"{self.path}: expected one column {column!r}, got {count}; rename the others")

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, each with its number, from 0, in the column ROW.

        Types are those of the file. A CSV file has text only: guessed from a part of it, they would be wrong for the
        rest, and leading zeros of identifiers would be lost.

        Args:
            columns: which; each must exist.
        """
        row = 0
        for batch in self._batches(columns):
            numbers = pa.array(np.arange(row, row + batch.num_rows, dtype=np.int64))
            row += batch.num_rows
            yield pa.RecordBatch.from_arrays([*batch.columns, numbers], [*batch.schema.names, ROW])

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            if self._format == "parquet":
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    yield from file.iter_batches(batch_size=BATCH_RECORDS_MAX, columns=list(columns))
            elif self._format == "ndjson":
                yield from _ndjson_batches(self.path, columns)
            else:
                yield from pyarrow.csv.open_csv(
                    self.path,
                    parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(self.path)),
                    convert_options=pyarrow.csv.ConvertOptions(
                        include_columns=list(columns),
                        column_types=dict.fromkeys(columns, pa.string()),
                        null_values=list(CSV_NULLS),
                        strings_can_be_null=True,
                    ),
                )
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(f"{self.path}: cannot be read as {self._format}: {exc}") from exc

    def convert(
        self, batch: pa.RecordBatch | pa.Table, column: str, convert: Callable[[pa.Array], Converted]
    ) -> Converted:
        """Return `convert` of a column; its complaints name file, column, type and row (the first is 1).

        Args:
            batch: of `batches`, whole or in part, in any order.
            column: one of its columns.
            convert: treats each value by itself, so that halving finds the one at fault.
        """
        values = batch.column(column)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        try:
            return convert(values)
        except (pa.ArrowException, ValueError):
            place = f"{self.path}: column {column!r} ({values.type})"
            position = _first_failure(values, convert)
            row = batch.column(ROW)[position].as_py() + 1
        try:
            convert(values.slice(position, 1))
        except (pa.ArrowException, ValueError) as exc:
            raise SourceError(f"{place}, row {row:,}: {exc}") from exc
        raise AssertionError(f"{place}, row {row:,}: fails among others but not alone; this is a bug")


def to_text(values: pa.Array) -> pa.Array:
    """Return string[B]; whole numbers become their decimal text."""
    if pa.types.is_floating(values.type):
        values = pc.cast(values, pa.int64())  # whole numbers that became floats for the sake of a null; fractions raise
    if pa.types.is_boolean(values.type) or pa.types.is_nested(values.type):
        raise ValueError("expected text or whole numbers")
    return pc.cast(values, pa.string())


def to_number(values: pa.Array) -> pa.Array:
    """Return double[B], finite or null."""
    numbers = pc.cast(_trimmed(values), pa.float64())
    endless = pc.filter(numbers, pc.invert(pc.is_finite(numbers)))
    if len(endless):
        raise ValueError(f"expected a finite number, got {endless[0].as_py()}")
    return numbers


def to_flags(values: pa.Array) -> pa.Array:
    """Return bool[B] of 0 and 1, true and false."""
    if pa.types.is_boolean(values.type):
        return values
    whole = pc.cast(values, pa.int64()) if pa.types.is_floating(values.type) else _trimmed(values)
    texts = pc.utf8_lower(pc.cast(whole, pa.string()))
    true = pc.is_in(texts, pa.array(["1", "1.0", "true"]))
    other = pc.filter(texts, pc.invert(pc.or_(true, pc.is_in(texts, pa.array(["0", "0.0", "false", None])))))
    if len(other):
        raise ValueError(f"expected 0 or 1, true or false, got {other[0].as_py()!r}")
    return pc.if_else(pc.is_null(texts), pa.scalar(None, pa.bool_()), true)


def as_list(values: pa.Array) -> list[Any]:
    """Return the values, [B], None where there is none."""
    # numpy makes lists several times faster, but has no nulls of numbers and flags.
    if values.null_count and not pa.types.is_string(values.type):
        return list(values.to_pylist())
    return list(values.to_numpy(zero_copy_only=False).tolist())


def _trimmed(values: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(pc.cast(values, pa.string())) if is_text(values.type) else values


def _first_failure(values: pa.Array, convert: Callable[[pa.Array], Any]) -> int:
    """Return the position of the first value that `convert` refuses."""
    position = 0
    while len(values) > 1:
        half = len(values) // 2
        try:
            convert(values[:half])
        except (pa.ArrowException, ValueError):
            values = values[:half]
        else:
            position += half
            values = values[half:]
    return position


def _format(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    known = {
        ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv",
        ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson",
    }  # fmt: skip
    found = known.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise SourceError(
            f"{path}: expected a name that ends in {', '.join(known)} (text also with {', '.join(COMPRESSED)})"
        )
    return found


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.suffixes else ","


def _column_names(path: Path, form: str) -> list[str]:
    try:
        if form == "parquet":
            return list(pyarrow.parquet.read_schema(path).names)
        if form == "ndjson":
            with pa.input_stream(path, compression="detect") as file:
                first = next((line for line in _lines(file) if line.strip()), None)
            if first is None:
                raise SourceError(f"{path}: no rows")
            return list(_object(first, path, 1))
        options = pyarrow.csv.ParseOptions(delimiter=_delimiter(path))
        with pyarrow.csv.open_csv(path, parse_options=options) as reader:
            return list(reader.schema.names)
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"{path}: cannot be read as {form}: {exc}") from exc


def _lines(file: pa.NativeFile) -> Iterator[bytes]:
    rest = file.read(len(BOM_UTF8)).removeprefix(BOM_UTF8)
    while block := file.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise SourceError(f"{path}:{number}: expected one JSON object a line, got {exc}") from exc
    if not isinstance(value, dict):
        raise SourceError(f"{path}:{number}: expected a JSON object, got {type(value).__name__}")
    return value


def _ndjson_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    with pa.input_stream(path, compression="detect") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                rows.append(_object(line, path, number))
            if len(rows) == BATCH_RECORDS_MAX:
                yield _arrow_batch(rows, columns, path)
                rows = []
    if rows:
        yield _arrow_batch(rows, columns, path)


def _arrow_batch(rows: list[dict[str, Any]], columns: Sequence[str], path: Path) -> pa.RecordBatch:
    arrays = []
    for column in columns:
        values = [row.get(column) for row in rows]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as exc:
            if not all(v is None or isinstance(v, str | int) for v in values):
                raise SourceError(f"{path}: column {column!r} mixes types: {exc}") from exc
            arrays.append(pa.array([None if v is None else str(v) for v in values]))
    return pa.RecordBatch.from_arrays(arrays, list(columns))
