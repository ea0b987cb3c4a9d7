"""`streams dead-letters`: what was rejected, and a second chance for it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Final

import click
import msgspec

from streams.errors import StreamsError
from streams.events import DeadLetter
from streams.settings import Settings, load_settings
from streams.topics import ALL, DEAD_LETTERS

if TYPE_CHECKING:
    from confluent_kafka import Message

REPLAYED_FROM: Final = "replayed-from"

_decode_letter: Final = msgspec.json.Decoder(DeadLetter).decode


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--limit", type=click.IntRange(min=1), help="At most this many."),
        click.option("--topic", help="Only records of this topic."),
        click.option("--code", multiple=True, help="Only these error codes."),
    ):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """List rejected records and put them back on their topic.

    \b
    Examples:
      streams dead-letters list
      streams dead-letters replay --code out-of-range --dry-run
      streams dead-letters replay --code out-of-range
    """


@dead_letters.command("list")
@_filters
@click.option("--json", "as_json", is_flag=True, help="The dead letters as they are, one JSON object a line.")
def list_(code: tuple[str, ...], topic: str | None, limit: int | None, as_json: bool) -> None:
    """Print the dead letters that are there, then how many of each topic and code.

    \b
    Examples:
      streams dead-letters list --code duplicate-key --limit 20
      streams dead-letters list --json | jq -r .value_base64 | base64 -d
    """
    from streams.commands.watch import dead_letter_line

    counts: Counter[tuple[str, str]] = Counter()
    for message, letter in _read(load_settings(), code, topic, limit):
        counts[letter.topic, letter.code] += 1
        click.echo((message.value() or b"").decode() if as_json else dead_letter_line(msgspec.structs.asdict(letter)))
    if not as_json:
        for (name, word), count in sorted(counts.items()):
            click.echo(f"{count:>9,}  {name:<20} {word}")
        click.echo(f"{counts.total():>9,}  dead letters")


@dead_letters.command("replay")
@_filters
@click.option("--dry-run", is_flag=True, help="Say what would be sent, send nothing.")
def replay(code: tuple[str, ...], topic: str | None, limit: int | None, dry_run: bool) -> None:
    """Put dead letters back on the topic they came from: original key and bytes.

    For records that failed for a reason that is gone: a fixed model, a widened rule. Letters that hold only the first
    bytes of a long record are passed over, and the exit code is then 1. A record carries the header
    replayed-from with the place of its dead letter. Whoever replays twice gets two records of the same id, whose
    decisions have the same decision_id. The dead letters stay where they are until their retention ends.

    \b
    Examples:
      streams dead-letters replay --topic transactions --code out-of-range --dry-run
      streams dead-letters replay --limit 1
    """
    from streams.commands.cluster import require_topics
    from streams.commands.delivery import Delivery, Headers
    from streams.connection import connect

    settings = load_settings()
    counts: Counter[str] = Counter()
    cut = 0
    with Delivery(settings) as delivery:
        known = {declared.name for declared in ALL}
        for message, letter in _read(settings, code, topic, limit):
            place = _place(message)
            if letter.topic not in known:
                raise StreamsError(f"{place}: topic {letter.topic!r} is not one of this project's; replay with --topic")
            if letter.is_cut:
                cut += 1
                continue
            if not dry_run:
                if not counts[letter.topic]:
                    require_topics(connect(settings), [letter.topic])
                headers: Headers = [(REPLAYED_FROM, place.encode())]
                delivery.send_one(letter.topic, original_key(letter), original_value(letter), headers)
            counts[letter.topic] += 1
    for name, count in sorted(counts.items()):
        click.echo(f"{count:,} {'would go' if dry_run else 'went'} back to {name}")
    if cut:
        raise StreamsError(
            f"{cut:,} dead letters hold only the first bytes of their record (see value_bytes, key_bytes) and cannot go "
            "back; send these records again from where they came"
        )
    if not counts:
        click.echo("no dead letter matches")


def original_key(letter: DeadLetter) -> bytes | None:
    """Return the key that the record had, byte for byte as far as the letter has it."""
    if letter.key_base64 is not None:
        return base64.b64decode(letter.key_base64)
    return None if letter.key is None else letter.key.encode()


def original_value(letter: DeadLetter) -> bytes | None:
    """Return the value that the record had, byte for byte as far as the letter has it."""
    return None if letter.value_base64 is None else base64.b64decode(letter.value_base64)


def _read(
    settings: Settings, codes: tuple[str, ...], topic: str | None, limit: int | None
) -> Iterator[tuple[Message, DeadLetter]]:
    """Yield the dead letters that match; say on stderr what else is on the topic: whoever may write to it can."""
    from streams.commands.topic_reader import TopicReader

    left = limit
    foreign, first = 0, ""
    with closing(TopicReader(settings, [DEAD_LETTERS.name], from_beginning=True)) as reader:
        for message in chain.from_iterable(reader.until_end()):
            try:
                letter = _parsed(message.value() or b"")
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                foreign += 1
                first = first or f"{_place(message)}: {error}"
                continue
            if (codes and letter.code not in codes) or topic not in (None, letter.topic):
                continue
            yield message, letter
            if left is not None:
                left -= 1
                if not left:
                    break
    if foreign:
        click.echo(f"{foreign:,} records passed over that are no dead letters, the first {first}", err=True)


def _parsed(value: bytes) -> DeadLetter:
    """Return the letter, its base64 checked; msgspec.DecodeError, ValueError or RecursionError where it is none."""
    letter = _decode_letter(value.decode())
    original_key(letter)
    original_value(letter)
    return letter


def _place(message: Message) -> str:
    return f"{message.topic()}[{message.partition()}]@{message.offset()}"
