"""A server with a profile: what each session's calls cost."""

from __future__ import annotations

import pstats
import subprocess
import sys

import pytest

from easycluster import Client, define_common, generate_key
from easycluster.server import Server

DEFINITIONS = "server_profile"

define_common(
    """
    def slow_sum(stop):
        return sum(one(number) for number in range(stop))

    def one(number):
        return number
    """,
    DEFINITIONS,
)


@pytest.fixture
def server(tmp_path):
    key = generate_key()
    with Server(0, key, bind="127.0.0.1", profile=str(tmp_path / "profile")) as server:
        server.start()
        yield server, key


def test_each_session_writes_a_profile_of_its_calls(server, tmp_path):
    server, key = server
    pids = []
    for _ in range(2):
        with Client(key, "127.0.0.1", server.port, definitions=DEFINITIONS) as client:
            client.slow_sum(1000)
            pids.append(client.os.getpid())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"profile.{pid}" for pid in pids)
    stats = pstats.Stats(str(tmp_path / f"profile.{pids[0]}")).stats
    calls = {name: count for (_file, _line, name), (count, *_times) in stats.items()}
    assert (calls["slow_sum"], calls["one"]) == (1, 1000)


def test_a_profile_that_cannot_be_written_is_said_and_harms_nothing(tmp_path):
    key, lines = generate_key(), []
    with Server(0, key, bind="127.0.0.1", profile=str(tmp_path / "missing" / "profile")) as server:
        server.start()
        client = Client(key, "127.0.0.1", server.port)
        client.on_output = lambda _stream, text: lines.append(text)
        assert client.eval("1 + 1") == 2
        client.close()
    assert "easycluster: the profile cannot be written: " in "".join(lines)


def test_the_command_takes_the_file_of_the_profile():
    done = subprocess.run([sys.executable, "-m", "easycluster", "--help"], capture_output=True, text=True, check=True)
    assert "--profile FILE" in done.stdout
