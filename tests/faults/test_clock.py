"""The wall clock jumps: nothing that waits looks at it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import easycluster
import pytest_easycluster

# Put into every process of both sides, before anything else: a clock that is an hour ahead, then behind, then ahead.
JUMPING = """
import itertools, time
_real, _jumps = time.time, itertools.cycle([3600.0, -3600.0, 86400.0])
time.time = lambda: _real() + next(_jumps)
time.time_ns = lambda: int(time.time() * 1e9)
"""

CLIENT = """
import os, sys, time
from easycluster import *
import easycluster
from easycluster.server import Server, spawn_local

assert abs(time.time() - time.time()) > 1000
DEFINITIONS = '''
import threading, time
def jumps():
    return abs(time.time() - time.time()) > 1000
def wait(seconds):
    return threading.Event().wait(seconds)
'''
define_common(DEFINITIONS)
options = dict(heartbeat=0.1, lost_after=0.5)
def use(client):
    with client:
        assert client.jumps()
        time.sleep(1.2)
        begin = time.monotonic()
        try:
            client.raw_call("wait", (30,), timeout=0.3)
        except CallTimeout:
            pass
        else:
            raise AssertionError("no deadline")
        assert 0.3 <= time.monotonic() - begin < 5
        assert client.wait(0.6) is False
        assert client.wait(0.1, nonblocking=True).wait(timeout=5) is False
        assert client.jumps()
"""

OPENERS = {
    "spawned": "use(spawn_local(ThreadedClient, **options)); use(spawn_local(**options))",
    # The server's sessions get a clean environment; here the jumping clock has to come through.
    "tcp": """
from easycluster.transport import sessions
sessions._KEPT = (*sessions._KEPT, "PYTHONPATH")
key = generate_key()
with Server(0, key, bind="127.0.0.1") as server:
    server.start()
    use(Client(key, "127.0.0.1", server.port, **options))
""",
    "ssh": "use(Client(host={host!r}, ssh=True, extra_args={extra_args!r}, rpython={python!r}, **options))",
}


@pytest.mark.fault("clock")
@pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)
def test_nobody_minds_a_clock_that_jumps(transport, tmp_path, outcome):
    folder = tmp_path / "site"
    folder.mkdir()
    # Python imports this at its start; over ssh a script stands in for Python, because sshd passes no environment on.
    (folder / "sitecustomize.py").write_text(JUMPING)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    sshd = getattr(transport, "sshd", None)
    opener = OPENERS[transport.name]
    if sshd is not None:
        opener = opener.format(host=sshd.host, extra_args=sshd.extra_args, python=str(python))
    script = tmp_path / "client.py"
    script.write_text(CLIENT + textwrap.dedent(opener))
    root = str(Path(easycluster.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{root}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcome.saw()
    outcome.cleaned("session lives")


# Where a date is shown or written, and nothing waits for it.
DATES = {"time.time", "time.ctime", "time.localtime", "time.gmtime", "time.strftime", "datetime.now", "datetime.utcnow"}
# Reservations end at a time of day: they outlive the process that made them, and a reboot.
# So do the notes that a reboot leaves.  What hosts make of the time is compared with this machine's.
SHOWN = {
    *("transport/audit.py", "far/holdings.py", "far/locks.py", "far/journal.py", "far/recovery.py"),
    "far/reservations.py",
    *("lab/away.py", "lab/doctor.py", "lab/holders.py", "lab/occupancy.py", "lab/power.py", "lab/reboot.py"),
    *("lab/reserving.py", "devices/iscsi/connection.py"),
    # Timelines, records and evidence say when something was; barriers and moments are agreed by the clocks of hosts.
    *("client/observers.py", "far/meeting.py", "lab/clocks.py", "lab/evidence.py", "lab/green.py", "lab/recorder.py"),
    *("lab/recording.py", "lab/sampler.py", "lab/watch.py", "evidence.py", "reporting/recorder.py"),
}


def wall_clocks(path):
    """Return where a module looks at the wall clock."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if any(name == date or name.endswith(f".{date}") for date in DATES):
                found.append(f"{path}:{node.lineno}: {name}")
    return found


def test_only_dates_that_are_shown_come_from_the_wall_clock():
    found = []
    for package in (easycluster, pytest_easycluster):
        base = Path(package.__file__).parent
        for path in sorted(base.rglob("*.py")):
            if path.relative_to(base).as_posix() not in SHOWN:
                found += wall_clocks(path)
    assert found == []


def test_a_wall_clock_would_be_found(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import time\nend = time.time() + 5\n")
    assert len(wall_clocks(path)) == 1
