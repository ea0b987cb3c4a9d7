"""Credentials of this process for the clients that do not read librdkafka's settings."""

from __future__ import annotations

import ssl
from typing import Any

from streams.errors import SettingsError
from streams.settings import Settings


def aiokafka_security(settings: Settings) -> dict[str, Any]:
    """Return the arguments of an aiokafka client for the security settings.

    Raises:
        SettingsError: a file cannot be read, or holds no certificate or key.
    """
    security: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.endswith("SSL"):
        security["ssl_context"] = tls_context(settings)
    if settings.security_protocol.startswith("SASL"):
        security |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password,
        }
    return security


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return a context that checks the broker's certificate and host name, and presents ours if one is set.

    Raises:
        SettingsError: a file cannot be read, or holds no certificate or key.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_location or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # some distributions' Python takes the system's minimum
    except OSError as exc:  # SSLError among them
        raise SettingsError(
            f"ssl_ca_location={settings.ssl_ca_location}: expected certificates as PEM text, got: {exc}; correct the path"
        ) from exc
    if settings.ssl_certificate_location:
        try:
            context.load_cert_chain(
                settings.ssl_certificate_location,
                settings.ssl_key_location,
                settings.ssl_key_password,  # empty, not None: with None OpenSSL asks the terminal
            )
        except OSError as exc:
            raise SettingsError(
                f"ssl_certificate_location={settings.ssl_certificate_location}, "
                f"ssl_key_location={settings.ssl_key_location}: expected a certificate and its key as PEM text, and "
                f"ssl_key_password where the key has one, got: {exc}; correct the paths or the password"
            ) from exc
    return context
