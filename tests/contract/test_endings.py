"""How sessions end: far-side deaths, cut links, closing, dying and forking clients.  Quick, by name, nothing left."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import socket
import subprocess
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest
from support.middle import Middle
from support.processes import GONE, exists, wait_until_gone

from easycluster import (
    CallTimeout,
    Client,
    ConnectionClosed,
    ConnectionLost,
    SessionError,
    StaleProxy,
    ThreadedClient,
    WorkerDied,
    define_common,
)
from easycluster.client.died import Died

DEFINITIONS = "contract_endings"
DEFINITIONS_FILE = f"easycluster.remote_code {DEFINITIONS}"

CODE = """
import ctypes, os, signal, subprocess, sys, threading, time

class Thing(ServerObject):
    def get(self):
        return 1

running = threading.Event()

def sleep(seconds=30):
    running.set()
    time.sleep(seconds)

def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)

def segfault():
    ctypes.string_at(0)

def segfault_among(count):
    '''Crash while other threads are deep in a recursion: where all of them are is more than a pipe takes.'''
    ready = threading.Semaphore(0)

    def dive(depth):
        if depth:
            return dive(depth - 1)
        ready.release()
        time.sleep(60)

    for _ in range(count):
        threading.Thread(target=dive, args=(90,), daemon=True).start()
        ready.acquire()
    segfault()

def crash_in_a_child():
    pid = os.fork()
    if not pid:
        segfault()
    return os.WTERMSIG(os.waitpid(pid, 0)[1])

def say_and_exit(text, code):
    print(text, file=sys.stderr)
    os._exit(code)

