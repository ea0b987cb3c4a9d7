"""Brokers that want to be convinced: TLS, client certificates, passwords. For the embedded Kafka under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from streams.kafka import EmbeddedKafka
from streams.settings import load_settings
from tests.support.certificates import Authority

PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
USER, LIMITED_USER = "ann", "bea"
# Words that occur nowhere by chance, to be looked for in logs.
SASL_PASSWORD, LIMITED_PASSWORD = "sasl-8d1f0c", "sasl-41be77"
KEY_PASSWORD, HTTP_TOKEN = "key-52b7ae", "token-c90e34"
SECRETS = (SASL_PASSWORD, LIMITED_PASSWORD, KEY_PASSWORD, HTTP_TOKEN)
SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}


@dataclass(frozen=True)
class SecuredKafka:
    """A running broker, the authority that it trusts, and settings of a client that it accepts."""

    address: str
    authority: Authority
    settings: dict[str, Any] = field(repr=False)


@contextmanager
def secured_kafka(
    folder: Path, protocol: str, *, client_certificate: bool = False, authorizer: bool = False
) -> Iterator[SecuredKafka]:
    """Run a broker with one listener of this security protocol; under SASL it knows PLAIN and SCRAM.

    Args:
        folder: for certificates and the broker's data.
        protocol: SSL, SASL_PLAINTEXT or SASL_SSL.
        client_certificate: refuse clients without a certificate of the authority.
        authorizer: leave to all users but USER what ACLs allow them; LIMITED_USER logs in by PLAIN.
    """
    authority = Authority(folder / "authority")
    server = {"listener.security.protocol.map": f"CLIENT:{protocol},CONTROLLER:PLAINTEXT"}
    settings: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        server |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(authority.issue("server").keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.own.certificate),
            "ssl.client.auth": "required" if client_certificate else "none",
        }
        settings["ssl_ca_location"] = str(authority.own.certificate)
    if client_certificate:
        client = authority.issue("client", KEY_PASSWORD)
        settings |= {
            "ssl_certificate_location": str(client.certificate),
            "ssl_key_location": str(client.key),
            "ssl_key_password": KEY_PASSWORD,
        }
    if protocol.startswith("SASL"):
        plain = (
            f'{PLAIN_LOGIN} username="{USER}" password="{SASL_PASSWORD}" user_{USER}="{SASL_PASSWORD}" '
            f'user_{LIMITED_USER}="{LIMITED_PASSWORD}";'
        )
        server |= {
            "sasl.enabled.mechanisms": ",".join(["PLAIN", *SCRAM]),
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": plain,
            **{f"listener.name.client.{name.lower()}.sasl.jaas.config": SCRAM_LOGIN for name in SCRAM},
        }
        settings |= {"sasl_username": USER, "sasl_password": SASL_PASSWORD}
    if authorizer:
        server |= {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{USER};User:ANONYMOUS",  # the latter: the broker's own controller
        }
    client_config = load_settings(env={}, bootstrap_servers="127.0.0.1:1", **settings).librdkafka()
    del client_config["bootstrap.servers"]
    with EmbeddedKafka(folder / "kafka", extra=server, client=client_config) as kafka:
        if protocol.startswith("SASL"):
            add_scram_user(AdminClient({**client_config, "bootstrap.servers": kafka.bootstrap_servers}))
        yield SecuredKafka(kafka.bootstrap_servers, authority, settings)


def add_scram_user(admin: AdminClient) -> None:
    """Make the user known under every SCRAM mechanism too."""
    for mechanism in SCRAM.values():  # the broker wants a request for each
        user = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), SASL_PASSWORD.encode())
        admin.alter_user_scram_credentials([user])[USER].result(30)
