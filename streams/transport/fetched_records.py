"""FetchedRecords: aiokafka's records of one fetch, which can be read although the names of their headers are no text.

aiokafka reads these names as UTF-8 and fails for the whole batch where they are not, each time anew: one record of a C client
would stop a partition for good.
"""

from __future__ import annotations

import struct
from typing import Any

from aiokafka.errors import CorruptRecordException

from streams.transport.upstream import MemoryRecords, PythonRecordBatch

LENGTH_AT = 8  # of a batch, behind its base offset; it counts what comes after itself
OVERHEAD = LENGTH_AT + 4


class FetchedRecords:
    """In place of `MemoryRecords`, with the bytes of the present batch at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records: Any = MemoryRecords(data)
        self._begin = self._end = 0
        self._present: Any = ()

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        self._begin = self._end
        self._end += OVERHEAD + struct.unpack_from(">i", self._data, self._begin + LENGTH_AT)[0]
        self._present = self._records.next_batch()
        return self._present

    def present(self) -> list[Any]:
        """Return the records of the batch that `next_batch` gave last; bytes of a header's name that are no text as `\\xff`."""
        try:
            return list(self._present)
        except (UnicodeDecodeError, CorruptRecordException):  # any other fault is raised again
            return list(_AnyNames(self._data[self._begin : self._end]))


class _AnyNames(PythonRecordBatch):
    """aiokafka's reader in Python, over bytes that always decode."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Lenient(self._buffer)


class _Lenient(bytearray):
    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _Lenient(part) if isinstance(index, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)
