"""`streams watch`: decisions, recommendations and dead letters of the workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import orjson

from streams.commands.parameters import FiniteRange
from streams.commands.rendering import Decoded, printable
from streams.contract.events import DeadLetter, Decision, Recommendation
from streams.settings import load_settings

COLOURS = {"approve": "green", "review": "yellow", "decline": "red"}
ITEMS_SHOWN = 5
# A decision's contributions sum to its score with these two, which are no features.
COMPLETING = ("baseline", "other")
DEGRADED_MARK = "!"

Event = TypeVar("Event", Decision, Recommendation, DeadLetter)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a topic is read and printed: the options that all of these commands share.

    Attributes:
        follow: wait for more records at the end.
        from_beginning: start at the oldest record.
        limit: stop after this many matching records; None never stops.
        as_json: print records as they are.
    """

    follow: bool
    from_beginning: bool
    limit: int | None
    as_json: bool


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The records as they are, one JSON object a line."),
        click.option("--limit", type=click.IntRange(min=1), help="Stop after this many matching records."),
        click.option("--from-beginning", is_flag=True, help="Start at the oldest record (default with --no-follow)."),
        click.option(
            "--follow/--no-follow", default=True, show_default=True, help="Wait for more, or read what is there."
        ),
    ):
        command = option(command)
    return command


@click.group()
def watch() -> None:
    """Print decisions, recommendations or dead letters as they come.

    \b
    Examples:
      streams watch decisions
      streams watch decisions --decision decline --min-score 0.9
      streams watch decisions --summary --no-follow
      streams watch recommendations --session session-7-00000012 --from-beginning
      streams watch dead-letters --no-follow --json | jq .code
    """


@watch.command()
@_common
@click.option("--decision", type=click.Choice(list(COLOURS)), multiple=True, help="Only these decisions.")
@click.option(
    "--min-score",
    type=FiniteRange(0.0, 1.0),
    default=0.0,
    help="Only scores from here on; above 0, no degraded decisions, which have no score.",
)
@click.option("--card", help="Only this card_id.")
@click.option("--summary", is_flag=True, help="Instead of lines: scores by class, of the decisions that are there.")
@click.option("--labels", metavar="FILE", help="With --summary: labels from a file instead of from transaction-labels.")
@click.option("--label-column", default="is_fraud", show_default=True, help="With --labels: 1 or true is fraud.")
@click.option("--id-column", default="transaction_id", show_default=True, help="With --labels: the column of the ids.")
def decisions(
    follow: bool,
    from_beginning: bool,
    limit: int | None,
    as_json: bool,
    decision: tuple[str, ...],
    min_score: float,
    card: str | None,
    summary: bool,
    labels: str | None,
    label_column: str,
    id_column: str,
) -> None:
    """Print decisions: time, decision, score ("rules" where a degraded worker has none), card, amount, strongest reasons.

    --summary reads what is there and prints, by class of the labels, how many, the decisions, mean and quantiles of the
    scores, and the area under the ROC curve. A decision read twice counts once, and is reported; so are degraded ones,
    which have no score.

    \b
    Examples:
      streams watch decisions --decision decline --decision review
      streams watch decisions --card 4217 --from-beginning --limit 20
      streams watch decisions --summary
      streams watch decisions --summary --labels payments.parquet --label-column fraud --id-column tx_id
    """
    if summary:
        _summary(Path(labels) if labels else None, label_column, id_column, as_json)
        return
    if labels:
        raise click.UsageError("--labels: only with --summary")

    def matches(event: Decision) -> bool:
        return (
            (not decision or event.decision in decision)
            and (event.score or 0.0) >= min_score
            and (card is None or event.card_id == card)
        )

    reading = Reading(follow, from_beginning, limit, as_json)
    _print("fraud-decisions", Decision, "decisions", matches, decision_line, reading)


@watch.command()
@_common
@click.option("--session", help="Only this session_id.")
def recommendations(follow: bool, from_beginning: bool, limit: int | None, as_json: bool, session: str | None) -> None:
    """Print recommendations: time, session, strategy ("popular!" where a degraded worker stood in), the first items.

    \b
    Examples:
      streams watch recommendations --session session-7-00000012 --from-beginning
      streams watch recommendations --limit 10 --json
    """

    def matches(event: Recommendation) -> bool:
        return session is None or event.session_id == session

    reading = Reading(follow, from_beginning, limit, as_json)
    _print("recommendations", Recommendation, "recommendations", matches, recommendation_line, reading)


