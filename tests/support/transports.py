"""The transports that every contract test runs over, and the sessions that tests share.

A test module says which definitions its sessions have::

    DEFINITIONS = "contract_calls"
    define_common(CODE, DEFINITIONS)

``client`` is one session for the module; ``connect`` makes more, with options, and closes them after
the test; ``threaded`` is a ThreadedClient of the test's own.
"""

from __future__ import annotations

import contextlib
import getpass
from typing import Any

import pytest

from easycluster import Client, ThreadedClient, generate_key
from easycluster.definitions import DEFAULT_MODULE
from easycluster.server import Server, spawn_local
from easycluster.transport.carriers import GatewayCarrier
from easycluster.transport.gateway import GatewayTarget

__all__ = ["TRANSPORTS", "client", "connect", "shared_client", "tcp_server", "threaded", "transport"]

# How long anything that must happen may take, in seconds.
SOON = 10.0


@pytest.fixture(scope="session")
def tcp_server():
    """A server in a thread of this process, and its key."""
    key = generate_key()
    with Server(0, key, bind="127.0.0.1") as server:
        server.start()
        yield server, key


class Tcp:
    """Our own server, one HMAC per record."""

    name = "tcp"

    def __init__(self, request):
        self.server, self.key = request.getfixturevalue("tcp_server")

    def open(self, clientclass, **options):
        return clientclass(self.key, "127.0.0.1", self.server.port, **options)


class Spawned:
    """A Python on this machine, data on pipes."""

    name = "spawned"

    def __init__(self, request):
        pass

    def open(self, clientclass, **options):
        return spawn_local(clientclass, **options)


class Ssh:
    """A private sshd, data on the pipes of a second ssh session."""

    name = "ssh"

    def __init__(self, request):
        self.sshd = request.getfixturevalue("sshd")

    def open(self, clientclass, python=None, **options):
        return clientclass(host=self.sshd.host, ssh=True, rpython=python, extra_args=self.sshd.extra_args, **options)


class Relay(Ssh):
    """The same sshd, data inside the control link: what is left where a second session is not allowed."""

    name = "relay"

    def open(self, clientclass, python=None, **options):
        client = clientclass(**options)
        target = GatewayTarget(
            kind="ssh",
            host=self.sshd.host,
            user=getpass.getuser(),
            pythons=(python,) if python else (),
            extra_args=self.sshd.extra_args,
        )
        client._connect_by(lambda _label: GatewayCarrier(target, use_pipes=False), f"{self.sshd.host}:relay")
        return client


TRANSPORTS = {kind.name: kind for kind in (Tcp, Spawned, Ssh, Relay)}


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request):
    """One of the transports; ``transport.name`` tells which."""
    return TRANSPORTS[request.param](request)


@pytest.fixture(scope="module")
def shared_client(request, transport):
    """The session that the tests of a module share; tests take ``client``."""
    client = transport.open(Client, definitions=_definitions(request))
    with contextlib.closing(client):
        yield client


@pytest.fixture
def client(shared_client) -> Any:
    """A session over the transport; a new worker if the test before ended its own."""
    if not shared_client.connected:
        shared_client.reconnect()
    return shared_client


@pytest.fixture
def connect(request, transport):
    """Connect over the transport: ``connect(clientclass=Client, **options)``; closed after the test.

    Args:
        request: Of pytest.
        transport: How.

    Returns:
        A function that takes the options of Client, and ``python``, the far side's own.
    """
    with contextlib.ExitStack() as stack:

        def connect_one(clientclass=Client, **options):
            options.setdefault("definitions", _definitions(request))
            client = transport.open(clientclass, **options)
            stack.callback(client.close)
            return client

        yield connect_one


@pytest.fixture
def threaded(connect) -> Any:
    """A ThreadedClient of the test's own."""
    return connect(ThreadedClient)


def _definitions(request):
    return getattr(request.module, "DEFINITIONS", DEFAULT_MODULE)
