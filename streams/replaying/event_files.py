"""Files of events: the mapping of their columns to a topic's fields.

Only mapped columns are sent. A column that `--columns` does not name, and that has no name of a field, stays in the
file: it may hold the label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from streams.contract.events import LISTED
from streams.contract.topics import Topic
from streams.replaying.column_files import (
    BATCH_RECORDS_MAX,
    ROW,
    ColumnFile,
    SourceError,
    as_list,
    to_flags,
    to_number,
    to_text,
)
from streams.replaying.event_times import EventTimes

LABEL: Final = "\0label"  # beside the fields: no field has this name


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
    """The result of one pass over the times of a file."""

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
        self._constants = {name: _constant(name, value) for name, value in (constants or {}).items()}
        self._file = ColumnFile(path)
        self._columns = self._map(topic, dict(columns or {}))
        self._wanted = list(dict.fromkeys([*self._columns.values(), *([label] if label else [])]))
        for column in self._wanted:
            self._file.require(column)

    def extent(self) -> Extent:
        """Read the file once: how many rows, from when to when, in order or not.

        Raises:
            SourceError: no rows, or a value that cannot be converted; raised before any record is sent.
        """
        records, ordered, low, high = 0, True, 0, 0
        for batch in self._converted():
            times = batch.column("event_time").to_numpy()
            if not len(times):
                continue
            ordered = ordered and bool((np.diff(times) >= 0).all()) and (not records or int(times[0]) >= high)
            low = int(times.min()) if not records else min(low, int(times.min()))
            high = int(times.max()) if not records else max(high, int(times.max()))
            records += len(times)
        if not records:
            raise SourceError(f"{self.path}: no rows; expected one event a row")
        return Extent(records, ordered, low, high)

    def slices(self, *, sort: bool, limit: int | None = None) -> Iterator[Slice]:
        """Yield the events, in the file's order or (all in memory, ties in the file's order) by event time."""
        batches = self._converted()
        if sort:
            table = pa.Table.from_batches(list(batches))
            table = table.take(pa.array(np.argsort(table.column("event_time").to_numpy(), kind="stable")))
            batches = iter(table.to_batches(max_chunksize=BATCH_RECORDS_MAX))
        left = limit
        for batch in batches:
            if left is not None:
                batch = batch.slice(0, min(left, batch.num_rows))
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
            self._file.require(column)
        for field in fields:
            if field.name not in columns and field.name not in self._constants and field.name in self._file.names:
                columns[field.name] = field.name
        columns = {name: columns[name] for name in names if name in columns}
        # The row's number makes an id; no other field can be made up.
        missing = [f.name for f in fields[1:] if f.required and f.name not in columns and f.name not in self._constants]
        if missing or "event_time" not in columns:
            missing = missing or ["event_time"]
            raise SourceError(
                f"{self.path}: no column for {', '.join(missing)}; map it with --columns {missing[0]}=COLUMN "
                f"or set it with --constant; the file has {', '.join(self._file.names)}"
            )
        self._id = names[0] if names[0] not in columns else None
        return columns

    def _converted(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the file's order: each mapped field under its own name, and LABEL and ROW."""
        special = {"event_time": EventTimes().to_ms, "amount": to_number}
        for batch in self._file.batches(self._wanted):
            columns = {
                name: self._file.convert(batch, column, special.get(name, to_text))
                for name, column in self._columns.items()
            }
            if self.label is not None:
                columns[LABEL] = self._file.convert(batch, self.label, to_flags)
            yield pa.RecordBatch.from_pydict({**columns, ROW: batch.column(ROW)})

    def _slice(self, batch: pa.RecordBatch) -> Slice:
        fields: dict[str, list[Any]] = {}
        if self._id is not None:
            stem = self.path.name.partition(".")[0]
            fields[self._id] = [f"{stem}-{row}" for row in batch.column(ROW).to_numpy().tolist()]
        fields |= {name: as_list(batch.column(name)) for name in self._columns}
        fields |= {name: [value] * batch.num_rows for name, value in self._constants.items()}
        labels = None if self.label is None else as_list(batch.column(LABEL))
        return Slice(fields, batch.column("event_time").to_numpy(), labels)


def read_events(
    path: Path,
    topic: Topic,
    names: Sequence[str],
    columns: Mapping[str, str],
    *,
    constants: Mapping[str, str] | None = None,
    label: str | None = None,
    sort: bool = False,
) -> dict[str, Any]:
    """Return whole columns of a file as training and evaluation take them: no row lacks a value.

    Args:
        path: as for `EventFile`.
        topic: gives the fields.
        names: fields wanted beside event_time.
        columns: field -> column of the file.
        constants: field -> value, the same for each row.
        label: column that tells fraud.
        sort: by event_time, ties as in the file; otherwise as the rows stand.

    Returns:
        Lists of text; amount float64[N], event_time int64[N] in ms; with `label` is_fraud bool[N].

    Raises:
        SourceError: no such file, unreadable, a column is missing, or a row lacks a value.
    """
    if not path.is_file():
        raise SourceError(f"{path}: expected a file, got none")
    file = EventFile(path, topic, columns=columns, constants=constants, label=label)
    parts = list(file.slices(sort=sort))
    if not parts:
        raise SourceError(f"{path}: no rows to train on")
    table: dict[str, Any] = {name: [value for part in parts for value in part.fields[name]] for name in names}
    if label is not None:
        table["is_fraud"] = [flag for part in parts for flag in part.labels or []]
    for name, values in table.items():
        if missing := values.count(None):
            raise SourceError(f"{path}: expected {name} in each row, got {missing:,} rows without; drop them")
    for name, dtype in (("amount", np.float64), ("is_fraud", np.bool_)):
        if name in table:
            table[name] = np.array(table[name], dtype=dtype)
    table["event_time"] = np.concatenate([part.event_time for part in parts])
    return table


def _constant(name: str, value: str) -> str | float:
    if name in ("event_time", "transaction_id", "event_id"):
        raise SourceError(f"{name}: cannot be a constant; map it to a column")
    if name in LISTED and value not in LISTED[name]:
        raise SourceError(f"{name}={value}: expected {', '.join(LISTED[name])}")
    if name != "amount":
        return value
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount):
        raise SourceError(f"amount={value}: expected a finite number")
    return amount
