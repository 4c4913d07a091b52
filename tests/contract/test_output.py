"""Output of the far side: labelled, in order, from wherever it comes, and never on the wire."""

from __future__ import annotations

import threading
import time

import pytest

from easycluster import CallTimeout, ThreadedClient, define_common

DEFINITIONS = "contract_output"

define_common(
    r"""
    import ctypes, multiprocessing, os, pty, subprocess, sys, threading, time

    def say(*words, stream="stdout", end="\n"):
        print(*words, file=getattr(sys, stream), end=end)
        return len(words)

    def write(fd, data):
        return os.write(fd, data)

    def puts(text):
        libc = ctypes.CDLL(None)
        libc.puts(text.encode())
        libc.fflush(None)

    def run(command):
        return subprocess.run(command, shell=True).returncode

    def many_lines(count):
        for number in range(count):
            print("line", number)
        return count

    def say_from_a_thread(text):
        thread = threading.Thread(target=print, args=(text,))
        thread.start()
        thread.join()

    def say_later(text):
        threading.Timer(0.1, print, [text]).start()

    def read_stdin():
        return sys.stdin.read(), sys.stdin.readline(), os.read(0, 100), subprocess.check_output("cat")

    def fail(text):
        print("before", text)
        raise ValueError(text)

    def say_and_sleep(text):
        print(text)
        time.sleep(30)

    def echo(way, text):
        '''Have a child print a line, and wait for it.'''
        words = ["/bin/echo", text]
        if way == "subprocess":
            subprocess.call(words)
        elif way == "os.system":
            os.system(" ".join(words))
        elif way == "os.posix_spawn":
            os.waitpid(os.posix_spawn(words[0], words, os.environ), 0)
        elif way == "os.fork":
            child = os.fork()
            if not child:
                os.write(1, text.encode() + b"\n")
                os._exit(0)
            os.waitpid(child, 0)
        elif way == "os.spawnv":
            os.spawnv(os.P_WAIT, words[0], words)
        elif way == "pty.fork":
            child, terminal = pty.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
            os.close(terminal)
            # What a child writes to its own terminal is its parent's to print.
            print(text)
        elif way == "multiprocessing":
            child = multiprocessing.get_context("fork").Process(target=os.write, args=(1, text.encode() + b"\n"))
            child.start()
            child.join()
        elif way == "sys.stdout.buffer":
            sys.stdout.buffer.write(text.encode() + b"\n")
            sys.stdout.buffer.flush()

    children = []

    def start_child(text):
        '''Start a child that prints a line once it may, and one that goes on.'''
        children.append(subprocess.Popen(["/bin/sh", "-c", f"read go; echo {text}"], stdin=subprocess.PIPE))

    def wait_for_child():
        child = children.pop()
        child.communicate(b"go\n")
        return child.returncode

    def add(a, b):
        return a + b

    events = []

    def note_events():
        sys.addaudithook(lambda event, args: events.append(event))

    def noted_events():
        return events

    def flood():
        while True:
            os.write(1, b"x" * 65536)
    """,
    DEFINITIONS,
)


class Received:
    """What ``on_output`` was given.

    Attributes:
        pieces: Stream and text, as they came.
    """

    def __init__(self):
        self.pieces = []

    def __call__(self, stream, text):
        self.pieces.append((stream, text))

    def __getitem__(self, wanted):
        return "".join(text for stream, text in self.pieces if stream == wanted)


@pytest.fixture
def output(client):
    """What the far side of ``client`` has written during this test."""
    assert client.flush_output()
    received = Received()
    before, client.on_output = client.on_output, received
    yield received
    client.flush_output()
    client.on_output = before


def test_what_a_call_prints_is_here_before_its_answer(client, output):
    for number in range(50):
        client.say("line", number)
        assert output["stdout"].splitlines()[-1] == f"line {number}"


def test_the_streams_are_told_apart(client, output):
    client.say("to", "stdout")
    client.say("to", "stderr", stream="stderr")
    assert (output["stdout"], output["stderr"]) == ("to stdout\n", "to stderr\n")


def test_what_is_printed_before_an_error_is_here_with_it(client, output):
    with pytest.raises(ValueError, match="broken"):
        client.fail("broken", origexc="quiet")
    assert output["stdout"] == "before broken\n"


