"""What a far side may say to the near side over every transport: nonsense ends its session, or not even that.

Over ssh and to a spawned session there are no tags: the link itself is trusted, and what comes over it
is checked all the same.  A far side may run code here by what its functions return (docs/security.md);
what is proved is that it cannot hang or end the near side by speaking wrongly, nor reach what it was
not given.
"""

from __future__ import annotations

import contextlib
import pickle

import pytest
from attacks.servers import SOON, until
from support.transports import TRANSPORTS

from easycluster import Client
from easycluster.errors import EasyClusterError, SessionError
from easycluster.wire.frames import HEADER, LARGE, Kind, frame

BAD_WORKER = """
import gc
(session,) = (each for each in gc.get_objects() if type(each).__name__ == "WorkerSession")

def write(data):
    "Put bytes on the data link, as a record where there are records."
    with session._writing:
        session._number, data = session._encoder.encode(session._number, data)
        list(session.stream.write_map(data))

def answer(kind, body):
    "Answer this very call with whatever; the right answer comes too late."
    (request,) = session.inside.values()
    session.send(kind, request, body)

def ask_near(*operation):
    from easycluster.far.session import ask
    return ask(session, operation)

def talk_to_keeper(data):
    session.worker._control.sendall(data)
"""


@pytest.fixture(scope="module", params=["spawned", "ssh"])
def open_bad(request):
    """Start far sides that do what the test wants."""
    transport = TRANSPORTS[request.param](request)

    def start():
        client = transport.open(Client)
        client.execblock(BAD_WORKER)
        # The thread for what it asks out of turn is there from now on.
        client.write(frame(Kind.RELEASE, 0, b"4711 1"))
        return client

    return start


@pytest.fixture(scope="module")
def client(open_bad):
    """A far side that speaks wrongly, and goes on."""
    with contextlib.closing(open_bad()) as client:
        yield client


@pytest.fixture
def lost_client(open_bad):
    """A far side that will not go on."""
    with contextlib.closing(open_bad()) as client:
        yield client


ENDS = {
    "an unknown kind": (HEADER.pack(0, 99, 0, 0, 0, 0), "a frame of kind 99 with 0 bytes is not allowed"),
    "no kind": (HEADER.pack(0, 0, 0, 0, 0, 0), "a frame of kind 0 with 0 bytes is not allowed"),
    "a long frame": (HEADER.pack(0xFFFFFFFF, Kind.REPLY, 0, 0, 1, 0), "with 4294967295 bytes is not allowed"),
    "a huge buffer": (
        HEADER.pack(10, Kind.REPLY, LARGE, 0, 1, 0) + b"\0\1" + b"\x7f" * 8,
        "is above the limit of 4294967296",
    ),
    "no buffers": (HEADER.pack(2, Kind.REPLY, LARGE, 0, 1, 0) + b"\0\0", "cannot announce 0 buffers"),
    "more buffers than sizes": (
        HEADER.pack(2, Kind.REPLY, LARGE, 0, 1, 0) + b"\x10\0",
        "cannot announce 4096 buffers in 2 bytes",
    ),
    "references that are no numbers": (frame(Kind.RELEASE, 0, b"all of them"), "something that is no number"),
}


def write_and_go_on(client, words):
    client.write(words)
    # Seen by whoever answers requests, perhaps after the call.
    until(lambda: not client.connected)
    client.eval("1")


@pytest.mark.parametrize(
    ("open_bad", "what"),
    [*(("spawned", what) for what in ENDS), ("ssh", "an unknown kind"), ("ssh", "a huge buffer")],
    indirect=["open_bad"],
)
def test_what_breaks_the_protocol_ends_the_session_and_says_why(lost_client, what):
    words, message = ENDS[what]
    with pytest.raises(SessionError) as caught:
        write_and_go_on(lost_client, words)
    assert message in str(caught.value)


