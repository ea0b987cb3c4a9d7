"""Records of a topic as lines of a terminal: decoded by their schema, without control characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from confluent_kafka import Message

T = TypeVar("T")


class Decoded(Generic[T]):
    """Decodes the records of a topic and counts those that do not decode: other producers may write there.

    Args:
        decode: makes one of JSON text; raises msgspec.DecodeError, ValueError or RecursionError.
        kind: what the records should be, in the plural.
    """

    def __init__(self, decode: Callable[[str], T], kind: str) -> None:
        self.foreign = 0
        self._decode = decode
        self._kind = kind
        self._first = ""

    def of(self, messages: Iterable[Message]) -> Iterator[tuple[Message, T]]:
        """Yield the records that decode; leave tombstones out."""
        for message in messages:
            value = message.value()
            if value is None:
                continue
            try:
                # As text: msgspec does not look for UTF-8 in fields that it skips, and --json prints them all.
                decoded = self._decode(value.decode())
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self.foreign += 1
                self._first = self._first or f"{place(message)}: {error}"
                continue
            yield message, decoded

    def report(self) -> None:
        """Print on stderr the number of records that do not decode."""
        if self.foreign:
            click.echo(
                f"{self.foreign:,} records passed over that are no {self._kind}, the first {printable(self._first)}",
                err=True,
            )


def place(message: Message) -> str:
    """Return where a record stands: topic[partition]@offset."""
    return f"{message.topic()}[{message.partition()}]@{message.offset()}"


def printable(text: str) -> str:
    """Return the text with what moves the cursor, colours or reorders a terminal's line as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
