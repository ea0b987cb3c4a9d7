"""`streams dead-letters`: what was rejected, and a second chance for it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from streams.errors import StreamsError
from streams.events import DeadLetter
from streams.settings import Settings, load_settings
from streams.topics import ALL, DEAD_LETTERS

if TYPE_CHECKING:
    from confluent_kafka import Message

REPLAYED_FROM: Final = "replayed-from"


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

    For records that failed for a reason that is gone: a fixed model, a widened rule. A record carries the header
    replayed-from with the place of its dead letter. Whoever replays twice gets two records of the same id, whose
    decisions have the same decision_id. The dead letters stay where they are until their retention ends.

    \b
    Examples:
      streams dead-letters replay --topic transactions --code out-of-range --dry-run
      streams dead-letters replay --limit 1
    """
    from streams.commands.cluster import require_topics
    from streams.commands.delivery import Delivery
    from streams.connection import connect

    settings = load_settings()
    counts: Counter[str] = Counter()
    with Delivery(settings) as delivery:
        known = {declared.name for declared in ALL}
        for message, letter in _read(settings, code, topic, limit):
            place = f"{DEAD_LETTERS.name}[{message.partition()}]@{message.offset()}"
            if letter.topic not in known:
                raise StreamsError(f"{place}: topic {letter.topic!r} is not one of this project's; replay with --topic")
            if not dry_run:
                if not counts[letter.topic]:
                    require_topics(connect(settings), [letter.topic])
                value = None if letter.value_base64 is None else base64.b64decode(letter.value_base64)
                delivery.send_one(letter.topic, original_key(letter), value, [(REPLAYED_FROM, place.encode())])
            counts[letter.topic] += 1
    for name, count in sorted(counts.items()):
        click.echo(f"{count:,} {'would go' if dry_run else 'went'} back to {name}")
    if not counts:
        click.echo("no dead letter matches")


def original_key(letter: DeadLetter) -> bytes | None:
    """Return the key that the record had, byte for byte."""
    if letter.key_base64 is not None:
        return base64.b64decode(letter.key_base64)
    return None if letter.key is None else letter.key.encode()


def _read(
    settings: Settings, codes: tuple[str, ...], topic: str | None, limit: int | None
) -> Iterator[tuple[Message, DeadLetter]]:
    from streams.commands.topic_reader import TopicReader

    decode: Any = msgspec.json.Decoder(DeadLetter).decode
    left = limit
    with closing(TopicReader(settings, [DEAD_LETTERS.name], from_beginning=True)) as reader:
        for batch in reader.until_end():
            for message in batch:
                letter = decode(message.value() or b"")
                if (codes and letter.code not in codes) or topic not in (None, letter.topic):
                    continue
                yield message, letter
                if left is not None:
                    left -= 1
                    if not left:
                        return
