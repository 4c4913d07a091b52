"""The service under a real systemd: it starts, comes back, speaks to the journal, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from support.boot import PYTHON, Machine, why_no_machine

WHY_NOT = why_no_machine()
pytestmark = [pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)), pytest.mark.timeout(180)]

KEYS = "/etc/easycluster/keys"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine on which the service was installed and started by our own command."""
    folder = tmp_path_factory.mktemp("boot") / "files"
    folder.mkdir()
    with contextlib.closing(Machine(folder)) as machine:
        machine.said = command(machine, "-i", "-b", "127.0.0.1", "-v", "--audit", "-", "--start")
        yield machine


def command(machine, *words):
    return machine.run(PYTHON, "-m", "easycluster", *words).stdout


def show(machine, name):
    return machine.run("systemctl", "show", "--value", "-p", name, "easycluster").stdout.strip()


def session(machine, expression, key="lab", check=True):
    """Return what an expression is in a session of the service."""
    program = (
        "import json, sys, easycluster; "
        f"client = easycluster.Client(easycluster.read_key_file('/root/{key}.key'), '127.0.0.1'); "
        "print(json.dumps(client.eval(sys.argv[1])))"
    )
    # The client has a copy of its own, as on another machine.
    machine.run("install", "-m", "600", f"{KEYS}/{key}.key", f"/root/{key}.key")
    done = machine.run(PYTHON, "-c", program, expression, check=check)
    return json.loads(done.stdout)


def test_install_says_what_it_has_done(machine):
    assert "runs as: easycluster (a new user), and so does the code of whoever holds a key\n" in machine.said
    assert machine.said.endswith("started; its messages: journalctl -u easycluster\n")


def test_it_runs_as_its_own_user_and_so_do_sessions(machine):
    assert show(machine, "ActiveState") == "active"
    user = machine.run("id", "-u", "easycluster").stdout.strip()
    pid = show(machine, "MainPID")
    assert machine.run("stat", "-c", "%u", f"/proc/{pid}").stdout.strip() == user
    assert session(machine, "__import__('os').getuid()") == int(user)
    assert session(machine, "open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0]") == "1"
    assert session(machine, "open('/proc/self/status').read().split('CapBnd:')[1].split()[0]") == "0" * 16


def test_a_session_can_do_what_tests_do_and_not_more(machine):
    assert session(machine, "__import__('tempfile').mkdtemp()").startswith("/tmp/")
    assert session(machine, "open(__import__('os').path.expanduser('~') + '/x', 'w').write('x')") == 1
    assert session(machine, "__import__('subprocess').run(['true']).returncode") == 0
    # Devices are what hardware tests are for.
    assert session(machine, "open('/dev/zero', 'rb').read(1)[0] + len(open('/dev/null').read())") == 0
    for forbidden in (
        *("open('/etc/x', 'w')", "open('/usr/x', 'w')", "open('/var/lib/x', 'w')"),
        "__import__('os').listdir('/home')",
    ):
        with pytest.raises(AssertionError, match=r"PermissionError|Read-only file system"):
            session(machine, forbidden)


def test_the_journal_has_connections_and_the_audit_log(machine):
    session(machine, "1 + 1")
    machine.run("journalctl", "--sync")
    lines = machine.run("journalctl", "-u", "easycluster", "-o", "cat").stdout.splitlines()
    assert "listening on 127.0.0.1:11999" in lines
    assert any(line.startswith("127.0.0.1:") and line.endswith(": connected") for line in lines)
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(event["event"] == "call" and event["key"] == "lab" for event in events)
    tags = machine.run("journalctl", "-u", "easycluster", "-t", "easycluster", "-n", "1", "-o", "json").stdout
    assert json.loads(tags)["_SYSTEMD_UNIT"] == "easycluster.service"


def test_it_comes_back_after_sigkill_and_its_sessions_do_not_stay(machine):
    before = show(machine, "MainPID")
    left = session(machine, "__import__('subprocess').Popen(['sleep', '600']).pid")
    machine.run("kill", "-KILL", before)
    machine.wait(lambda: show(machine, "MainPID") not in ("0", before) and show(machine, "ActiveState") == "active")
    assert show(machine, "NRestarts") == "1"
    assert show(machine, "Result") == "success"
    machine.wait(lambda: machine.run("test", "-e", f"/proc/{left}", check=False).returncode)

    def works():
        with contextlib.suppress(AssertionError):
            return session(machine, "1 + 1") == 2

    machine.wait(works)


def test_a_key_that_root_makes_works_after_a_reload(machine):
    pid = show(machine, "MainPID")
    command(machine, "-g", f"{KEYS}/alice.key")
    machine.run("systemctl", "reload", "easycluster")

    def works():
        with contextlib.suppress(AssertionError):
            return session(machine, "1 + 1", "alice") == 2

    machine.wait(works)
    assert show(machine, "MainPID") == pid


def test_it_stops_cleanly_and_goes_when_uninstalled(machine):
    """The last of this file."""
    command(machine, "--stop")
    assert (show(machine, "ActiveState"), show(machine, "Result")) == ("inactive", "success")
    assert machine.run("pgrep", "-u", "easycluster", check=False).stdout == ""
    assert "removed" in command(machine, "-u")
    assert machine.run(PYTHON, "-m", "easycluster", "--query-installed", check=False).returncode == 1
    assert machine.run("ls", KEYS).stdout.split() == ["alice.key", "lab.key"]
    assert not os.path.exists(KEYS)  # of the machine that tests run on
