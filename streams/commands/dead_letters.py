"""`streams dead-letters`: list rejected records, and put them back on their topic."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Final

import click
import msgspec

from streams.commands.rendering import Decoded, place, printable
from streams.contract.events import FAILED_AT, DeadLetter
from streams.errors import StreamsError
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from confluent_kafka import Message

    from streams.clients.event_producer import Delivery

REPLAYED_FROM: Final = "replayed-from"
UNMARKED_MAX: Final = 1_000  # each block waits once for the broker; an interrupt repeats at most one

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
        click.echo((message.value() or b"").decode() if as_json else dead_letter_line(letter))
    if not as_json:
        for (name, word), count in sorted(counts.items()):
            click.echo(f"{count:>9,}  {printable(name):<20} {printable(word)}")
        click.echo(f"{counts.total():>9,}  dead letters")


@dead_letters.command("replay")
@_filters
@click.option("--dry-run", is_flag=True, help="Say what would be sent, send nothing.")
def replay(code: tuple[str, ...], topic: str | None, limit: int | None, dry_run: bool) -> None:
    """Put dead letters back on the topic they came from: original key and bytes.

    Use it once the reason for the failure is gone: the model is fixed, or a limit raised. A replayed record carries the
    header replayed-from with the place of its dead letter. A record of stage inference also carries failed-at with its
    own first place. Workers decide it although its id has been seen, once for each such place.

    Each letter goes back once and stays until its retention ends. Replay marks it by a tombstone on dead-letters, keyed
    by the letter's place; consumers skip tombstones. A record that fails again is a new letter, which may go back too. An
    interrupted replay may leave up to 1,000 letters unmarked. These go back again, as records of the same id, and their
    decisions have the same decision_id.

    Replay passes over letters that hold only the first bytes of a long record, or that name a topic that workers do not
    read, an output topic too; the exit code is then 1.

    \b
    Examples:
      streams dead-letters replay --topic transactions --code out-of-range --dry-run
      streams dead-letters replay --limit 1
    """
    from streams.clients.cluster import require_topics
    from streams.clients.connection import connect
    from streams.clients.event_producer import Delivery, Headers

    settings = load_settings()
    # A letter on an open topic may name any origin: sent to an output topic it would stand there as a decision.
    known = {topic.name for topic in settings.topics.inputs}
    counts: Counter[str] = Counter()
    cut = astray = 0
    unmarked: list[Message] = []
    with Delivery(settings) as delivery:
        for message, letter in _read(settings, code, topic, limit, replayed=_replayed(settings)):
            if letter.topic not in known:
                astray += 1
                continue
            if letter.is_cut:
                cut += 1
                continue
            if not dry_run:
                if not counts[letter.topic]:
                    require_topics(connect(settings), [letter.topic])
                origin: Headers = [(REPLAYED_FROM, place(message).encode())]
                if letter.stage == "inference":
                    origin.append((FAILED_AT, f"{letter.topic}[{letter.partition}]@{letter.offset}".encode()))
                delivery.send_one(letter.topic, original_key(letter), original_value(letter), origin)
                unmarked.append(message)
                if len(unmarked) == UNMARKED_MAX:
                    _mark(unmarked, delivery)
                    unmarked.clear()
            counts[letter.topic] += 1
        _mark(unmarked, delivery)
    for name, count in sorted(counts.items()):
        click.echo(f"{count:,} {'would go' if dry_run else 'went'} back to {name}")
    refused = []
    if cut:
        refused.append(
            f"{cut:,} dead letters hold only the first bytes of their record (see value_bytes, key_bytes) and cannot go "
            "back; send these records again from where they came"
        )
    if astray:
        refused.append(f"{astray:,} dead letters name topics that workers do not read, and do not go back")
    if refused:
        raise StreamsError("; ".join(refused))
    if not counts:
        click.echo("no dead letter matches that has not gone back before")


def _mark(letters: Sequence[Message], delivery: Delivery) -> None:
    """Mark letters as replayed once their records are confirmed: a crash in between repeats a record, loses none."""
    delivery.flush()
    for letter in letters:
        # In the letter's own partition, behind it: retention deletes the letter before its mark.
        delivery.send_one(str(letter.topic()), place(letter).encode(), None, [], partition=int(letter.partition() or 0))


def _replayed(settings: Settings) -> set[str]:
    """Return the places of the letters that are marked as replayed."""
    from streams.clients.topic_reader import TopicReader

    with closing(TopicReader(settings, [settings.topics.dead_letters.name], from_beginning=True)) as reader:
        records = chain.from_iterable(reader.until_end())
        return {(record.key() or b"").decode(errors="replace") for record in records if record.value() is None}


def original_key(letter: DeadLetter) -> bytes | None:
    """Return the key that the record had, byte for byte as far as the letter has it."""
    if letter.key_base64 is not None:
        return base64.b64decode(letter.key_base64)
    return None if letter.key is None else letter.key.encode()


def original_value(letter: DeadLetter) -> bytes | None:
    """Return the value that the record had, byte for byte as far as the letter has it."""
    return None if letter.value_base64 is None else base64.b64decode(letter.value_base64)


def _read(
    settings: Settings,
    codes: tuple[str, ...],
    topic: str | None,
    limit: int | None,
    *,
    replayed: Container[str] = (),
) -> Iterator[tuple[Message, DeadLetter]]:
    """Yield the dead letters that match and are not `replayed`; report other records of the topic on stderr."""
    from streams.clients.topic_reader import TopicReader

    left = limit
    letters = Decoded(_parsed, "dead letters")
    with closing(TopicReader(settings, [settings.topics.dead_letters.name], from_beginning=True)) as reader:
        for message, letter in letters.of(chain.from_iterable(reader.until_end())):
            names = None, letter.topic, letter.topic.removeprefix(settings.topic_prefix)
            if (codes and letter.code not in codes) or topic not in names or place(message) in replayed:
                continue
            yield message, letter
            if left is not None:
                left -= 1
                if not left:
                    break
    letters.report()


def _parsed(value: str) -> DeadLetter:
    """Return the letter, its base64 checked; msgspec.DecodeError, ValueError or RecursionError for any other value."""
    letter = _decode_letter(value)
    original_key(letter)
    original_value(letter)
    return letter
