"""`streams topics`: the declared topics on a cluster."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import click
from confluent_kafka.admin import ConfigResource, ResourceType

from streams.clients.cluster import offset_ranges, partition_counts, require_topics
from streams.clients.connection import COMMAND_ANSWER_S_MAX, command_config, connect, reading_consumer
from streams.clients.topic_admin import create_topics
from streams.contract.topics import ALL, TRANSACTIONS, Topic
from streams.errors import KafkaUnavailable
from streams.settings import load_settings


@click.group()
def topics() -> None:
    """List, create and describe the topics; write their schemas.

    \b
    Examples:
      streams topics create
      streams topics list
      streams topics describe transactions
      streams topics schemas config
    """


@topics.command("create")
@click.option("--partitions", type=click.IntRange(1, 1000), help="Partitions of new topics (default: the setting, 4).")
@click.option(
    "--replication-factor", type=click.IntRange(1, 9), help="Replicas of new topics (default: the setting, 1)."
)
def create(partitions: int | None, replication_factor: int | None) -> None:
    """Create the topics that do not exist yet; harmless when they do.

    \b
    Example:
      streams topics create --partitions 12 --replication-factor 3
    """
    given: dict[str, Any] = {"partitions": partitions, "replication_factor": replication_factor}
    settings = load_settings(**{key: value for key, value in given.items() if value is not None})
    for creation in create_topics(connect(settings), settings):
        state = "created" if creation.created else "exists"
        click.echo(f"{state:<8} {creation.topic.name:<24} {creation.partitions} partitions")


@topics.command("list")
def list_() -> None:
    """Print each declared topic: partitions on the cluster, key, what it holds.

    \b
    Example:
      streams topics list
    """
    settings = load_settings()
    found = partition_counts(connect(settings))
    for topic in settings.topics.all:
        count = f"{found[topic.name]} partitions" if topic.name in found else "missing"
        click.echo(f"{topic.name:<24} {count:<14} key {topic.key or '-':<12} {_meaning(topic)}")
    missing = [topic.name for topic in settings.topics.all if topic.name not in found]
    if missing:
        raise KafkaUnavailable(f"{len(missing)} topics are missing; run `streams topics create`")


@topics.command("describe")
@click.argument("name", type=click.Choice([topic.name for topic in ALL]), metavar="TOPIC", default=TRANSACTIONS.name)
def describe(name: str) -> None:
    """Print one topic: partitions with their offsets, settings on the cluster, fields of its records.

    \b
    Examples:
      streams topics describe transactions
      streams topics describe dead-letters
    """
    import msgspec

    settings = load_settings()
    admin = connect(settings)
    topic = settings.topics.called(name)
    counts = require_topics(admin, [topic.name])
    click.echo(f"{topic.name}: {_meaning(topic)}\n")
    with closing(reading_consumer(command_config(settings), settings.application_id)) as consumer:
        ranges = offset_ranges(consumer, counts)
    for (_, partition), (first, end) in ranges.items():
        click.echo(f"  partition {partition:<4} offsets {first:,} to {end:,}")
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    config = admin.describe_configs([resource], request_timeout=COMMAND_ANSWER_S_MAX)[resource].result()
    click.echo()
    for key, declared in topic.config.items():
        actual = config[key].value
        click.echo(f"  {key:<28} {actual}" + ("" if actual == declared else f"   (declared: {declared})"))
    if topic.schema is not None:
        click.echo()
        for field in msgspec.structs.fields(topic.schema):
            marks = ("key, " if field.name == topic.key else "") + ("required" if field.required else "optional")
            click.echo(f"  {field.encode_name:<28} {marks}")


@topics.command("schemas")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("config"))
def schemas(folder: Path) -> None:
    """Write the JSON Schema of each public topic and the AsyncAPI document into FOLDER (default: config).

    \b
    Example:
      streams topics schemas config
    """
    from streams.contract.documents import write_schemas

    for path in write_schemas(folder):
        click.echo(str(path))


def _meaning(topic: Topic) -> str:
    if topic.schema is None:
        return "State of the workers; nothing to read."
    return (topic.schema.__doc__ or "").strip().partition("\n")[0]
