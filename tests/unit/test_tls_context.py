"""What the consumer's TLS is made of: files that cannot be used are named, names are checked."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from streams.clients.credentials import tls_context
from streams.errors import SettingsError
from streams.settings import Settings
from tests.support.certificates import Authority

PASSWORD = "key-52b7ae"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a client with a certificate whose key has a password."""
    authority = Authority(tmp_path_factory.mktemp("tls") / "authority")
    client = authority.issue("client", PASSWORD)
    return {
        "ssl_ca_location": str(authority.own.certificate),
        "ssl_certificate_location": str(client.certificate),
        "ssl_key_location": str(client.key),
        "ssl_key_password": PASSWORD,
    }


def test_the_brokers_certificate_and_name_are_checked(files: dict[str, str]) -> None:
    """With or without a file of authorities, no certificate is trusted unchecked."""
    for given in (files, {}):
        context = tls_context(Settings(security_protocol="SSL", **given))
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ssl_key_password": f"not-{PASSWORD}"}, "ssl_key_password"),
        ({"ssl_key_password": ""}, "ssl_key_password"),
        ({"ssl_key_location": "nowhere.pem"}, "ssl_key_location=nowhere.pem"),
        ({"ssl_certificate_location": "nowhere.pem"}, "ssl_certificate_location=nowhere.pem"),
        ({"ssl_ca_location": "nowhere.pem"}, "ssl_ca_location=nowhere.pem"),
        ({"ssl_ca_location": __file__}, "ssl_ca_location="),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    files: dict[str, str], changed: dict[str, str], named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error has the setting and not the password; nothing asks the terminal."""
    with pytest.raises(SettingsError, match=named) as caught:
        tls_context(Settings(security_protocol="SSL", **files | changed))
    assert PASSWORD not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_key_of_another_certificate_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    """A pair that does not belong together fails at start, not at the first handshake."""
    other = Authority(tmp_path / "authority").issue("other")
    with pytest.raises(SettingsError, match="ssl_key_location"):
        tls_context(
            Settings(security_protocol="SSL", **files | {"ssl_key_location": str(other.key), "ssl_key_password": ""})
        )
