"""How clients connect: specs, keys, options, compression, addresses; what they say of themselves."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import threading
import time

import pytest
from support.middle import Middle
from support.transports import SOON

from easycluster import (
    VERSION,
    AuthenticationError,
    Client,
    ConnectError,
    Connection,
    ConnectionClosed,
    HostNotFound,
    SpecError,
    ThreadedClient,
    define_common,
    generate_key,
    parse_connection_spec,
    write_key_file,
)
from easycluster.server import Server

DEFINITIONS = "contract_connections"

define_common(
    """
    import contextlib, os, sys, threading

    def same(value):
        return value

    def open_files():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink("/proc/self/fd/" + fd))
        return found
    """,
    DEFINITIONS,
)

tcp_only = pytest.mark.parametrize("transport", ["tcp"], indirect=True)
ssh_only = pytest.mark.parametrize("transport", ["ssh"], indirect=True)


# What a client says of itself --------------------------------------------------------------------


def test_a_connected_client_says_so(client):
    assert isinstance(client, Connection)
    assert client.connected
    assert client.ready()
    client.wait_ready()
    assert repr(client) == f"<Client {client.peername}, connected>"
    assert client.fileno() >= 0
    assert client.write_fileno() >= 0


def test_a_client_knows_the_far_sides_versions(client):
    assert client.server_version == VERSION
    assert client.server_python == tuple(sys.version_info[:3])


@tcp_only
def test_the_address_is_told_over_tcp(client, transport):
    port = transport.server.port
    assert (client.peername, client.remote_host, client.remote_port) == (f"127.0.0.1:{port}", "127.0.0.1", port)


def test_a_client_that_never_connected_says_so():
    client = Client()
    assert not client.connected
    assert not client.ready()
    assert repr(client) == "<Client ?, not connected>"
    for use in (client.fileno, client.write_fileno, client.wait_ready, client.read_response, client.os.getpid):
        with pytest.raises(ConnectionClosed, match=r"^not connected; call connect\(\) first$"):
            use()
    with pytest.raises(ValueError, match=r"cannot reconnect before the first connection: call connect\(\) first"):
        client.reconnect()
    client.close()


def test_a_client_cannot_be_pickled_or_sent(client):
    with pytest.raises(TypeError, match="a connection belongs to its process"):
        client.same(client)


# Far sides are apart -----------------------------------------------------------------------------


def test_every_connection_is_a_process_of_its_own(client, connect):
    other = connect()
    assert client.os.getpid() != other.os.getpid() != os.getpid()
    other.execblock("mark = 1")
    assert not client.eval("'mark' in globals()")


def test_the_far_side_has_a_clean_environment(client):
    assert client.eval("sys.argv") == [""]
    assert client.eval("'' not in sys.path")
    assert client.eval("'pytest' not in sys.modules")
    assert client.eval("threading.current_thread() is threading.main_thread()")
    assert client.eval("sorted(os.listdir('/proc/self/fd'), key=int)[:3]") == ["0", "1", "2"]


def test_the_far_side_inherits_no_descriptor_of_ours(connect, tmp_path):
    with open(tmp_path / "open here", "w", encoding="ascii") as ours:
        os.set_inheritable(ours.fileno(), True)
        with connect() as client:
            assert str(tmp_path / "open here") not in client.open_files()


@pytest.mark.parametrize("transport", ["tcp", "spawned"], indirect=True)
def test_many_connect_at_once(connect):
    clients, errors = [], []

    def dial():
        try:
            clients.append(connect())
        except ConnectError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=dial) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len({client.os.getpid() for client in clients}) == 12


# Compression -------------------------------------------------------------------------------------


def test_values_cross_a_compressed_link(connect):
    client = connect(enable_compression=True)
    for value in ("x" * 1_000_000, os.urandom(200_000), list(range(10_000)), b"", "short"):
        assert client.same(value) == value


@tcp_only
def test_compression_saves_bytes(transport):
    text = "the same again and again " * 2000
    sent = []
    for compress in (False, True):
        with (
            Middle(transport.server.port) as middle,
            Client(transport.key, "127.0.0.1", middle.port, DEFINITIONS, enable_compression=compress) as client,
        ):
            before = middle.sent
            assert client.same(text) == text
            sent.append(middle.sent - before)
    assert sent[0] > len(text)
    assert sent[1] < len(text) / 10


# Specs -------------------------------------------------------------------------------------------


@tcp_only
def test_a_spec_connects_with_a_key_file(transport, tmp_path):
    key_file = tmp_path / "key"
    write_key_file(key_file, transport.key)
    spec = f"127.0.0.1:{transport.server.port}:kf={key_file}"
    with Client.from_spec(spec) as client, ThreadedClient.from_spec(spec) as threaded:
        assert type(client) is Client
        assert client.eval("1 + 1") == threaded.eval("1 + 1") == 2


@tcp_only
def test_a_spec_has_defaults_for_port_and_key(transport):
    with Client.from_spec("127.0.0.1", transport.server.port, transport.key) as client:
        assert client.eval("1 + 1") == 2


@tcp_only
def test_a_parsed_spec_is_what_client_takes(transport, capsys):
    spec = f"127.0.0.1:{transport.server.port}:key={transport.key.hex()}:compress=1"
    with Client(**parse_connection_spec(spec)) as client:
        assert client.eval("1 + 1") == 2
    assert "SECURITY WARNING" in capsys.readouterr().err


@ssh_only
def test_a_spec_connects_over_ssh(transport):
    extra = shlex.join(transport.sshd.extra_args).replace(":", r"\:")
    with Client.from_spec(f"{transport.sshd.host}:ssh=yes:extra={extra}") as client:
        assert client.eval("1 + 1") == 2


def test_a_wrong_spec_is_refused_before_anything_is_dialled():
    with pytest.raises(SpecError):
        Client.from_spec("host:nonsense=1")


# Over TCP ----------------------------------------------------------------------------------------


@tcp_only
def test_another_key_is_refused(transport):
    with pytest.raises(AuthenticationError, match="has another key than ours"):
        Client(generate_key(), "127.0.0.1", transport.server.port)


@tcp_only
def test_a_port_without_a_server_is_named(transport):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectError, match=rf"^127\.0\.0\.1:{port}: connection refused; is 'easycluster -S' running"):
        Client(transport.key, "127.0.0.1", port)


@tcp_only
def test_a_server_that_says_nothing_is_given_up(transport):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no EasyCluster server answered within 0\.3 s"):
            Client(transport.key, "127.0.0.1", port, connect_timeout=0.3)
        assert time.monotonic() - begin < SOON / 2


@tcp_only
def test_a_host_without_an_address_is_named(transport):
    with pytest.raises(HostNotFound, match=r"does-not-exist\.invalid"):
        Client(transport.key, "does-not-exist.invalid", 11999)


def test_without_a_key_and_without_ssh_nothing_is_dialled():
    with pytest.raises(ValueError, match="a key is needed without ssh"):
        Client(host="127.0.0.1", ssh=False)


@tcp_only
def test_an_open_socket_can_be_used(transport):
    client = Client(transport.key)
    client.set_socket(socket.create_connection(("127.0.0.1", transport.server.port)), "by socket")
    with client:
        assert client.peername == "by socket"
        assert client.eval("1 + 1") == 2


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
@pytest.mark.parametrize("spec", ["[::1]:{port}", "[0:0:0:0:0:0:0:1]:{port}"])
def test_ipv6_addresses_connect(spec):
    key = generate_key()
    with Server(0, key, bind="::1") as server:
        server.start()
        with Client.from_spec(spec.format(port=server.port), default_key=key) as client:
            assert client.eval("1 + 1") == 2
            assert client.peername.startswith("[")
        with Client(key, "::1", server.port) as client:
            assert client.peername == f"[::1]:{server.port}"


def test_a_server_that_stops_ends_its_sessions():
    key = generate_key()
    with Server(0, key, bind="127.0.0.1") as server:
        server.start()
        client = Client(key, "127.0.0.1", server.port)

    def call_until_it_ends():
        end = time.monotonic() + SOON
        while time.monotonic() < end:  # its keeper hears of it and ends it
            client.os.getpid()

    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        call_until_it_ends()
    client.close()


@tcp_only
def test_reconnect_finds_the_server_again(connect):
    client = connect()
    client.close()
    client.reconnect()
    assert client.same(1) == 1


# Connecting again --------------------------------------------------------------------------------


def test_a_failed_connection_leaves_the_client_usable(transport, client, connect):
    other = connect()
    with pytest.raises(ConnectError):
        other.connect("127.0.0.1", 1, ssh="/does/not/exist")
    assert not other.connected
    with pytest.raises(ConnectionClosed):
        other.same(1)


def test_definitions_that_fail_on_the_far_side_fail_the_connection(transport):
    define_common(
        "import sys\nif not hasattr(sys, 'no such thing'): raise LookupError('at definition')",
        "broken_there",
        local=False,
    )
    with pytest.raises(LookupError, match="at definition"):
        transport.open(Client, definitions="broken_there")
