"""Attacks are done on a real server process, over real sockets."""

from __future__ import annotations

import contextlib
import sys

import pytest
from attacks.middle import ManInTheMiddle
from attacks.servers import KEY, ServerProcess

from easycluster import Client

collect_ignore_glob = [] if sys.platform.startswith("linux") else ["test_*.py"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for everything that must not harm it."""
    with contextlib.closing(ServerProcess(tmp_path_factory.mktemp("server"), "-v")) as server:
        yield server


@pytest.fixture
def start_server(tmp_path):
    """Start servers of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(*words, **options):
            folder = tmp_path / f"server{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(contextlib.closing(ServerProcess(folder, *words, **options)))

        yield start


@pytest.fixture
def middle(server):
    """A man in the middle before the server; set its ``attack``."""
    with ManInTheMiddle(server.port) as middle:
        yield middle


@pytest.fixture
def connect():
    """Connect a real client to a port."""
    with contextlib.ExitStack() as stack:

        def connect_one(port, key=KEY, **options):
            client = Client(key, "127.0.0.1", port, **options)
            stack.callback(client.close)
            return client

        yield connect_one
