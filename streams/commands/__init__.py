"""The `streams` command line: one group, whose commands are imported when they are called.

`streams --help` imports no Kafka client, torch or Faust: names and summaries of the commands are in the table below.
A command reads its options, calls the other rooms and prints; what works without a terminal belongs to those rooms.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from models.errors import ModelError
from streams import __version__
from streams.errors import StreamsError

INTERRUPTED = 130  # 128 + SIGINT, what a shell expects of a program ended by Ctrl-C

# name: (module, what it does). The command is the attribute of the same name, "-" written as "_".
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("streams.commands.demo", "Watch decisions and recommendations flow: Kafka, workers, traffic, one view."),
    "produce": ("streams.commands.produce", "Produce events, simulated or those of a parquet, CSV or NDJSON file."),
    "watch": ("streams.commands.watch", "Print decisions, recommendations or dead letters as they come."),
    "topics": ("streams.commands.topics", "List, create and describe the topics; write their schemas."),
    "dead-letters": ("streams.commands.dead_letters", "List rejected records and put them back on their topic."),
    "kafka": ("streams.commands.kafka", "Run an Apache Kafka of your own on this machine."),
    "train": (
        "streams.commands.train",
        "Train the fraud model or the recommender, on simulated events or on your own.",
    ),
    "evaluate": (
        "streams.commands.evaluate",
        "Judge the fraud model or the recommender by the protocols of the literature.",
    ),
    "bench": ("streams.commands.bench", "Measure throughput and latency, Kafka in to Kafka out."),
    "settings": ("streams.commands.settings", "Print every setting: name, value in use, meaning."),
    "version": ("streams.commands.version", "Print the versions of streams and of what it stands on."),
}


class Failure(click.ClickException):
    """An error that the user can act on: one line on stderr, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Print the sentence as one line."""
        click.echo("streams: " + " ".join(self.message.split()), file=file, err=file is None)


class LazyGroup(click.Group):
    """A group that imports a command when it is called and turns expected errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table: what a newcomer needs stands first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None where there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command), f"{cmd_name} is not a click command; this is a bug"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command: StreamsError and ModelError become exit code 1, Ctrl-C 130."""
        try:
            return super().invoke(ctx)
        except (StreamsError, ModelError) as exc:
            raise Failure(f"{type(exc).__name__}: {exc}") from exc
        except KeyboardInterrupt:
            click.echo(err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file of settings (as STREAMS_CONFIG).")
@click.option(
    "--bootstrap-servers", metavar="HOST:PORT,...", help="Kafka cluster to use (as STREAMS_BOOTSTRAP_SERVERS)."
)
@click.version_option(__version__, package_name="streams", message="streams %(version)s")
def main(config: str | None, bootstrap_servers: str | None) -> None:
    """Fraud decisions and recommendations on Kafka, scored by torch models inside Faust workers.

    Settings come from a TOML file (--config), from STREAMS_* variables and from options; `streams settings` lists them.
    Without an address of a cluster, commands use the broker of `streams kafka start`.

    \b
    Examples:
      streams demo                                  # everything at once, for a minute
      streams kafka start                           # a broker of your own,
      streams topics create                         #   its topics,
      faust -A streams worker                       #   a worker (another terminal),
      streams produce simulate --rate 1000          #   traffic (another terminal),
      streams watch decisions --decision decline    #   and what was declined

    Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 Ctrl-C.
    """
    # In the environment rather than in an object: worker processes of the demo and the benchmark inherit them.
    if config is not None:
        os.environ["STREAMS_CONFIG"] = config
    if bootstrap_servers is not None:
        os.environ["STREAMS_BOOTSTRAP_SERVERS"] = bootstrap_servers
