"""Parquet, CSV and NDJSON files, column-wise: Arrow batches, and their columns as Python values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from streams.errors import StreamsError

# Half a second's worth at full speed: column-wise work is amortised, a pause of the user is noticed.
BATCH_RECORDS_MAX: Final = 32_768
# Seconds stay below it until the year 5138, milliseconds have been above it since 1973.
SECONDS_MAX: Final = 1e11
COMPRESSED: Final = (".gz", ".bz2", ".zst", ".lz4")


class SourceError(StreamsError):
    """A file that cannot be read as what was asked for."""


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
        """Raise SourceError, with what the file has instead, unless it has this column."""
        if column not in self.names:
            close = difflib.get_close_matches(column, self.names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SourceError(f"{self.path}: no column {column!r}; {hint}it has {', '.join(self.names)}")

    def batches(self, columns: Sequence[str], *, as_text: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order.

        Args:
            columns: which; each must exist.
            as_text: of a CSV file, those whose type is not guessed: leading zeros of identifiers survive.
        """
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
                        column_types={column: pa.string() for column in as_text},
                        strings_can_be_null=True,
                    ),
                )
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(f"{self.path}: cannot be read as {self._format}: {exc}") from exc

    def convert(self, batch: pa.RecordBatch | pa.Table, column: str, convert: Callable[[pa.Array], Any]) -> Any:
        """Return `convert` of a column; its complaints name file, column and type."""
        values = batch.column(column)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        try:
            return convert(values)
        except (pa.ArrowException, ValueError) as exc:
            raise SourceError(f"{self.path}: column {column!r} ({values.type}): {exc}") from exc


def to_ms(values: pa.Array) -> np.ndarray:
    """Return int64[B] milliseconds of timestamps, dates, text, or numbers of seconds or milliseconds."""
    if values.null_count:
        raise ValueError(f"expected a time in each row, got {values.null_count:,} without; drop those rows")
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        zoned = len(values) > 0 and bool(pc.match_substring_regex(values[:1], r"(Z|z|[+-]\d\d:?\d\d)$")[0].as_py())
        values = pc.cast(values, pa.timestamp("ns", tz="UTC" if zoned else None))
        kind = values.type
    if pa.types.is_timestamp(kind):
        # Without a zone a time is UTC. Microseconds are cut, not rounded: no event moves into the next window.
        return _numpy(pc.cast(values, pa.timestamp("ms", tz=kind.tz), safe=False).cast(pa.int64()))
    if pa.types.is_date(kind):
        return _numpy(pc.cast(values, pa.timestamp("ms")).cast(pa.int64()))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError("expected timestamps, RFC 3339 text, or seconds or milliseconds since the epoch")
    numbers = _numpy(values)
    if not len(numbers):
        return numbers.astype(np.int64)
    if not np.isfinite(numbers).all():
        raise ValueError("expected finite numbers")
    if abs(float(numbers[0])) < SECONDS_MAX:
        if pa.types.is_integer(kind):
            return numbers.astype(np.int64) * 1000
        return np.rint(numbers.astype(np.float64) * 1000).astype(np.int64)
    whole: np.ndarray = np.rint(numbers).astype(np.int64)
    return whole


def to_text(values: pa.Array) -> list[str | None]:
    """Return identifiers as text; whole numbers become their decimal text."""
    if pa.types.is_floating(values.type):
        values = pc.cast(values, pa.int64())  # whole numbers that became floats for the sake of a null; fractions raise
    if pa.types.is_boolean(values.type) or pa.types.is_nested(values.type):
        raise ValueError("expected text or whole numbers")
    return list(_numpy(pc.cast(values, pa.string())).tolist())


def to_number(values: pa.Array) -> list[float | None]:
    """Return floats."""
    if pa.types.is_null(values.type):
        return [None] * len(values)
    numbers = pc.cast(values, pa.float64())
    return list(numbers.to_pylist() if numbers.null_count else _numpy(numbers).tolist())


def to_flags(values: pa.Array) -> list[bool | None]:
    """Return booleans of 0 and 1, true and false."""
    if not pa.types.is_boolean(values.type):
        whole = pc.cast(values, pa.int64()) if pa.types.is_floating(values.type) else values
        texts = pc.utf8_lower(pc.cast(whole, pa.string()))
        other = pc.filter(texts, pc.invert(pc.is_in(texts, pa.array(["0", "1", "true", "false", None]))))
        if len(other):
            raise ValueError(f"expected 0 or 1, true or false, got {other[0].as_py()!r}")
        values = pc.or_(pc.equal(texts, "1"), pc.equal(texts, "true"))
    return list(values.to_pylist())


def _numpy(values: pa.Array) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False))


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
                first = next((line for line in _lines(file) if line.strip()), b"{}")
            return list(_object(first, path, 1))
        options = pyarrow.csv.ParseOptions(delimiter=_delimiter(path))
        with pyarrow.csv.open_csv(path, parse_options=options) as reader:
            return list(reader.schema.names)
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"{path}: cannot be read as {form}: {exc}") from exc


def _lines(file: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
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
        except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
            if not all(v is None or isinstance(v, str | int) for v in values):
                raise SourceError(f"{path}: column {column!r} mixes types: {exc}") from exc
            arrays.append(pa.array([None if v is None else str(v) for v in values]))
    return pa.RecordBatch.from_arrays(arrays, list(columns))
