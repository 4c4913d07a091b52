"""What far-side code can do to the worker that runs it: it dies, hangs, or runs out of memory."""

from __future__ import annotations

import signal
import time

import pytest
from support.processes import wait_until_gone

from easycluster import CallTimeout, ConnectionLost, WorkerDied, define_common

from .outcome import LONG

DEFINITIONS = "faults_workers"

define_common(
    """
    import ctypes, resource, threading

    def overflow_the_c_stack():
        # glibc parses each bracket in four functions, one inside the other.
        room = ctypes.create_string_buffer(4096)
        ctypes.CDLL(None).regcomp(room, b"(" * 1_000_000, 1)

    class Crossing:
        '''Two threads that take the same two locks, each in the other's order.'''
        def __init__(self):
            self.locks = threading.Lock(), threading.Lock()
            self.both = threading.Barrier(2)

        def enter(self, first):
            with self.locks[first]:
                self.both.wait()
                with self.locks[1 - first]:
                    return "through"

    def new_crossing():
        global crossing
        crossing = Crossing()

    def enter(first):
        return crossing.enter(first)

    def hold_the_interpreter(seconds):
        # Through PyDLL the interpreter's lock is kept.
        ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
        return "held"

    def limit_memory(more):
        '''Allow this process so many bytes beyond what it has now.'''
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def lift_the_limit():
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def fill():
        held = []
        while True:
            held.append("x" * 100_000 + str(len(held)))

    def make(size):
        return bytes(size)

    def size_of(data):
        return len(data)
    """,
    DEFINITIONS,
)

# As much as a far side may be silent, a third of what the interpreter is held for.
SILENT = 1.0
HELD = 20.0 if LONG else 3.0

# What a call gets to obey, instead of 2 s.
GRACE = 0.4

MIB = 1 << 20


@pytest.fixture
def client(client):
    """The session of the module, quick to give up a call that does not stop."""
    client._endpoint.cancel_grace = GRACE
    return client


# Dying -------------------------------------------------------------------------------------------


@pytest.mark.fault("c-stack")
def test_an_overflow_of_the_c_stack_is_the_death_of_the_worker(connect, outcome):
    client = connect()
    pid = client.os.getpid()
    with outcome.raises(WorkerDied) as caught:
        client.overflow_the_c_stack()
    assert caught.value.signal == signal.SIGSEGV
    assert wait_until_gone([pid]) == []
    outcome.cleaned("worker")


# Hanging -----------------------------------------------------------------------------------------


@pytest.mark.fault("deadlock")
def test_a_deadlock_with_the_main_thread_is_resolved_at_its_deadline(client, outcome):
    pid = client.os.getpid()
    client.new_crossing()
    other = client.enter(1, nonblocking=True, threadid=1)
    with outcome.raises(CallTimeout, since=time.monotonic() + 0.2) as caught:
        client.raw_call("enter", (0,), timeout=0.2)
    assert "in enter\n" in caught.value.stack
    assert other.wait(timeout=5) == "through"
    assert client.os.getpid() == pid
    outcome.cleaned("the interrupted thread gives its locks back")


@pytest.mark.fault("deadlock")
def test_a_deadlock_of_other_threads_ends_with_their_worker(connect, outcome):
    client = connect()
    client._endpoint.cancel_grace = GRACE
    pid = client.os.getpid()
    client.new_crossing()
    other = client.enter(1, nonblocking=True, threadid=1)
    with outcome.raises(CallTimeout, since=time.monotonic() + 0.2) as caught:
        client.raw_call("enter", (0,), timeout=0.2, threadid=2)
    assert caught.value.worker_replaced
    # Where both were, in one text.
    assert caught.value.stack.count("in enter\n") == 4
    with pytest.raises(WorkerDied):
        other.wait()
    assert client.os.getpid() != pid
    assert wait_until_gone([pid]) == []
    outcome.cleaned("worker replaced, where no thread can be interrupted")


@pytest.mark.fault("gil")
def test_a_worker_that_holds_the_interpreter_is_no_lost_host(connect, outcome):
    client = connect(heartbeat=SILENT / 4, lost_after=SILENT)
    begin = time.monotonic()
    response = client.hold_the_interpreter(HELD, nonblocking=True)
    try:
        assert response.wait() == "held"
    except ConnectionLost:
        outcome.saw("ConnectionLost")
    assert time.monotonic() - begin >= HELD
    outcome.saw()
    outcome.lives(client)


# Memory ------------------------------------------------------------------------------------------


@pytest.fixture
def starved(client):
    """The session, with a worker that may have 64 MiB more than it has."""
    client.limit_memory(64 * MIB)
    yield client
    client.lift_the_limit()


@pytest.mark.fault("memory")
@pytest.mark.parametrize(("function", "args"), [("bytearray", (512 * MIB,)), ("fill", ())])
def test_a_call_that_wants_too_much_memory_is_a_memory_error(starved, function, args, outcome):
    with outcome.raises(MemoryError):
        starved.call(function, *args, origexc="quiet")
    outcome.lives(starved)


@pytest.mark.fault("memory")
def test_a_result_for_which_there_is_no_memory_is_a_memory_error(starved, outcome):
    with outcome.raises(MemoryError):
        starved.eval("'x' * (60 << 20)", origexc="quiet")
    outcome.lives(starved)


@pytest.mark.fault("memory-argument")
def test_an_argument_for_which_there_is_no_memory_ends_the_worker_and_says_why(connect, outcome):
    client = connect()
    client.limit_memory(64 * MIB)
    pid = client.os.getpid()
    with outcome.raises(WorkerDied, match=r"there is no memory for a frame of \d+ bytes"):
        client.size_of(bytes(256 * MIB))
    assert wait_until_gone([pid]) == []
    client.reconnect()
    assert client.size_of(bytes(256)) == 256
    outcome.cleaned("worker; reconnect() starts anew")
