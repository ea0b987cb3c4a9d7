"""Files of events: parquet, CSV, NDJSON as Arrow batches, and the mapping of their columns to a topic's fields.

Only what is mapped leaves the file. A column that is neither named in `--columns` nor called as one of the topic's fields
stays behind: it may tell the label.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from streams.errors import StreamsError
from streams.topics import Topic

# Half a second's worth at full speed: column-wise work is amortised, a pause of the user is noticed.
BATCH_RECORDS_MAX: Final = 32_768
# Seconds stay below it until the year 5138, milliseconds have been above it since 1973.
SECONDS_MAX: Final = 1e11
ROW: Final = "\0row"  # no column of a file can have this name
COMPRESSED: Final = (".gz", ".bz2", ".zst", ".lz4")


class SourceError(StreamsError):
    """A file that cannot be read as events of the topic."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive events, column-wise.

    Args:
        fields: JSON-ready values of each field, [B] each.
        event_time: int64[B], milliseconds since the epoch.
        labels: fraud or not, None where unknown, [B]; None where the source has no labels.
    """

    fields: dict[str, list[Any]]
    event_time: np.ndarray
    labels: list[bool | None] | None = None

    def __len__(self) -> int:
        return len(self.event_time)

    def part(self, start: int, stop: int) -> Slice:
        """Return events [start, stop)."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Slice({k: v[start:stop] for k, v in self.fields.items()}, self.event_time[start:stop], labels)


@dataclass(frozen=True, slots=True)
class Extent:
    """What one pass over the times of a file tells."""

    records: int
    in_time_order: bool
    event_time_min: int
    event_time_max: int


