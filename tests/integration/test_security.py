"""Clusters that want to be convinced, and what a worker shows to whom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.clients.connection import COMMAND_ANSWER_S_MAX, connect
from streams.errors import KafkaUnavailable
from streams.settings import Settings, load_settings
from tests.support.certificates import Authority
from tests.support.secured_kafka import HTTP_TOKEN, KEY_PASSWORD, SASL_PASSWORD, SECRETS, SecuredKafka, secured_kafka
from tests.support.traffic import payments
from tests.support.workers import Bench, poll_until

pytestmark = pytest.mark.kafka

PAYMENTS = 300


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Folder of a test's workers; when it ends, no secret stands in any of their logs."""
    yield tmp_path
    logs = [path.read_text(errors="replace") for path in tmp_path.rglob("*.log")]
    assert logs, "no worker has logged"
    assert not [secret for secret in SECRETS for text in logs if secret in text]


@pytest.fixture(scope="module", params=["SSL", "mutual", "SASL_SSL"])
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A broker of each kind, one after the other: pytest groups the tests by it."""
    mutual = request.param == "mutual"
    folder = tmp_path_factory.mktemp(request.param)
    with secured_kafka(folder, "SSL" if mutual else request.param, client_certificate=mutual) as secured:
        yield secured


def client_settings(kafka: SecuredKafka, **settings: Any) -> Settings:
    return load_settings(env={}, **{"bootstrap_servers": kafka.address} | kafka.settings | settings)


def assert_a_worker_decides(kafka: SecuredKafka, folder: Path, interpreter: bool = False, **settings: Any) -> None:
    bench = Bench(kafka.address, folder, "secure", checkpoint_interval_s=1, **kafka.settings | settings)
    bench.create_topics()
    before = bench.count("fraud-decisions")
    records, labels = payments(PAYMENTS, seed=before)  # other ids than an earlier worker has decided
    bench.produce_json("transaction-labels", "card_id", labels)
    bench.produce_json("transactions", "card_id", records)
    bench.produce("transactions", [b"no payment"], [b"c1"])
    try:
        # Everything that says anything, at the level that says most.
        worker = bench.start(0, level="debug", interpreter=interpreter, http_token=HTTP_TOKEN).wait_until_ready()
        bench.wait_for("fraud-decisions", before + PAYMENTS)
        poll_until(lambda: bench.count("secure-card-state") > 0, 30, "a checkpoint")
        assert worker.stop() < 10.0
        assert bench.count("dead-letters") > 0
    finally:
        bench.close()
    for letter in bench.read("dead-letters"):
        written = repr((letter.key(), letter.value(), letter.headers()))
        assert not [secret for secret in SECRETS if secret in written]
    decided = {decision["transaction_id"] for decision in bench.read_json("fraud-decisions")}
    assert decided >= {record["transaction_id"] for record in records}


def assert_a_worker_is_refused(kafka: SecuredKafka, folder: Path, because: str, **settings: Any) -> None:
    bench = Bench(kafka.address, folder, "refused")
    try:
        worker = bench.start(0, **kafka.settings | {"http_token": HTTP_TOKEN} | settings)
        last = worker.wait_until_refused()
    finally:
        bench.close()
    log = worker.log.read_text()
    assert last.startswith("streams: ") and because in last, log
    assert "Traceback" not in log and len(log.splitlines()) < 30, log


def test_a_worker_decides_on_a_secured_cluster(kafka: SecuredKafka, folder: Path) -> None:
    """Group membership, outputs, label readers and checkpoints all pass the listener; debug logs hold no secret."""
    assert_a_worker_decides(kafka, folder, interpreter=kafka.settings["security_protocol"] == "SASL_SSL")


@pytest.mark.parametrize("kafka", ["SASL_SSL"], indirect=True)
def test_a_worker_decides_with_a_password_that_never_travels(kafka: SecuredKafka, folder: Path) -> None:
    """The same with SCRAM instead of PLAIN."""
    assert_a_worker_decides(kafka, folder, sasl_mechanism="SCRAM-SHA-512")


@pytest.mark.parametrize("kafka", ["SASL_SSL"], indirect=True)
def test_commands_pass_with_the_workers_settings(kafka: SecuredKafka) -> None:
    """What commands connect with is made of the same settings."""
    connect(client_settings(kafka, sasl_mechanism="SCRAM-SHA-256"))


@pytest.mark.parametrize("kafka", ["SSL"], indirect=True)
def test_a_worker_refuses_a_broker_of_another_authority(kafka: SecuredKafka, folder: Path) -> None:
    """A certificate that the file of authorities does not vouch for ends the worker in one line."""
    other = Authority(folder / "other").own.certificate
    assert_a_worker_is_refused(kafka, folder, "certificate verify failed", ssl_ca_location=other)


@pytest.mark.parametrize("kafka", ["mutual"], indirect=True)
def test_a_worker_without_a_certificate_is_refused(kafka: SecuredKafka, folder: Path) -> None:
    """It ends in one line that says what the broker wanted."""
    without = {"ssl_certificate_location": "", "ssl_key_location": "", "ssl_key_password": ""}
    assert_a_worker_is_refused(kafka, folder, "certificate required", **without)


@pytest.mark.parametrize("kafka", ["mutual"], indirect=True)
def test_a_worker_with_the_wrong_password_of_its_key_ends(kafka: SecuredKafka, folder: Path) -> None:
    """It ends in one line that names the settings, and asks no terminal."""
    assert_a_worker_is_refused(kafka, folder, "ssl_key_password", ssl_key_password=f"not-{KEY_PASSWORD}")


@pytest.mark.parametrize("kafka", ["SASL_SSL"], indirect=True)
def test_a_worker_with_a_wrong_password_is_refused(kafka: SecuredKafka, folder: Path) -> None:
    """It ends in one line that speaks of authentication."""
    assert_a_worker_is_refused(kafka, folder, "uthentication", sasl_password=f"not-{SASL_PASSWORD}")


@pytest.mark.parametrize(
    ("kafka", "because", "settings"),
    [
        # The system's authorities count without a file of them, not none at all.
        ("SSL", "certificate verify failed", {"ssl_ca_location": ""}),
        # A certificate counts for the names in it: who stole one cannot pose as another host.
        ("SSL", "certificate verify failed", {"bootstrap_servers": "localhost"}),
        ("mutual", "certificate", {"ssl_certificate_location": "stranger", "ssl_key_location": "stranger"}),
        ("SASL_SSL", "uthentication", {"sasl_mechanism": "SCRAM-SHA-256", "sasl_password": "wrong"}),
        ("SASL_SSL", "uthentication", {"sasl_username": "bob"}),
    ],
    ids=["systems-authorities", "another-host", "stranger", "wrong-password", "unknown-user"],
    indirect=["kafka"],
    scope="module",
)
def test_the_first_contact_is_refused_in_time(
    kafka: SecuredKafka, because: str, settings: dict[str, str], tmp_path: Path
) -> None:
    """If either side does not trust the other, one sentence gives the reason, without a secret."""
    if settings.get("ssl_certificate_location"):
        stranger = Authority(tmp_path / "other").issue("client")
        settings = {"ssl_certificate_location": str(stranger.certificate), "ssl_key_location": str(stranger.key)}
    if "bootstrap_servers" in settings:
        settings = {"bootstrap_servers": kafka.address.replace("127.0.0.1", "localhost")}
    began = time.monotonic()
    with pytest.raises(KafkaUnavailable, match=because) as caught:
        connect(client_settings(kafka, **settings))
    assert time.monotonic() - began < COMMAND_ANSWER_S_MAX + 5.0
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
