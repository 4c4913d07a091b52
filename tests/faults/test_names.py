"""Names and addresses that are unusual, and those that are none."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import pytest

from easycluster import Client, HostNotFound, generate_key
from easycluster.server import Server

# The longest that there may be, in parts of at most 63 bytes; then what can be no name at all.
NAMES = {
    "253": ".".join(["a" * 49] * 5) + ".in",
    "part-of-64": "a" * 64 + ".invalid",
    "300": "x" * 300,
    "umlaut": "b\u00fcro.invalid",
    "katakana": "\u4f8b\u3048.\u30c6\u30b9\u30c8",
    "long-umlauts": "\u00fc" * 70,
    "empty-part": "a..b",
}


@pytest.mark.fault("names")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("transport", ["tcp", "ssh"], indirect=True)
def test_a_name_that_leads_nowhere_is_named(transport, name, outcome):
    with outcome.raises(HostNotFound) as caught:
        if transport.name == "tcp":
            Client(generate_key(), name, 11999)
        else:
            Client(host=name, ssh=True, connect_timeout=20)
    assert caught.value.host == name
    assert str(caught.value).startswith(name)


def link_local():
    """Return an address of this machine that needs a scope id, with it; "" if there is none."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return ""
    for address, _index, _prefix, scope, _flags, name in map(str.split, lines):
        if scope == "20" and name == "eth0":
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))}%{name}"
    return ""


@pytest.mark.fault("ipv6", transport="tcp")
@pytest.mark.parametrize("kind", ["loopback", "scope"])
def test_addresses_of_ip_version_6_connect(kind, outcome):
    address = "::1" if kind == "loopback" else link_local()
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(socket.getaddrinfo(address, 0, socket.AF_INET6)[0][4])
    except OSError:
        address = ""
    if not address:
        outcome.does_not_apply("no such address here")
    key = generate_key()
    with Server(0, key, bind=address) as server:
        server.start()
        with outcome.works(), Client.from_spec(f"[{address}]:{server.port}", default_key=key) as client:
            assert client.eval("1 + 1") == 2


@pytest.mark.fault("extra")
@pytest.mark.parametrize("transport", ["ssh"], indirect=True)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_spec_says_user_address_and_arguments_of_ssh(transport, host, outcome, sshd_factory):
    sshd = transport.sshd
    if host == "[::1]":
        try:
            sshd = sshd_factory(host="::1")
        except OSError:
            outcome.does_not_apply("no IPv6 here")
    extra = " ".join(sshd.extra_args).replace(":", r"\:")
    spec = f"{getpass.getuser()}@{host}:{sshd.port}:extra={extra}"
    with Client.from_spec(spec) as client:
        assert client.eval("1 + 1") == 2
    outcome.saw()
