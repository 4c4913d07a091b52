"""A script of the classic interface runs unchanged on every transport."""

from __future__ import annotations

import argparse
import optparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import easycluster
from easycluster import Client, KeyFileError, ThreadedClient

SCRIPT = Path(__file__).with_name("classic_script.py")

# How long the script, or the start of a server, may take, in seconds.
SOON = 60.0

# What the script prints on every transport.
EXPECTED = """\
reported: ['ValueError: foo']
call: 7 11 3
raw call: 11 5
module: a/b 0
eval: 4 5
imported: ('[1]', '0123456789', 2)
global: {'level': 3} False
here: 3 8
by value: True 42
not imported: True
other module: classic_defs True
original: foo True
remote: ValueError ValueError: foo True
quiet: foo
objects: 100 101 [100, 101] 201
repr: True
attributes: True
deleted: False 150
same proxy: True True
listed: 200 200 'dynamic_proxy_getval_set_val_val' object has no attribute 'non_existant_method'
proxy class: True 300 ('local', 300)
cached: 400 None 400
default proxy: 501 501 TestObject5 static
iterator: [2, 1, 0]
array: False 4 [1, 2, 3, 4] [1, 2, 3, 4]
made: 16 8
singleton: [3, 4, 3, 4]
generator: [1, 2, 3] 1
file: foo bar
nonblocking: 13 32 True
nonblocking error: foo
call_multi: [5, 5]
eval_multi: [42, 42]
execblock_multi: [2, 2]
call_method_multi: [7, 7]
oncomplete: [2, (4, 'tag'), 'RemoteException', 'ValueError: foo']
group: [1, 0]
threads: [2, 4, 6]
thread names: True 3 MainThread
single: [0.4, 0.4, 0.4] True
default thread: True
connection: True True True None
stale: None
again: 3 3
threaded: [(1, 700, 700), (2, 900, 900)] 2 MainThread
reaped: True
completed by itself: True
closed: False
disconnected: 1 True False
done
"""


@pytest.fixture
def server(tmp_path):
    """An ``easycluster`` server as the page starts it: key file and port."""
    key_file = tmp_path / "secret.key"
    subprocess.run([sys.executable, "-m", "easycluster", "-g", str(key_file)], check=True, timeout=SOON)
    words = ["-S", "-k", str(key_file), "-p", "0", "-b", "127.0.0.1", "-c", "QuietServer"]
    with subprocess.Popen([sys.executable, "-m", "easycluster", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield key_file, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()


def run_script(*words):
    """Run the script; return the lines it printed itself, without those of the far sides."""
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=SOON, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return "".join(line for line in done.stdout.splitlines(True) if not line.startswith("["))


def test_the_script_runs_against_a_server_with_a_key_file(server):
    key_file, port = server
    spec = f"127.0.0.1:{port}"
    assert run_script("-k", str(key_file), spec, f"{spec}:compress=1") == "from spec: 42 True\n" + EXPECTED


def test_the_script_runs_with_key_files_in_its_specs(server):
    key_file, port = server
    assert run_script(f"127.0.0.1:{port}:kf={key_file}") == "from spec: 42 True\n" + EXPECTED


def test_the_script_runs_over_ssh(sshd):
    spec = f"{sshd.user}@{sshd.host}:{sshd.port}:extra=-F {sshd.config_path}"
    assert run_script(spec) == "from spec: 42 True\n" + EXPECTED


def test_the_script_runs_on_local_far_sides():
    assert run_script("--local") == EXPECTED


# The parts of the command line ---------------------------------------------------------------------


@pytest.fixture(params=[optparse.OptionParser, argparse.ArgumentParser])
def parse(request):
    """Parse words with the key options, in both modules; return key and other words."""
    parser = request.param()
    easycluster.add_key_options(parser)
    if request.param is argparse.ArgumentParser:
        parser.add_argument("rest", nargs="*")

    def parse_words(*words):
        parsed = parser.parse_args(list(words))
        opts, rest = parsed if isinstance(parsed, tuple) else (parsed, parsed.rest)
        return easycluster.key_from_options(opts), rest

    return parse_words


@pytest.mark.parametrize("option", ["-k", "--keyfile"])
def test_a_key_file_is_taken_from_the_options(parse, tmp_path, option):
    key = easycluster.generate_key()
    easycluster.write_key_file(str(tmp_path / "lab.key"), key)
    assert parse(option, str(tmp_path / "lab.key"), "host1") == (key, ["host1"])


@pytest.mark.parametrize("option", ["-K", "--key"])
def test_a_key_is_taken_from_the_options_with_a_warning(parse, capsys, option):
    key = easycluster.generate_key()
    assert parse(option, key.hex()) == (key, [])
    assert capsys.readouterr().err.startswith("SECURITY WARNING: ")


def test_without_an_option_the_key_is_empty(parse):
    assert parse("host1", "host2") == (b"", ["host1", "host2"])


def test_a_key_file_of_the_options_that_is_missing_is_named(parse, tmp_path):
    with pytest.raises((KeyFileError, OSError), match=r"missing\.key"):
        parse("-k", str(tmp_path / "missing.key"))


@pytest.mark.parametrize("clientclass", [Client, ThreadedClient])
def test_from_spec_connects_with_the_key_file_of_the_spec(server, clientclass):
    key_file, port = server
    with clientclass.from_spec(f"127.0.0.1:{port}:keyfile={key_file}") as client:
        assert client.eval("6 * 7") == 42
        assert (client.remote_host, client.remote_port, client.peername) == ("127.0.0.1", port, f"127.0.0.1:{port}")


def test_from_spec_takes_a_default_key_and_port(server):
    key_file, port = server
    key = easycluster.read_key_file(str(key_file))
    with Client.from_spec("127.0.0.1", default_port=port, default_key=key) as client:
        assert client.eval("6 * 7") == 42


def test_a_key_in_a_spec_warns_unless_told_otherwise(server, capsys):
    key_file, port = server
    spec = f"127.0.0.1:{port}:key={easycluster.read_key_file(str(key_file)).hex()}"
    with Client.from_spec(spec, warn=False):
        assert capsys.readouterr().err == ""
    with Client.from_spec(spec):
        assert capsys.readouterr().err.startswith("SECURITY WARNING: ")


def test_the_arguments_of_a_client_may_come_by_position(server):
    key_file, port = server
    with Client(easycluster.read_key_file(str(key_file)), "127.0.0.1", port) as client:
        assert client.os.getpid() != os.getpid()
