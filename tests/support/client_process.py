"""Clients in processes of their own: those that are killed, fork, or run out of something."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

__all__ = ["run_client"]


@pytest.fixture
def run_client(request, transport, tmp_path):
    """Start a Python that has ``client``, a session over the transport, and ``another()`` for more; return the process.

    ``CODE`` of the test module are its definitions.
    """
    opener = {
        "tcp": lambda: f"return Client(bytes.fromhex({transport.key.hex()!r}), '127.0.0.1', {transport.server.port})",
        "spawned": lambda: "return spawn_local()",
        "ssh": lambda: (
            f"return Client(host={transport.sshd.host!r}, ssh=True, extra_args={transport.sshd.extra_args!r})"
        ),
        "relay": lambda: RELAY.format(
            host=transport.sshd.host, user=getpass.getuser(), extra_args=transport.sshd.extra_args
        ),
    }[transport.name]()
    started = []

    def run(code, stdin=subprocess.DEVNULL):
        script = tmp_path / f"client{len(started)}.py"
        script.write_text(
            "import os, signal, sys, threading, time\n"
            "from easycluster import *\nfrom easycluster.server import spawn_local\n"
            f"define_common({getattr(request.module, 'CODE', '')!r})\n"
            f"def another():\n{textwrap.indent(opener, '    ')}\nclient = another()\n{textwrap.dedent(code)}"
        )
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


RELAY = """
from easycluster.transport.carriers import GatewayCarrier
from easycluster.transport.gateway import GatewayTarget
target = GatewayTarget(kind="ssh", host={host!r}, user={user!r}, extra_args={extra_args!r})
client = Client()
client._connect_by(lambda _label: GatewayCarrier(target, use_pipes=False), "relay")
return client
"""
