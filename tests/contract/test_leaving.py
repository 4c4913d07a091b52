"""A worker whose session ends leaves in order: what runs may clean up, and its exit functions run."""

from __future__ import annotations

import threading
import time

import pytest

from easycluster import SessionError, define_common

DEFINITIONS = "contract_leaving"

define_common(
    """
    import atexit
    import pathlib
    import time

    def note_at_exit(path):
        atexit.register(pathlib.Path(path).write_text, "ended")

    def wait_and_clean_up(path):
        try:
            print("waiting")
            time.sleep(60)
        finally:
            pathlib.Path(path).write_text("cleaned up")

    def hold_on():
        while True:
            try:
                print("waiting")
                time.sleep(60)
            except BaseException:
                pass
    """,
    DEFINITIONS,
)

# How long anything that must happen may take, in seconds.
SOON = 10.0


@pytest.fixture
def start(connect):
    """Connect, and make a call in a thread that runs once ``start`` returns."""
    threads = []

    def start_one(name, *args):
        client, running = connect(), threading.Event()
        client.on_output = lambda _stream, _text: running.set()

        def call():
            with pytest.raises(SessionError):
                client.call(name, *args)

        threads.append(threading.Thread(target=call))
        threads[-1].start()
        assert running.wait(SOON)
        return client

    yield start_one
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()


@pytest.mark.parametrize("end", ["close", "reconnect"])
def test_exit_functions_run_when_the_session_ends(connect, tmp_path, end):
    client = connect()
    client.note_at_exit(str(tmp_path / "note"))
    getattr(client, end)()
    assert (tmp_path / "note").read_text() == "ended"


def test_a_call_that_runs_when_the_session_is_closed_cleans_up(start, tmp_path):
    client = start("wait_and_clean_up", str(tmp_path / "note"))
    client.note_at_exit(str(tmp_path / "end"), threadid=1)
    client.close()
    assert (tmp_path / "note").read_text() == "cleaned up"
    assert (tmp_path / "end").read_text() == "ended"


def test_a_call_that_does_not_let_go_is_ended_all_the_same(start):
    client = start("hold_on")
    begin = time.monotonic()
    client.close()
    assert time.monotonic() - begin < 3