class EventFile:
    """A file whose rows are events of `topic`.

    Args:
        path: .parquet, .csv, .tsv, .ndjson, .jsonl or .json (one object a line); text may be compressed.
        topic: gives the fields; required ones must be found.
        columns: field -> column of the file.
        constants: field -> value, the same for each row.
        label: column that tells fraud (1, true) from genuine (0, false).

    Raises:
        SourceError: unknown format, unreadable, a required field without a column, or a column that does not exist.
    """

    def __init__(
        self,
        path: Path,
        topic: Topic,
        *,
        columns: Mapping[str, str] | None = None,
        constants: Mapping[str, str] | None = None,
        label: str | None = None,
    ) -> None:
        assert topic.schema is not None
        self.path = path
        self.label = label
        self._format = _format(path)
        self._constants = {name: _constant(name, value) for name, value in (constants or {}).items()}
        self._available = _column_names(path, self._format)
        self._columns = self._map(topic, dict(columns or {}))

    def extent(self) -> Extent:
        """Read the times only: how many rows, from when to when, in order or not."""
        records, ordered, low, high = 0, True, 0, 0
        column = self._columns["event_time"]
        for batch in self._raw([column]):
            times = self._convert(batch, column, _to_ms)
            if not len(times):
                continue
            ordered = ordered and bool((np.diff(times) >= 0).all()) and (not records or int(times[0]) >= high)
            low = int(times.min()) if not records else min(low, int(times.min()))
            high = int(times.max()) if not records else max(high, int(times.max()))
            records += len(times)
        return Extent(records, ordered, low, high)

    def slices(self, *, sort: bool, limit: int | None = None) -> Iterator[Slice]:
        """Yield the events, in the file's order or (all in memory, ties in the file's order) by event time."""
        wanted = list(dict.fromkeys([*self._columns.values(), *([self.label] if self.label else [])]))
        batches = self._numbered(wanted)
        if sort:
            table = pa.Table.from_batches(list(batches))
            times = self._convert(table.combine_chunks(), self._columns["event_time"], _to_ms)
            table = table.take(pa.array(np.argsort(times, kind="stable")))
            batches = iter(table.to_batches(max_chunksize=BATCH_RECORDS_MAX))
        left = limit
        for batch in batches:
            if left is not None:
                batch = batch.slice(0, left)
                left -= batch.num_rows
            if batch.num_rows:
                yield self._slice(batch)
            if left == 0:
                return

    def _map(self, topic: Topic, columns: dict[str, str]) -> dict[str, str]:
        assert topic.schema is not None
        fields = msgspec.structs.fields(topic.schema)
        names = [f.name for f in fields]
        for given in (*columns, *self._constants):
            if given not in names:
                raise SourceError(f"{given}: {topic.name} has no such field; it has {', '.join(names)}")
        for column in (*columns.values(), *([self.label] if self.label else [])):
            if column not in self._available:
                close = difflib.get_close_matches(column, self._available, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise SourceError(f"{self.path}: no column {column!r}; {hint}it has {', '.join(self._available)}")
        for field in fields:
            if field.name not in columns and field.name not in self._constants and field.name in self._available:
                columns[field.name] = field.name
        columns = {name: columns[name] for name in names if name in columns}
        # An id can be made from the row's number, nothing else can be made up.
        missing = [f.name for f in fields[1:] if f.required and f.name not in columns and f.name not in self._constants]
        if missing or "event_time" not in columns:
            names_missing = ", ".join(missing or ["event_time"])
            raise SourceError(
                f"{self.path}: no column for {names_missing}; map it with --columns {(missing or ['event_time'])[0]}=COLUMN "
                f"or set it with --constant; the file has {', '.join(self._available)}"
            )
        self._id = names[0] if names[0] not in columns else None
        return columns

    def _raw(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        # Text, so that leading zeros of an identifier survive the guessing of types.
        as_text = [c for f, c in self._columns.items() if f not in ("event_time", "amount")]
        try:
            if self._format == "parquet":
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    yield from file.iter_batches(batch_size=BATCH_RECORDS_MAX, columns=columns)
            elif self._format == "ndjson":
                yield from _ndjson_batches(self.path, columns)
            else:
                yield from pyarrow.csv.open_csv(
                    self.path,
                    parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(self.path)),
                    convert_options=pyarrow.csv.ConvertOptions(
                        include_columns=columns, column_types={c: pa.string() for c in as_text}, strings_can_be_null=True
                    ),
                )
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(f"{self.path}: cannot be read as {self._format}: {exc}") from exc

    def _numbered(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        row = 0
        for batch in self._raw(columns):
            numbers = pa.array(np.arange(row, row + batch.num_rows, dtype=np.int64))
            row += batch.num_rows
            yield pa.RecordBatch.from_arrays([*batch.columns, numbers], [*batch.schema.names, ROW])

    def _slice(self, batch: pa.RecordBatch) -> Slice:
        times = self._convert(batch, self._columns["event_time"], _to_ms)
        fields: dict[str, list[Any]] = {}
        if self._id is not None:
            stem = self.path.name.partition(".")[0]
            fields[self._id] = [f"{stem}-{row}" for row in batch.column(ROW).to_numpy().tolist()]
        for name, column in self._columns.items():
            if name == "event_time":
                fields[name] = times.tolist()
            else:
                fields[name] = self._convert(batch, column, _to_number if name == "amount" else _to_text)
        for name, value in self._constants.items():
            fields[name] = [value] * batch.num_rows
        labels = self._convert(batch, self.label, _to_flags) if self.label else None
        return Slice(fields, times, labels)

    def _convert(self, batch: pa.RecordBatch | pa.Table, column: str, convert: Callable[[pa.Array], Any]) -> Any:
        values = batch.column(column)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        try:
            return convert(values)
        except (pa.ArrowException, ValueError) as exc:
            raise SourceError(f"{self.path}: column {column!r} ({values.type}): {exc}") from exc


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
        raise SourceError(f"{path}: expected a name that ends in {', '.join(known)} (text also with {', '.join(COMPRESSED)})")
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


def _ndjson_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
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


def _arrow_batch(rows: list[dict[str, Any]], columns: list[str], path: Path) -> pa.RecordBatch:
    arrays = []
    for column in columns:
        values = [row.get(column) for row in rows]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
            if not all(v is None or isinstance(v, str | int) for v in values):
                raise SourceError(f"{path}: column {column!r} mixes types: {exc}") from exc
            arrays.append(pa.array([None if v is None else str(v) for v in values]))
    return pa.RecordBatch.from_arrays(arrays, columns)


def _constant(name: str, value: str) -> str | float:
    if name == "event_time":
        raise SourceError("event_time: cannot be a constant; map it to a column")
    if name != "amount":
        return value
    try:
        return float(value)
    except ValueError:
        raise SourceError(f"amount={value}: expected a number") from None


def _to_ms(values: pa.Array) -> np.ndarray:
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
    return np.rint(numbers).astype(np.int64)


def _to_text(values: pa.Array) -> list[str | None]:
    if pa.types.is_floating(values.type):
        values = pc.cast(values, pa.int64())  # whole numbers that became floats for the sake of a null; fractions raise
    if pa.types.is_boolean(values.type) or pa.types.is_nested(values.type):
        raise ValueError("expected text or whole numbers")
    return list(_numpy(pc.cast(values, pa.string())).tolist())


def _to_number(values: pa.Array) -> list[float | None]:
    if pa.types.is_null(values.type):
        return [None] * len(values)
    numbers = pc.cast(values, pa.float64())
    return numbers.to_pylist() if numbers.null_count else _numpy(numbers).tolist()


def _to_flags(values: pa.Array) -> list[bool | None]:
    if not pa.types.is_boolean(values.type):
        texts = pc.utf8_lower(pc.cast(pc.cast(values, pa.int64()) if pa.types.is_floating(values.type) else values, pa.string()))
        other = pc.filter(texts, pc.invert(pc.is_in(texts, pa.array(["0", "1", "true", "false", None]))))
        if len(other):
            raise ValueError(f"expected 0 or 1, true or false, got {other[0].as_py()!r}")
        values = pc.is_in(texts, pa.array(["1", "true"])) if not texts.null_count else pc.or_(pc.equal(texts, "1"), pc.equal(texts, "true"))
    return list(values.to_pylist())


def _numpy(values: pa.Array) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False))
