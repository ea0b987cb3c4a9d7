"""Times of a file as milliseconds since the epoch."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.contract.events import EVENT_TIME_MS_MIN

YEAR_2100_MS: Final = 4_102_444_800_000
# Seconds stay below it until the year 5138, milliseconds have been above it since 1973.
SECONDS_MAX: Final = 1e11

SECONDS: Final = "seconds since 1970"
MILLISECONDS: Final = "milliseconds since 1970"
ZONED: Final = "text with an offset such as 2018-04-01T00:00:31Z"
LOCAL: Final = "text without an offset such as 2018-04-01 00:00:31"

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
# Behind a time of day only: the end of 2018-04-01 looks like an offset.
_ZONED: Final = re.compile(r".*[t ]\d.*(z|[+-]\d\d(:?\d\d)?)", re.IGNORECASE)


class EventTimes:
    """The form of a file's times: the first row sets it, and every other row must have it.

    Otherwise seconds and milliseconds in one column would pass for the years 1970 and 55000.
    """

    def __init__(self) -> None:
        self._form: str | None = None

    def to_ms(self, values: pa.Array) -> np.ndarray:
        """Return int64[B] milliseconds of timestamps, dates, text, or numbers of seconds or milliseconds.

        Without an offset or a zone a time is UTC. Parts of a millisecond are cut from timestamps and text, not rounded:
        no event moves into the next window.

        Raises:
            ValueError: a row has no time, one in another form than the first, or one outside 2000 to 2100.
        """
        if values.null_count:
            raise ValueError("expected a time, got none")
        if not len(values):
            return np.empty(0, np.int64)
        if is_text(values.type):
            values = self._parsed(pc.utf8_trim_whitespace(pc.cast(values, pa.string())))
        elif pa.types.is_date(values.type):
            values = pc.cast(values, pa.timestamp("ms"))
        if pa.types.is_timestamp(values.type):
            whole = pa.timestamp("ms", tz=values.type.tz)
            cut = pc.cast(values, options=pc.CastOptions(target_type=whole, allow_time_truncate=True))
            return _between_2000_and_2100(np.asarray(cut.cast(pa.int64())), 1, None)
        if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            raise ValueError("expected timestamps, RFC 3339 text, or seconds or milliseconds since the epoch")
        numbers = np.asarray(pc.cast(values, pa.float64(), safe=False))
        self._form = self._form or _form_of(float(numbers[0]))
        if self._form in (ZONED, LOCAL):
            raise ValueError(f"expected {self._form} as in the first row, got {values[0].as_py()!r}")
        return _between_2000_and_2100(numbers, 1000 if self._form == SECONDS else 1, self._form)

    def _parsed(self, texts: pa.Array) -> pa.Array:
        first = texts[0].as_py()
        self._form = self._form or _form_of(first)
        target = {ZONED: pa.timestamp("ns", tz="UTC"), LOCAL: pa.timestamp("ns")}.get(self._form, pa.float64())
        try:
            return pc.cast(texts, target)
        except pa.ArrowInvalid as exc:
            raise ValueError(f"expected {self._form} as in the first row, got {first!r}") from exc


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _form_of(first: str | float) -> str:
    if isinstance(first, str) and not _NUMBER.fullmatch(first):
        return ZONED if _ZONED.fullmatch(first) else LOCAL
    return SECONDS if abs(float(first)) < SECONDS_MAX else MILLISECONDS


def _between_2000_and_2100(times: np.ndarray, unit_ms: int, form: str | None) -> np.ndarray:
    outside = ~((times >= EVENT_TIME_MS_MIN / unit_ms) & (times < YEAR_2100_MS / unit_ms))
    if outside.any():
        first = times[outside][0]
        got = f"{first:.17g} {form} (the first row tells the unit)" if form else f"{np.datetime64(int(first), 'ms')}"
        raise ValueError(f"expected a time from 2000 to 2100, got {got}")
    # Whole milliseconds come out as they went in: float64 holds them exactly far beyond 2100.
    milliseconds: np.ndarray = np.rint(times * unit_ms).astype(np.int64)
    return milliseconds
