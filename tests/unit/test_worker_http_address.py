"""The address of the worker's pages: IPv4, IPv6, a name; in use, or not this machine's."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streams.errors import SettingsError
from streams.processes.identity import free_ports
from streams.settings import load_settings
from streams.worker.application import check_port, create_app

HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text() != ""
ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6 address")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", pytest.param("::1", marks=ipv6)])
def test_a_free_port_is_taken_under_every_kind_of_address(host: str) -> None:
    """Names count with all their addresses."""
    check_port(host, free_ports(1)[0])


@pytest.mark.parametrize(
    ("host", "family", "shown"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        pytest.param("::1", socket.AF_INET6, "[::1]", marks=ipv6),
    ],
)
def test_a_port_in_use_is_told_with_the_remedy(host: str, family: socket.AddressFamily, shown: str) -> None:
    """Two workers of one machine."""
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with pytest.raises(SettingsError) as refused:
            check_port(host, port)
    assert f"expected {shown}:{port} to be free" in str(refused.value)
    assert "STREAMS_WORKER_SLOT" in str(refused.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "[::1]", ""])
def test_a_host_that_is_not_this_machine_is_refused_by_its_setting(host: str) -> None:
    """The port is not to blame; a name in brackets is a URL's, and an empty one would mean all addresses."""
    with pytest.raises(SettingsError, match=r"http_host=.*expected an address of this machine"):
        check_port(host, free_ports(1)[0])


def test_the_applications_url_has_an_ipv6_address_in_brackets(tmp_path: Path) -> None:
    """Faust makes a URL of host and port as they are."""
    settings = load_settings(
        env={}, bootstrap_servers="127.0.0.1:1", state_dir=str(tmp_path), http_host="::1", http_port=6070
    )
    conf = create_app(settings).conf
    assert (str(conf.canonical_url), conf.web_bind) == ("http://[::1]:6070", "::1")
