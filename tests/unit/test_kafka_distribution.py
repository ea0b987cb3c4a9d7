"""The download of Kafka's jars."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import KafkaUnavailable
from streams.kafka.distribution import ensure_jars, jars_folder
from streams.kafka.jars import JARS


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has never had Kafka and has no network; its local Maven repository is returned."""
    for name in ("HOME", "XDG_CACHE_HOME", "M2_REPO"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return tmp_path / "M2_REPO"


def test_without_network_the_first_download_says_what_to_do(offline: Path) -> None:
    """The error names the version and both remedies, and no part of a Kafka stays behind."""
    with pytest.raises(
        KafkaUnavailable, match=r"download Apache Kafka 4.* connect to the network, or .*bootstrap_servers"
    ):
        ensure_jars()
    assert list(jars_folder().parent.iterdir()) == []


def test_a_jar_with_another_digest_is_refused(offline: Path) -> None:
    """A damaged or exchanged jar never runs."""
    coordinate, _, digest = JARS[0]
    group, artifact, version = coordinate.split(":")
    damaged = offline.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.jar")
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not the jar")
    with pytest.raises(KafkaUnavailable, match=f"expected SHA-256 {digest} for {coordinate}"):
        ensure_jars()
    assert not jars_folder().exists()


def test_cached_jars_need_no_network(offline: Path) -> None:
    """Once there, the jars are used as they are."""
    jars_folder().mkdir(parents=True)
    assert ensure_jars() == jars_folder()
