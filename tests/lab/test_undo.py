"""What is registered before a change is done after it: by whatever is left, last in first out, then the locks go."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.transports import client, connect, shared_client, tcp_server, transport

from easycluster import define_common
from easycluster.errors import SerializationError, WorkerDied
from easycluster.remote import run, undo
from easycluster.server import spawn_local

__all__ = ["client", "connect", "shared_client", "tcp_server", "transport"]

SOON = 20.0

DEFINITIONS = "undo_definitions"
CODE = """
import easycluster, os, signal, time

def note(path, text):
    with open(path, "a") as file:
        file.write(text)

def change(path):
    easycluster.undo(note, path, "e")
    easycluster.undo(["sh", "-c", "printf d >> " + path])
    easycluster.undo("printf >>" + path, "c")

def fail(text):
    raise ValueError(text)

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def in_a_child():
    pid = os.fork()
    if pid == 0:
        try:
            easycluster.undo("true")
        except RuntimeError:
            os._exit(3)
        os._exit(0)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])

def template():
    return os.getppid()
"""
define_common(CODE, DEFINITIONS, local=False)


@pytest.fixture
def notes(tmp_path):
    """A file that undo writes to."""
    path = tmp_path / "notes"
    path.write_text("")
    return path


@pytest.fixture
def local():
    with spawn_local(definitions=DEFINITIONS) as client:
        yield client


def eventually(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def end_of_lease(client):
    return client._ask_keeper({"op": "undo", "level": 0}, 60.0)["failures"]


def test_everything_is_undone_when_a_session_ends_over_every_transport(connect, notes):
    client = connect()
    path = str(notes)
    undo(client, client.note, path, "f")
    client.change(path)
    undo(client, lambda where, text: Path(where).write_text(Path(where).read_text() + text), path, text="b")
    undo(client, "printf a >>", path)

    client.close()

    eventually(lambda: notes.read_text() == "abcdef")


def test_nothing_is_undone_before_the_end(local, notes):
    undo(local, "printf x >>", notes)
    local.note(str(notes), "1")

    assert notes.read_text() == "1"
    assert end_of_lease(local) == []
    assert notes.read_text() == "1x"
    local.close()
    assert notes.read_text() == "1x"


def test_an_inner_lease_undoes_what_is_its_own(local, notes):
    undo(local, "printf o >>", notes)
    level = local._ask_keeper({"op": "begin"})["level"]
    undo(local, "printf i >>", notes)

    local._ask_keeper({"op": "undo", "level": level})

    assert notes.read_text() == "i"


def test_a_crash_of_the_worker_loses_nothing(local, notes):
    undo(local, local.note, str(notes), "undone")
    with pytest.raises(WorkerDied):
        local.crash()

    assert end_of_lease(local) == []
    assert notes.read_text() == "undone"


def test_a_killed_keeper_loses_nothing(local, notes):
    undo(local, "printf undone >>", notes)

    os.kill(local._endpoint.control.hello["keeper"], signal.SIGKILL)

    eventually(lambda: notes.read_text() == "undone")


def test_an_undo_sees_the_definitions_of_its_time(local, notes):
    define_common("def late(path): note(path, 'late')", DEFINITIONS, local=False)
    local.update_definitions()
    undo(local, local.late, str(notes))
    local.reconnect()

    assert end_of_lease(local) == []
    assert notes.read_text() == "late"


def test_failures_are_told_with_what_was_printed_and_the_rest_is_undone(local, notes):
    undo(local, "printf last >>", notes)
    undo(local, "echo was here; exit 3")
    undo(local, local.fail, "no good")
    undo(local, "kill -9 $$")

    killed, failed, ended = end_of_lease(local)

    assert (ended["what"], ended["error"], ended["output"]) == (
        "echo was here; exit 3",
        "ended with exit code 3",
        "was here\n",
    )
    assert (failed["what"], failed["error"]) == ("fail()", "ValueError: no good")
    assert "raise ValueError(text)\n" in failed["output"]
    assert killed["error"] == "was killed by signal 9"
    assert notes.read_text() == "last"


def test_an_undo_that_takes_too_long_is_killed_with_what_it_started(local, notes):
    undo(local, "printf last >>", notes)
    undo(local, f"sleep 88 & echo $! > {notes}.pid; wait", timeout=0.5)

    (failure,) = end_of_lease(local)

    assert failure["error"] == "did not finish within 0.5 s"
    pid = Path(f"{notes}.pid").read_text().strip()
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert notes.read_text() == "last"


def test_what_cannot_be_undone_any_more_is_logged_on_the_host(local, tmp_path):
    directory = tmp_path / "locks"
    local._ask_keeper({"op": "take", "directory": str(directory), "wanted": [], "info": {"label": "test_x"}})
    undo(local, "exit 4")

    local.close()

    eventually((directory / "undo.log").exists)
    assert "undo of test_x: exit 4 ended with exit code 4\n" in (directory / "undo.log").read_text()


def test_a_misprint_is_an_error_at_once(local):
    with pytest.raises(AttributeError, match="notte"):
        undo(local, local.notte, "x")


def test_what_cannot_be_kept_is_an_error_at_once(local):
    local.execblock("import threading; lock = threading.Lock()")

    with pytest.raises(SerializationError):
        local.execblock("easycluster.undo(note, lock)")
    assert end_of_lease(local) == []


def test_only_the_worker_itself_may_register(local):
    assert local.in_a_child() == 3


def test_undo_may_go_on_when_everybody_has_left(local, notes):
    undo(local, "sleep 0.5; printf slow >>", notes)
    template = local.template()

    local.close()

    eventually(lambda: not Path(f"/proc/{template}").exists())
    assert notes.read_text() == "slow"


def test_a_busy_worker_does_not_keep_the_end_of_a_lease_waiting(local, notes):
    undo(local, "printf undone >>", notes)
    waiting = local.time.sleep(60, nonblocking=True)

    assert end_of_lease(local) == []
    assert notes.read_text() == "undone"
    waiting.cancel()


def test_commands_have_what_the_session_has(local, notes):
    here = run(local, "pwd").stdout
    undo(local, f"pwd >> {notes}")

    assert end_of_lease(local) == []
    assert notes.read_text() == here