def test_a_line_without_an_end_arrives(client, output):
    client.say("no newline", end="")
    assert output["stdout"] == "no newline"


def test_output_of_other_threads_of_the_far_side_arrives(client, output):
    client.say_from_a_thread("from a thread")
    assert output["stdout"] == "from a thread\n"
    client.say("in thread 5", threadid=5)
    assert output["stdout"] == "from a thread\nin thread 5\n"


def test_output_between_calls_arrives(client, output):
    client.say_later("later")
    end = time.monotonic() + 5
    while output["stdout"] != "later\n" and time.monotonic() < end:
        time.sleep(0.005)
    assert output["stdout"] == "later\n"


@pytest.mark.parametrize(
    ("function", "args", "stream", "text"),
    [
        ("write", (1, b"raw\n"), "stdout", "raw\n"),
        ("write", (2, b"raw\n"), "stderr", "raw\n"),
        ("puts", ("from C",), "stdout", "from C\n"),
        ("run", ("echo from a child",), "stdout", "from a child\n"),
        ("run", ("echo from a child >&2",), "stderr", "from a child\n"),
        ("os.system", ("echo from os.system",), "stdout", "from os.system\n"),
    ],
)
def test_output_of_c_code_and_children_is_here_after_a_flush(client, output, function, args, stream, text):
    client.call(function, *args)
    assert client.flush_output()
    assert output[stream] == text


# Over the relay these are the same as over ssh.
without_relay = pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)

ROUNDS = 30


@pytest.mark.parametrize(
    "way",
    [
        "subprocess",
        "os.system",
        "os.posix_spawn",
        "os.fork",
        "os.spawnv",
        "pty.fork",
        "multiprocessing",
        "sys.stdout.buffer",
    ],
)
def test_what_a_child_prints_is_here_before_the_answer(client, output, way):
    for number in range(ROUNDS):
        client.echo(way, f"line {number}")
        assert output["stdout"].endswith(f"line {number}\n")


def test_what_a_child_of_an_earlier_call_prints_is_here_once_it_was_waited_for(client, output):
    # One lives on, so that the end of the others is not the end of all.
    client.start_child("the last")
    for number in range(ROUNDS):
        client.start_child(f"line {number}")
        # They come between, and see nothing of it.
        assert client.eval("len(children)") == 2
        assert client.wait_for_child() == 0
        assert output["stdout"].endswith(f"line {number}\n")
    assert client.wait_for_child() == 0
    assert output["stdout"].endswith("the last\n")