def start_children():
    '''Start a child, a child in a session of its own, and a daemon; return their process ids.'''
    child = subprocess.Popen(["sleep", "61"])
    leader = subprocess.Popen(["sleep", "62"], start_new_session=True)
    made = subprocess.run(
        ["sh", "-c", "setsid sleep 63 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, check=True
    )
    return [child.pid, leader.pid, int(made.stdout)]
"""

define_common(CODE, DEFINITIONS)


class Waiting:
    """A thread that makes a call and keeps what it raised."""

    def __init__(self, call, *args, **kwargs):
        self.error = None
        self.took = 0.0
        self._thread = threading.Thread(target=self._run, args=(call, args, kwargs))
        self._thread.start()

    def _run(self, call, args, kwargs):
        begin = time.monotonic()
        try:
            call(*args, **kwargs)
        except OSError as exc:
            self.error = exc
        self.took = time.monotonic() - begin

    def join(self):
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.error


def sleeping(client, count=1):
    """Return threads that wait for calls of a client; all of them run on the far side or queue there."""
    client.running.clear()
    threads = [Waiting(client.sleep, threadid=number) for number in range(count)]
    assert client.running.wait(5, threadid=999)
    return threads


# Over the relay these are the same as over ssh.
without_relay = pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)


# The worker dies ---------------------------------------------------------------------------------

DEATHS = [
    ("killed", "kill_myself", (), "was killed by SIGKILL", signal.SIGKILL, None),
    ("segfault", "os.abort", (), "was killed by SIGABRT", signal.SIGABRT, None),
    ("segfault", "segfault", (), "was killed by SIGSEGV", signal.SIGSEGV, None),
    ("os-exit", "os._exit", (3,), "ended with exit code 3", None, 3),
]


@pytest.mark.fault("killed", "segfault", "os-exit")
def test_the_death_of_a_worker_ends_its_call(connect, outcome):
    client = connect()
    for row, function, args, reason, number, code in DEATHS:
        pid = client.os.getpid()
        with outcome.of(row).raises(WorkerDied) as caught:
            client.call(function, *args)
        assert wait_until_gone([pid]) == []
        outcome.of(row).cleaned("worker")
        error = caught.value
        assert (error.host, error.call, error.reason) == (client.peername, f"{function}()", f"the worker {reason}")
        assert (error.signal, error.exit_code) == (number, code)
        assert re.match(
            rf"{re.escape(client.peername)}: the worker {reason} "
            rf"\(during {re.escape(function)}\(\), 0\.\d s into it\)",
            str(error),
        )
        assert ("in segfault\n" in error.stack) == (function == "segfault")
        assert "easycluster" not in error.stack.replace(DEFINITIONS_FILE, "") + error.last_output
        client.reconnect()


@without_relay
def test_a_crash_among_many_deep_threads_is_told_like_any_other(connect):
    client = connect()
    with pytest.raises(WorkerDied, match=r"killed by SIGSEGV") as caught:
        client.segfault_among(40)
    crashed, *others = caught.value.stack.split("\n\n")
    assert re.findall(r"in (\w+)$", crashed, re.MULTILINE)[-2:] == ["segfault", "segfault_among"]
    assert others
    assert re.search(r"in dive\n  \(and \d\d more like this\)\n?$", others[0])


@without_relay
def test_a_child_that_crashes_says_so_on_standard_error(connect):
    client = connect()
    said = []
    client.on_output = lambda stream, text: said.append((stream, text))
    assert client.crash_in_a_child() == signal.SIGSEGV
    client.flush_output()
    text = "".join(text for stream, text in said if stream == "stderr")
    assert text.startswith("Fatal Python error: Segmentation fault")


@pytest.mark.fault("killed")
def test_every_pending_call_hears_of_the_death(connect, outcome):
    client = connect()
    heard = []
    pid = client.os.getpid()
    threads = sleeping(client, 3)
    response = client.sleep(nonblocking=True, threadid=3)
    client.sleep(oncomplete=heard.append, threadid=4)
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    errors = [thread.join() for thread in threads]
    with outcome.raises(WorkerDied, since=begin) as caught:
        response.wait()
    outcome.cleaned("every pending call told")
    for error in (*errors, caught.value):
        assert type(error) is WorkerDied
        assert error.call == "sleep()"
        assert error.reason == "the worker was killed by SIGKILL"
    assert response.have_response
    # The completion function was called by the wait() above.
    assert [type(error.orig) for error in heard] == [WorkerDied]


@without_relay
def test_a_threaded_client_tells_completion_functions_of_the_death(connect):
    client = connect(ThreadedClient)
    heard, told = [], threading.Event()
    client.sleep(oncomplete=print, onerror=lambda error: (heard.append(error), told.set()))
    os.kill(client.os.getpid(threadid=1), signal.SIGKILL)
    assert told.wait(5)
    assert isinstance(heard[0].orig, WorkerDied)


@without_relay
def test_the_error_has_the_last_words(connect):
    client = connect()
    client.on_output = lambda stream, text: None
    with pytest.raises(WorkerDied) as caught:
        client.say_and_exit("out of cheese", 4)
    assert caught.value.last_output == "out of cheese\n"
    assert str(caught.value).endswith("\nlast output:\nout of cheese")


@without_relay
def test_calls_after_the_death_say_what_happened(connect):
    client = connect()
    with pytest.raises(WorkerDied):
        client.kill_myself()
    assert not client.connected
    with pytest.raises(WorkerDied) as caught:
        client.sleep(0)
    assert str(caught.value) == f"{client.peername}: the worker was killed by SIGKILL; reconnect() starts anew"


@without_relay
def test_reconnect_after_the_death_starts_anew(connect):
    client = connect()
    thing, pid = client.Thing(), client.os.getpid()
    client.execblock("mark = 1")
    with pytest.raises(WorkerDied):
        client.kill_myself()
    client.reconnect()
    assert client.connected
    assert client.os.getpid() != pid
    assert client.Thing().get() == 1
    with pytest.raises(AttributeError):
        client.mark.value  # noqa: B018
    with pytest.raises(StaleProxy):
        thing.get()


@without_relay
@pytest.mark.fault("killed")
def test_what_the_worker_started_dies_with_it(connect, outcome):
    client = connect()
    children = client.start_children()
    assert all(map(exists, children))
    with outcome.raises(WorkerDied):
        client.kill_myself()
    assert wait_until_gone(children) == []
    outcome.cleaned("what it had started, daemons too")


def test_a_response_of_the_dead_worker_keeps_its_error_after_reconnect(connect):
    client = connect()
    response = client.sleep(nonblocking=True)
    with pytest.raises(WorkerDied):
        client.kill_myself(threadid=1)
    client.reconnect()
    with pytest.raises(WorkerDied, match=r"was killed by SIGKILL \(during sleep\(\)"):
        response.wait()


# Closing -----------------------------------------------------------------------------------------


def test_close_ends_the_calls_of_other_threads(connect):
    client = connect()
    threads = sleeping(client, 3)
    response = client.sleep(nonblocking=True, threadid=3)
    begin = time.monotonic()
    client.close()
    errors = [thread.join() for thread in threads]
    with pytest.raises(ConnectionClosed) as caught:
        response.wait()
    assert time.monotonic() - begin < GONE
    for error in (*errors, caught.value):
        assert type(error) is ConnectionClosed
        assert (error.host, error.call, error.reason) == (client.peername, "sleep()", "the connection was closed")


@without_relay
def test_close_leaves_no_process(connect):
    client = connect()
    pids = [client.os.getpid(), client.os.getppid(), *client.start_children()]
    client.sleep(nonblocking=True)
    client.close()
    assert wait_until_gone(pids) == []


def test_close_leaves_no_descriptor_and_no_file(connect):
    connect()
    before = descriptors()
    client = connect()
    client.fileno()
    client.sleep(0, nonblocking=True).wait()
    folders = [folder for folder in folders_of(client) if folder.exists()]
    client.close()
    end = time.monotonic() + GONE
    # The TCP server of these tests is in this process, and gives its own back a moment later.
    while time.monotonic() < end and (descriptors() != before or any(folder.exists() for folder in folders)):
        time.sleep(0.01)
    assert descriptors() == before
    assert [folder for folder in folders if folder.exists()] == []


@without_relay
def test_closing_twice_is_closing(connect):
    client = connect()
    client.close()
    client.close()
    with pytest.raises(ConnectionClosed) as caught:
        client.sleep(0)
    assert str(caught.value) == f"{client.peername}: the connection was closed"


def test_a_closed_client_is_closed_even_if_its_worker_dies_of_it(connect):
    client = connect()
    client.close()
    # The far side may report this just before its goodbye.
    dead = {"signal": signal.SIGKILL, "exit_code": None, "killed": False, "last_output": "", "stack": ""}
    client._endpoint.control.died = Died(dead)
    with pytest.raises(ConnectionClosed, match=r"the connection was closed$"):
        client.sleep(0)


@pytest.mark.parametrize("transport", ["spawned"], indirect=True)
def test_close_does_not_wait_to_learn_why_the_far_side_ended(connect, monkeypatch):
    client = connect()
    gateway = client._endpoint._carrier._gateway
    # As if the end of the channel were seen before the close that causes it, which happens in one of a hundred.
    monkeypatch.setattr(gateway, "_why", lambda _timeout: type(gateway)._why(gateway, 30))
    gateway._end_seen(lambda _reason: None)
    reporter = gateway._reporter
    client.close()
    assert not reporter.is_alive()


@without_relay
def test_a_closed_client_can_reconnect(connect):
    client = connect()
    client.close()
    client.reconnect()
    assert client.Thing().get() == 1


@without_relay
def test_reconnect_while_connected_is_a_fresh_start(connect):
    client = connect()
    pid = client.os.getpid()
    client.reconnect()
    assert client.os.getpid() != pid
    assert wait_until_gone([pid]) == []


@without_relay
def test_a_client_closes_with_its_block(connect):
    with connect() as client:
        assert client.connected
    assert not client.connected


def collect(known):
    """Collect a client; a thread of its own may hold it for a moment."""
    end = time.monotonic() + GONE
    while known() is not None and time.monotonic() < end:
        gc.collect()


@pytest.mark.parametrize("clientclass", [Client, ThreadedClient])
def test_a_client_that_is_dropped_is_closed_with_a_warning(transport, clientclass):
    client = transport.open(clientclass, definitions=DEFINITIONS)
    pids = [client.os.getpid(), client.os.getppid(), *client.start_children()]
    thing, label, known = client.Thing(), client.peername, weakref.ref(client)
    client.sleep(0, nonblocking=True).add_done_callback(lambda _response: None)
    del client
    gc.collect()
    # A proxy is a reference to its client.
    assert thing.get() == 1
    del thing
    with pytest.warns(ResourceWarning, match=f"^unclosed client of {re.escape(label)}: close"):
        collect(known)
    assert known() is None
    assert wait_until_gone(pids, 5) == []


@pytest.mark.parametrize("transport", ["tcp"], indirect=True)
def test_a_client_that_was_closed_is_dropped_quietly(transport):
    client = transport.open(Client, definitions=DEFINITIONS)
    client.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = weakref.ref(client)
        del client
        gc.collect()
    assert known() is None


@pytest.mark.parametrize("transport", ["spawned"], indirect=True)
def test_clients_may_be_dropped_in_any_thread_and_at_the_end_of_the_interpreter(run_client):
    process = run_client(
        """
        import gc
        def drop():
            spawn_local().close()
            clients = [spawn_local() for _ in range(2)]
            print(*(dropped.os.getpid() for dropped in clients), flush=True)
        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
        gc.collect()
        sys.stdin.read()
        last = spawn_local()
        last.me = last
        """
    )
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    assert wait_until_gone(pids, 5) == []
    out, err = process.communicate(timeout=15)
    assert (out, err, process.returncode) == ("", "", 0)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def folders_of(client):
    """Return the private folders of both ends of a gateway."""
    endpoint = client._endpoint
    if not hasattr(endpoint._carrier, "_gateway"):
        return []
    near = endpoint._carrier._gateway._way.process.folder
    return [*([near] if near is not None else []), Path(endpoint.control.hello["path"]).parent]


# The link is cut ---------------------------------------------------------------------------------


def cut(transport, client):
    """Cut the link as the network or a dying ssh would."""
    if transport.name == "tcp":
        for fd in (client._session.stream.fileno(), client._endpoint.control.port.fileno()):
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)
    else:
        os.killpg(client._endpoint._carrier._gateway.local_pid, signal.SIGKILL)


@pytest.mark.fault("cut")
def test_a_cut_link_ends_every_call(transport, connect, outcome):
    client = connect()
    pids = [client.os.getpid(), client.os.getppid(), *client.start_children()]
    threads = sleeping(client, 2)
    begin = time.monotonic()
    cut(transport, client)
    for thread in threads:
        error = thread.join()
        outcome.saw(type(error).__name__, time.monotonic() - begin)
        assert (error.host, error.call) == (client.peername, "sleep()")
    with pytest.raises(ConnectionLost, match=r"; reconnect\(\) starts anew$"):
        client.sleep(0)
    assert wait_until_gone(pids) == []
    outcome.cleaned("every far-side process and what it started")


def test_a_killed_keeper_ends_every_call(connect):
    client = connect()
    pids = [client.os.getpid(), *client.start_children()]
    threads = sleeping(client, 2)
    assert client._endpoint.control.wait_for(lambda: client._endpoint.control.hello is not None, 5)
    os.kill(client._endpoint.control.hello["keeper"], signal.SIGKILL)
    for thread in threads:
        assert type(thread.join()) is ConnectionLost
    assert wait_until_gone(pids) == []


@pytest.mark.fault("stopped-far-side")
@without_relay
def test_a_far_side_that_falls_silent_is_lost(connect, outcome):
    client = connect(heartbeat=0.2, lost_after=1.0)
    pids = [client.os.getpid(), client.os.getppid(), *client.start_children()]
    (thread,) = sleeping(client)
    assert client._endpoint.control.wait_for(lambda: client._endpoint.control.hello is not None, 5)
    keeper = client._endpoint.control.hello["keeper"]
    begin = time.monotonic()
    os.kill(keeper, signal.SIGSTOP)
    try:
        error = thread.join()
        outcome.saw(type(error).__name__, time.monotonic() - begin)
        assert error.reason.startswith("no heartbeat for 1 s")
    finally:
        with contextlib.suppress(ProcessLookupError):  # on this machine it is killed as it is
            os.kill(keeper, signal.SIGCONT)
    assert wait_until_gone([keeper, *pids]) == []
    outcome.cleaned("near side; far side once it goes on")


@pytest.mark.fault("stopped-worker")
@without_relay
def test_a_stopped_worker_is_no_lost_host(connect, outcome):
    client = connect(heartbeat=0.2, lost_after=1.0)
    pid = client.os.getpid()
    os.kill(pid, signal.SIGSTOP)
    response = client.Thing(nonblocking=True)
    client._endpoint.cancel_grace = 0.2
    # Longer than the far side may be silent; its keeper is not.
    with outcome.raises(CallTimeout, since=time.monotonic() + 1.2):
        client.raw_call("sleep", (0,), timeout=1.2)
    assert client.os.getpid() != pid
    assert wait_until_gone([pid]) == []
    outcome.cleaned("worker killed and replaced")
    with pytest.raises(SessionError):
        response.wait()


@pytest.mark.parametrize("transport", ["tcp"], indirect=True)
def test_a_partition_is_noticed_on_both_sides(transport):
    with (
        Middle(transport.server.port) as middle,
        Client(transport.key, "127.0.0.1", middle.port, DEFINITIONS, heartbeat=0.2, lost_after=1.0) as client,
    ):
        pids = [client.os.getpid(), client.os.getppid(), *client.start_children()]
        threads = sleeping(client, 2)
        middle.fall_silent()
        for thread in threads:
            error = thread.join()
            assert type(error) is ConnectionLost
            assert error.reason == "no heartbeat for 1 s"
            assert thread.took < 4
        assert wait_until_gone(pids, 3) == []


@pytest.mark.fault("reboot")
@without_relay
def test_reconnect_after_the_link_was_cut(transport, connect, outcome):
    client = connect()
    thing = client.Thing()
    cut(transport, client)
    with outcome.raises(ConnectionLost):
        client.sleep(3)
    client.reconnect()
    assert client.Thing().get() == 1
    with pytest.raises(StaleProxy):
        thing.get()
    outcome.cleaned("old proxies are stale; no call is repeated unasked")


# The client's process ----------------------------------------------------------------------------


# The process tells who is on the far side, and has a call running there.
BUSY = """
print(client.os.getpid(), client.os.getppid(), *client.start_children(), flush=True)
threading.Thread(target=client.sleep, daemon=True).start()
client.running.wait(5, threadid=9)
print("busy", flush=True)
"""


def far_side_of(process):
    pids = [int(word) for word in process.stdout.readline().split()]
    assert process.stdout.readline() == "busy\n"
    assert len(pids) == 5
    assert all(map(exists, pids))
    return pids


@without_relay
def test_the_far_side_ends_when_the_client_is_killed(run_client):
    process = run_client(BUSY + "time.sleep(60)")
    pids = far_side_of(process)
    process.kill()
    assert wait_until_gone(pids) == []


@pytest.mark.parametrize(
    ("transport", "last_words", "code", "error"),
    [
        ("tcp", "", 0, ""),
        ("spawned", "", 0, ""),
        ("ssh", "", 0, ""),
        ("spawned", "sys.exit(5)", 5, ""),
        ("spawned", "os._exit(6)", 6, ""),
        ("tcp", "raise LookupError('the end')", 1, "LookupError: the end\n"),
        ("ssh", "os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
    ],
    indirect=["transport"],
)
@pytest.mark.fault("interpreter-exit")
def test_the_far_side_ends_when_the_client_does(run_client, last_words, code, error, outcome):
    # It ends when its input does, and not while we still look at what is there.
    process = run_client(f"{BUSY}sys.stdin.read()\n{last_words}", stdin=subprocess.PIPE)
    pids = far_side_of(process)
    with outcome.works():
        _, written = process.communicate(timeout=20)
    assert (process.returncode, written[-len(error) :] if error else written) == (code, error)
    assert wait_until_gone(pids) == []
    outcome.cleaned("every far-side process")


@without_relay
def test_an_interpreter_with_live_sessions_ends_without_noise(run_client):
    process = run_client(
        """
        thing = client.Thing()
        generator = client.eval("(number for number in range(10))")
        next(generator)
        responses = [client.sleep(1, nonblocking=True) for _ in range(3)]
        threaded = spawn_local(ThreadedClient)
        threaded.sleep(30, oncomplete=print)
        threading.Thread(target=client.sleep, args=(30,), daemon=True).start()
        print(client.fileno() > 0)
        """
    )
    out, err = process.communicate(timeout=15)
    assert (out, err, process.returncode) == ("True\n", "", 0)


@pytest.mark.fault("fork")
@without_relay
def test_a_child_of_a_fork_cannot_use_the_client_and_the_parent_can(run_client, outcome):
    process = run_client(
        """
        import gc, traceback, warnings
        # Python 3.12 warns of any fork in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        thing = client.Thing()
        response = client.sleep(0.5, nonblocking=True)
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                begin = time.monotonic()
                try:
                    client.sleep(0)
                except ForkedClientError as exc:
                    print(exc, time.monotonic() - begin, sep="|", flush=True)
                try:
                    thing.get()
                except (ForkedClientError, StaleProxy) as exc:
                    print(type(exc).__name__, flush=True)
                try:
                    response.wait()
                except ForkedClientError as exc:
                    print(type(exc).__name__, flush=True)
                client.close()
                del thing, response
                gc.collect()
                with spawn_local() as own:
                    print(own.Thing().get(), flush=True)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                # First as multiprocessing does, then as a script.
                os._exit(code)
        print("child", os.waitpid(pid, 0)[1], flush=True)
        print(response.wait(), thing.get(), client.Thing().get(), [client.eval(str(n)) for n in range(3)], flush=True)
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        print(client.Thing().get())
        """
    )
    out, err = process.communicate(timeout=20)
    lines = out.splitlines()
    assert err == ""
    said, _, seconds = lines[0].partition("|")
    assert said.endswith("this client was connected by the parent of this process; connect another one here")
    outcome.saw("ForkedClientError", float(seconds))
    assert lines[1] in ("ForkedClientError", "StaleProxy")
    assert lines[2:] == ["ForkedClientError", "1", "child 0", "None 1 1 [0, 1, 2]", "1"]
    assert process.returncode == 0
    outcome.cleaned("the child goes and its parent's session stays")


# Both sides at once ------------------------------------------------------------------------------


def test_both_sides_can_send_much_at_once(client):
    size = 32 << 20  # more than any buffer or window on the way
    data = os.urandom(1 << 20) * 32
    client.execblock("def swap(data): return bytes(reversed(data[:1000])) + data[1000:]")
    begin = time.monotonic()
    # The second call's data is on its way while the first one's answer comes.
    responses = [client.swap(data, nonblocking=True), client.swap(data, nonblocking=True, threadid=1)]
    for response in responses:
        answer = response.wait()
        assert len(answer) == size
        assert answer[1000:] == data[1000:]
    assert time.monotonic() - begin < 30


def test_an_ended_session_keeps_nothing_of_those_who_called(connect):
    """The errors that a client keeps, to raise them again, have no traceback: its frames would hold what they saw."""

    class Seen:
        pass

    client = connect()
    kept = []

    def call(number):
        seen = Seen()
        kept.append(weakref.ref(seen))
        with pytest.raises(SessionError):
            client.sleep(threadid=number)

    client.running.clear()
    waiting = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in waiting:
        thread.start()
    assert client.running.wait(5, threadid=999)
    os.kill(client._endpoint.control.worker_pid, signal.SIGKILL)
    for thread in waiting:
        thread.join(10)
    call(0)
    call(1)
    gc.collect()
    assert len(kept) == 5
    assert [seen() for seen in kept if seen() is not None] == []