@watch.command("dead-letters")
@_common
@click.option("--code", help="Only this error code.")
@click.option("--topic", help="Only records of this topic.")
def dead_letters(
    follow: bool, from_beginning: bool, limit: int | None, as_json: bool, code: str | None, topic: str | None
) -> None:
    """Print dead letters: origin, stage, code, sentence.

    \b
    Examples:
      streams watch dead-letters
      streams watch dead-letters --code duplicate-key --no-follow
    """

    prefix = load_settings().topic_prefix

    def matches(event: DeadLetter) -> bool:
        return code in (None, event.code) and topic in (None, event.topic, event.topic.removeprefix(prefix))

    reading = Reading(follow, from_beginning, limit, as_json)
    _print("dead-letters", DeadLetter, "dead letters", matches, dead_letter_line, reading)


def decision_line(event: Decision) -> str:
    """Return one coloured line."""
    reasons = "  ".join(strongest_reasons(event))
    word = click.style(f"{event.decision:<8}", fg=COLOURS[event.decision])
    return (
        f"{utc(event.event_time)}  {word} {score_text(event, 4):>6}  card {printable(event.card_id):<12} "
        f"terminal {printable(event.terminal_id):<16} {event.amount:>9.2f}  {printable(event.transaction_id)}  {reasons}"
    ).rstrip()


def score_text(event: Decision, digits: int) -> str:
    """Return the score, or the word rules where rules decided."""
    return event.strategy if event.score is None else f"{event.score:.{digits}f}"


def strongest_reasons(event: Decision) -> list[str]:
    """Return the features named in a decision, each with its log-odds, without baseline and other; rules with their figure."""
    return [
        f"{printable(reason.feature)} "
        + (f"{reason.value or 0.0:g}" if reason.contribution is None else f"{reason.contribution:+.1f}")
        for reason in event.reasons
        if reason.feature not in COMPLETING
    ]


def strategy_text(event: Recommendation) -> str:
    """Return the strategy, marked where popular items stand in for a failing model."""
    return event.strategy + (DEGRADED_MARK if event.degraded else "")


def recommendation_line(event: Recommendation) -> str:
    """Return one line with the best items."""
    items = "  ".join(f"{printable(item.item_id)} {item.score:.2f}" for item in event.items[:ITEMS_SHOWN])
    return f"{utc(event.event_time)}  {printable(event.session_id):<20} {strategy_text(event):<10} {items}"


def dead_letter_line(event: DeadLetter) -> str:
    """Return one line: origin, code, sentence."""
    origin = f"{printable(event.topic)}[{event.partition}]@{event.offset}"
    code = click.style(printable(event.code), fg="red")
    return f"{origin:<28} {printable(event.stage):<8} {code:<20} {printable(event.message)}"


def utc(event_time: int) -> str:
    """Return the time to the second."""
    try:
        return datetime.fromtimestamp(event_time / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{event_time} ms"


def _print(
    topic: str,
    schema: type[Event],
    kind: str,
    matches: Callable[[Event], bool],
    line: Callable[[Event], str],
    reading: Reading,
) -> None:
    from streams.clients.topic_reader import TopicReader

    left = reading.limit
    decoded = Decoded(msgspec.json.Decoder(schema).decode, kind)
    settings = load_settings()
    name = settings.topics.called(topic).name
    with closing(TopicReader(settings, [name], from_beginning=reading.from_beginning or not reading.follow)) as reader:
        try:
            for batch in reader.follow() if reading.follow else reader.until_end():
                for message, event in decoded.of(batch):
                    if not matches(event):
                        continue
                    click.echo((message.value() or b"").decode() if reading.as_json else line(event))
                    if left is not None:
                        left -= 1
                        if not left:
                            return
        finally:
            decoded.report()


def _summary(labels: Path | None, label_column: str, id_column: str, as_json: bool) -> None:
    from streams.clients.topic_reader import TopicReader
    from streams.judging.score_summary import Labelled, Scored, ScoreSummary, read_labels

    settings = load_settings()
    started = time.monotonic()
    summary = ScoreSummary()
    scored = Decoded(msgspec.json.Decoder(Scored).decode, "decisions")
    with closing(TopicReader(settings, [settings.topics.decisions.name], from_beginning=True)) as reader:
        for batch in reader.until_end():
            summary.add_decisions(decision for _, decision in scored.of(batch))
    scored.report()
    if labels is not None:
        summary.add_labels(*read_labels(labels, id_column, label_column))
    else:
        labelled = Decoded(msgspec.json.Decoder(Labelled).decode, "labels")
        with closing(TopicReader(settings, [settings.topics.labels.name], from_beginning=True)) as reader:
            for batch in reader.until_end():
                found = [label for _, label in labelled.of(batch)]
                summary.add_labels((str(label.transaction_id) for label in found), (label.is_fraud for label in found))
        labelled.report()
    report = summary.report()
    if as_json:
        click.echo(orjson.dumps(report).decode())
        return
    click.echo(summary.table(report))
    click.echo(f"read in {time.monotonic() - started:.1f} s", err=True)