def test_output_of_threads_that_answer_at_once_is_here_before_each_answer(client, output):
    late = []

    def call_on(thread):
        for number in range(ROUNDS):
            text = f"thread {thread} line {number}"
            client.say(text, threadid=thread)
            if f"{text}\n" not in output["stdout"]:
                late.append(text)

    threads = [threading.Thread(target=call_on, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert late == []


@without_relay
def test_a_plain_call_waits_for_no_output(connect):
    client = connect()
    client.echo("subprocess", "hello")
    client.say("no newline", end="")
    marks = client._endpoint.control._marks[0]
    assert marks > 0
    client.note_events()
    for _ in range(10):
        assert client.add(1, 2) == 3
    # Each event would call the hook by which children are noticed.
    assert client.noted_events() == []
    assert client._endpoint.control._marks[0] == marks


@without_relay
def test_a_child_that_runs_makes_no_call_wait(connect):
    client = connect()
    client.start_child("hello")
    marks = client._endpoint.control._marks[0]
    for _ in range(10):
        assert client.add(1, 2) == 3
    assert client._endpoint.control._marks[0] == marks
    assert client.wait_for_child() == 0
    assert client._endpoint.control._marks[0] == marks + 1


@pytest.mark.fault("output")
def test_output_never_gets_onto_the_wire(client, output, outcome):
    # Looks like frames of ours, and like execnet's.
    noise = bytes(range(256)) * 300
    with outcome.works():
        for fd in (1, 2):
            assert client.write(fd, noise[:60000]) > 0
        assert client.say("still here") == 1
    outcome.lives(client)


def test_characters_are_whole_although_their_bytes_come_apart(client, output):
    for byte in "ä€😀".encode():
        client.write(1, bytes([byte]))
        client.flush_output()
    assert output["stdout"] == "ä€😀"


def test_bytes_that_are_no_text_are_shown(client, output):
    client.write(1, b"\xff\xfe ok\n")
    client.flush_output()
    assert output["stdout"] == "\\xff\\xfe ok\n"


def test_200_000_lines_arrive_complete_and_in_order(client, output):
    assert client.many_lines(200_000) == 200_000
    assert output["stdout"] == "".join(f"line {number}\n" for number in range(200_000))


def test_stdin_is_at_its_end(client):
    assert client.read_stdin() == ("", "", b"", b"")


def test_lines_are_labelled_with_the_far_side(client, capfd):
    client.say("first\nsecond")
    client.say("to stderr", stream="stderr")
    out, err = capfd.readouterr()
    assert out == f"[{client.peername}] first\n[{client.peername}] second\n"
    assert err == f"[{client.peername}] to stderr\n"


def test_a_label_can_be_given(connect, capfd):
    client = connect(label="gpu07")
    client.say("hello")
    assert capfd.readouterr().out == "[gpu07] hello\n"
    assert client.peername == "gpu07"


def test_a_line_is_labelled_once_however_it_comes(client, capfd):
    for piece in ("one ", "line", "\nand more"):
        client.say(piece, end="")
    assert capfd.readouterr().out == f"[{client.peername}] one line\n"
    client.say("")
    assert capfd.readouterr().out == f"[{client.peername}] and more\n"


def test_an_unfinished_line_is_printed_when_the_session_ends(connect, capfd):
    client = connect()
    client.say("no newline", end="")
    client.close()
    assert capfd.readouterr().out == f"[{client.peername}] no newline\n"


def test_a_receiver_that_fails_does_not_end_the_session(client, capfd):
    def fail(_stream, _text):
        raise LookupError("in on_output")

    before, client.on_output = client.on_output, fail
    try:
        assert client.say("hello") == 1
    finally:
        client.on_output = before
    assert "LookupError: in on_output" in capfd.readouterr().err
    assert client.say("hello") == 1


def test_output_is_here_before_the_answer_of_a_response(client, output):
    assert client.say("nonblocking", nonblocking=True).wait() == 1
    assert output["stdout"] == "nonblocking\n"


def test_output_is_here_before_a_completion_function_is_called(connect):
    client = connect(ThreadedClient)
    client.on_output = received = Received()
    seen, done = [], threading.Event()
    client.say("first", oncomplete=lambda _result: (seen.append(received["stdout"]), done.set()))
    assert done.wait(5)
    assert seen == ["first\n"]


def test_output_of_a_call_that_was_stopped_is_here(client, output):
    with pytest.raises(CallTimeout):
        client.raw_call("say_and_sleep", ("last words",), timeout=0.2)
    assert output["stdout"] == "last words\n"


def test_a_flood_can_be_stopped(client, output):
    begin = time.monotonic()
    with pytest.raises(CallTimeout):
        client.raw_call("flood", timeout=0.3)
    assert client.say("calm") == 1
    assert output["stdout"].endswith("x" * 100 + "calm\n")
    assert time.monotonic() - begin < 5


def test_a_slow_receiver_slows_the_far_side_and_nothing_else(connect):
    client = connect()
    taken = []

    def take_slowly(_stream, text):
        time.sleep(0.02)
        taken.append(len(text))

    client.on_output = take_slowly
    response = client.eval(
        "os.write(1, b'x' * 100_000) and [os.write(1, b'x' * 60_000) for _ in range(30)]", nonblocking=True
    )
    begin = time.monotonic()
    assert client.eval("1 + 1", threadid=3) == 2
    assert time.monotonic() - begin < 0.5
    written = response.wait()
    assert len(written) == 30
    assert client.flush_output(20)
    # Whatever each call of the system took.
    assert sum(taken) == 100_000 + sum(written)


def test_far_side_tracebacks_are_printed_once(client, capfd):
    with pytest.raises(ValueError, match="broken"):
        client.fail("broken")
    err = capfd.readouterr().err
    assert err.count("ValueError: broken") == 1
    assert err.startswith(f"*** Remote exception from {client.peername}:\nTraceback (most recent call last):\n")
