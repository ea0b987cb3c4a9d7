"""`streams kafka`: an Apache Kafka of one's own, on this machine."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import psutil

from streams.errors import KafkaUnavailable, SettingsError
from streams.kafka import EmbeddedKafka
from streams.settings import load_settings


class _Terminated(Exception):
    """SIGTERM, raised in the main thread so that the broker is stopped in order."""


@click.group()
def kafka() -> None:
    """Run an Apache Kafka of your own on this machine.

    It listens on 127.0.0.1 only and keeps its data under state_dir. Every other command uses it when bootstrap_servers
    is not set. The first start downloads 45 MB, later ones need no network.

    \b
    Examples:
      streams kafka start
      streams kafka start --brokers 3
      streams kafka status
      streams kafka stop
    """


@kafka.command("start")
@click.option(
    "--brokers", type=click.Choice(["1", "3"]), help="1, or 3 that can lose one (default: as last time, or 1)."
)
@click.option(
    "--port", type=click.IntRange(1024, 65533), help="Port of the first broker (default: as last time, or a free one)."
)
@click.option(
    "--foreground", is_flag=True, help="Stay in this terminal until Ctrl-C, instead of running in the background."
)
def start(brokers: str | None, port: int | None, foreground: bool) -> None:
    """Start the broker and print its address.

    It runs in the background until `streams kafka stop`, across logouts but not reboots.

    \b
    Examples:
      streams kafka start
      streams kafka start --port 9092
      streams kafka start --foreground --brokers 3
    """
    embedded = EmbeddedKafka(_folder(), int(brokers) if brokers else None, port, detached=not foreground)
    if foreground:
        _run(embedded)
    click.echo(_running_address(embedded, brokers, port) or embedded.start())
    if other := load_settings().bootstrap_servers:
        click.echo(f"note: bootstrap_servers={other} is set, so other commands use that cluster", err=True)


@kafka.command("stop")
def stop() -> None:
    """Stop the broker; its data stays.

    \b
    Example:
      streams kafka stop
    """
    click.echo("stopped" if EmbeddedKafka(_folder()).stop() else "not running")


@kafka.command("status")
def status() -> None:
    """Print address, processes and size.

    The exit code is 1 where no broker runs.

    \b
    Example:
      streams kafka status || streams kafka start
    """
    embedded = EmbeddedKafka(_folder())
    cluster = embedded.status()
    if cluster is None or not cluster.is_alive():
        raise KafkaUnavailable(f"{embedded.folder}: no broker runs; `streams kafka start` starts one")
    click.echo(f"address  {cluster.bootstrap_servers}")
    click.echo(f"folder   {embedded.folder} ({_bytes(embedded.folder) / 1e6:,.1f} MB)")
    for broker in cluster.brokers:
        if broker.java is not None and broker.is_alive():
            up_s = time.time() - psutil.Process(broker.java.pid).create_time()
            state = f"pid {broker.java.pid}, up {up_s:,.0f} s"
        else:
            state = f"down (see {embedded.folder / f'broker-{broker.node}' / 'server.log'})"
        click.echo(f"broker {broker.node} 127.0.0.1:{broker.port}  {state}")


@kafka.command("reset")
def reset() -> None:
    """Stop the broker and delete its data.

    \b
    Example:
      streams kafka reset
    """
    click.echo("deleted" if EmbeddedKafka(_folder()).reset() else "nothing to delete")


def _folder() -> Path:
    return Path(load_settings().state_dir) / "kafka"


def _running_address(embedded: EmbeddedKafka, brokers: str | None, port: int | None) -> str | None:
    """Return the address of the running broker, None without one; refuse options that it does not meet."""
    cluster = embedded.status()
    if cluster is None or not cluster.is_alive():
        return None
    got = f"{len(cluster.brokers)} at {cluster.bootstrap_servers}"
    if brokers is not None and int(brokers) != len(cluster.brokers):
        raise SettingsError(f"brokers={brokers}: embedded Kafka already runs with {got}; `streams kafka stop` first")
    if port is not None and port != cluster.brokers[0].port:
        raise SettingsError(f"port={port}: embedded Kafka already runs with {got}; `streams kafka stop` first")
    return cluster.bootstrap_servers


def _run(embedded: EmbeddedKafka) -> NoReturn:
    def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with embedded:
            click.echo(embedded.bootstrap_servers)
            click.echo("running; Ctrl-C stops it", err=True)
            if not embedded.wait_for_stop():
                raise KafkaUnavailable(f"{embedded.folder}: the broker ended on its own; its server.log says why")
    except _Terminated:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    raise click.exceptions.Exit(0)


def _bytes(folder: Path) -> int:
    """Return the disk space that a folder takes."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # the broker may delete a segment in between
            total += path.lstat().st_blocks * 512
    return total