IGNORED = {
    "an answer that nobody waits for": frame(Kind.REPLY, 4711, pickle.dumps(1)),
    "an error that nobody waits for": frame(Kind.RAISE, 4711, b"\xff\xff"),
    "references it does not have": frame(Kind.RELEASE, 0, b"4711 1 4712 99999"),
    "items that nobody asked for": frame(Kind.ITEM, 4711, b"\xff"),
    "a second hello": frame(Kind.HELLO, 0, b"\xff"),
}


@pytest.mark.parametrize("what", IGNORED)
def test_what_concerns_nobody_is_dropped(client, what):
    client.write(IGNORED[what])
    assert client.eval("6 * 7") == 42


ANSWERS = {
    "no pickle": b"\xff\xff",
    "half a pickle": pickle.dumps(list(range(100)))[:-5],
    "a pickle of what is not here": b"cno_such_module\nname\n.",
    "nothing": b"",
}


@pytest.mark.parametrize("what", ANSWERS)
@pytest.mark.parametrize("kind", [Kind.REPLY, Kind.RAISE])
def test_an_answer_that_cannot_be_read_is_an_error_of_that_call_only(client, kind, what):
    with pytest.raises(EasyClusterError, match="cannot be rebuilt here"):
        client.answer(kind, ANSWERS[what])
    assert client.eval("6 * 7") == 42


@pytest.mark.parametrize(
    "failure", [7, {}, [], {"host": "x", "nodes": [], "text": []}, {"host": 1, "nodes": 2, "text": 3}]
)
def test_an_error_that_is_none_is_an_error_of_that_call_only(client, failure):
    with pytest.raises(EasyClusterError, match="what came of it cannot be read"):
        client.answer(Kind.RAISE, pickle.dumps(failure))
    assert client.eval("6 * 7") == 42


# What it asks for, and what it is told.
REQUESTS = [
    ((2, 4711, "secret"), "object 4711 is not held any more where it lived"),
    ((1, 4711, "run", (), {}), "object 4711 is not held any more where it lived"),
    ((3, 4711, "name", 1), "object 4711 is not held any more where it lived"),
    ((6, 4711, 10), "object 4711"),
    # Code and globals exist on the far side only.
    ((7, "__import__('os').getpid()"), "cannot be asked of this end"),
    ((8, "raise SystemExit"), "cannot be asked of this end"),
    ((0, "os.getpid", (), {}), "cannot be asked of this end"),
    ((10, "os"), "cannot be asked of this end"),
    ((99,), "cannot be asked of this end"),
    ((13, "no such service"), "no such service"),
]


@pytest.mark.parametrize(("operation", "answer"), REQUESTS)
def test_a_far_side_reaches_nothing_that_it_was_not_given(client, operation, answer):
    with pytest.raises(Exception, match=answer):
        client.ask_near(*operation)
    assert client.eval("6 * 7") == 42


def test_a_far_side_gets_no_module_but_those_of_the_users_own(client):
    """What it may import from here is source that the user wrote; not what is installed, and no data."""
    for name in ("easycluster.keys", "os", "../../etc/passwd", "/etc/passwd", ""):
        assert client.ask_near(13, "fetch_module", name) is None


@pytest.mark.parametrize(
    ("open_bad", "words"),
    [("spawned", b"\xff\xff\xff\xff"), ("spawned", b"\0\0\0\4junk"), ("ssh", bytes(range(100, 164)))],
    indirect=["open_bad"],
    ids=["a huge packet", "no pickle", "noise over ssh"],
)
def test_a_worker_that_talks_nonsense_to_its_keeper_hangs_nobody(lost_client, words):
    """Its session may end by that, or do without what its keeper would have said."""
    lost_client.talk_to_keeper(words)
    with contextlib.suppress(SessionError):
        assert lost_client.eval("print('noise') or 6 * 7", timeout=SOON) == 42
    lost_client.reconnect()
    assert lost_client.eval("6 * 7") == 42
