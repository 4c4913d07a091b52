"""The listener: strangers cost little and learn nothing, clients get to their keeper."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from support.keepers import KEY, SOON, TOKEN, Keepers, is_closed, shake_hands

from easycluster.errors import AuthenticationError, ConnectError, EasyClusterError
from easycluster.transport import listener as listener_module
from easycluster.transport.listener import Limits, Listener, open_sockets, parse_allow
from easycluster.wire.auth import CONTROL, DATA, VERSION, ClientHandshake

pytestmark = pytest.mark.skipif(not hasattr(socket.socket, "sendmsg"), reason="passing sockets needs sendmsg")


class Seen:
    """A watcher that remembers."""

    def __init__(self):
        self.events = queue.Queue()

    def connected(self, session):
        self.events.put(("connected", session.peer))

    def disconnected(self, session):
        self.events.put(("disconnected", session.peer))

    def requested(self, session, text):
        self.events.put(("requested", text))

    def refused(self, text):
        self.events.put(("refused", text))

    def failed(self, text):
        self.events.put(("failed", text))

    def next(self):
        return self.events.get(timeout=SOON)


class Running:
    """A listener that runs in a thread."""

    def __init__(self, *, bind="127.0.0.1", **kwargs):
        self.keepers, self.seen = Keepers(), Seen()
        self.listener = Listener(open_sockets(bind, 0), {b"": KEY}.get, self.keepers, self.seen, **kwargs)
        self.address = self.listener.addresses[0]
        self.thread = threading.Thread(target=self.listener.run)
        self.thread.start()

    def connect(self, family=socket.AF_INET, address=None):
        sock = socket.socket(family)
        try:
            sock.settimeout(SOON)
            sock.connect(address or self.address)
        except OSError:
            sock.close()
            raise
        return sock

    def keeper(self):
        return self.keepers.spawned.get(timeout=SOON)

    def close(self):
        self.listener.stop()
        self.thread.join(SOON)
        assert not self.thread.is_alive()
        self.keepers.close()


@pytest.fixture(autouse=True)
def short_ending(monkeypatch):
    """Keepers that a test has in its hand do not end by themselves."""
    monkeypatch.setattr(listener_module, "_ENDING", 0.1)


@pytest.fixture
def running():
    """Start listeners that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(**kwargs):
            return stack.enter_context(contextlib.closing(Running(**kwargs)))

        yield start


@pytest.fixture
def listener(running):
    return running()


# ---- clients


def test_a_proven_client_is_handed_to_a_fresh_keeper(listener):
    with listener.connect() as sock:
        keys = shake_hands(sock)
        with contextlib.closing(listener.keeper()) as keeper:
            packet, connection = keeper.take()
            with connection:
                peer = f"127.0.0.1:{sock.getsockname()[1]}"
                assert packet == {
                    "kind": "control",
                    "send": keys.receive,
                    "receive": keys.send,
                    "peer": peer,
                    "limits": {},
                }
                connection.sendall(b"from the keeper")
                assert sock.recv(100) == b"from the keeper"
                assert connection.getblocking()
                assert listener.seen.next() == ("connected", peer)


def test_the_listener_keeps_no_copy_of_a_connection_it_handed_over(listener):
    with listener.connect() as sock:
        shake_hands(sock)
        with contextlib.closing(listener.keeper()) as keeper:
            keeper.take()[1].close()
            assert is_closed(sock)


def test_what_follows_the_handshake_is_left_for_the_keeper(listener):
    handshake = ClientHandshake(KEY, CONTROL, TOKEN)
    with listener.connect() as sock:
        sock.sendall(handshake.start())
        sock.sendall(handshake.receive(sock.recv(handshake.needed)) + b"first record")
        with contextlib.closing(listener.keeper()) as keeper, keeper.take()[1] as connection:
            assert connection.recv(100) == b"first record"


def test_a_data_connection_goes_to_the_keeper_of_its_token(listener):
    with listener.connect() as control, listener.connect() as other, listener.connect() as data:
        shake_hands(control)
        shake_hands(other, token=b"o" * 16)
        keeper, others = listener.keeper(), listener.keeper()
        with contextlib.closing(keeper), contextlib.closing(others):
            keeper.take()[1].close()
            others.take()[1].close()
            keys = shake_hands(data, DATA)
            packet, connection = keeper.take()
            with connection:
                assert (packet["kind"], packet["send"], packet["receive"]) == ("data", keys.receive, keys.send)
                connection.sendall(b"x")
                assert data.recv(1) == b"x"


def test_a_data_connection_that_is_first_waits_for_its_control(listener):
    with listener.connect() as data, listener.connect() as control:
        handshake = ClientHandshake(KEY, DATA, TOKEN)
        data.sendall(handshake.start())
        data.sendall(handshake.receive(data.recv(handshake.needed)))
        shake_hands(control)
        handshake.receive(data.recv(handshake.needed))
        assert handshake.done
        with contextlib.closing(listener.keeper()) as keeper:
            kinds = []
            for _ in range(2):
                packet, connection = keeper.take()
                connection.close()
                kinds.append(packet["kind"])
            assert kinds == ["control", "data"]


def test_a_data_connection_without_its_control_is_told_so(running):
    listener = running(limits=Limits(handshake_timeout=0.2))
    with listener.connect() as data, pytest.raises(ConnectError) as caught:
        shake_hands(data, DATA)
    assert str(caught.value) == (
        "lab1: the server does not know the session that this connection belongs to; it may have ended"
    )


def test_many_clients_at_once_each_get_a_keeper(listener):
    tokens = [bytes([n]) * 16 for n in range(40)]
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(listener.connect()) for _ in tokens]
        for sock, token in zip(socks, tokens, strict=True):
            shake_hands(sock, token=token)
        keepers = [stack.enter_context(contextlib.closing(listener.keeper())) for _ in tokens]
        for keeper, sock in zip(keepers, socks, strict=True):
            packet, connection = keeper.take()
            connection.close()
            assert packet["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"


def test_the_end_of_a_keeper_is_the_end_of_its_session(listener):
    with listener.connect() as sock:
        shake_hands(sock)
        peer = listener.seen.next()[1]
        assert [session.peer for session in listener.listener.sessions] == [peer]
        listener.keeper().close()
        assert listener.seen.next() == ("disconnected", peer)
        assert listener.listener.sessions == []


def test_a_token_is_free_again_when_its_session_has_ended(listener):
    for _ in range(2):
        with listener.connect() as sock:
            shake_hands(sock)
            assert listener.seen.next()[0] == "connected"
            listener.keeper().close()
            assert listener.seen.next()[0] == "disconnected"


def test_a_second_control_connection_with_the_same_token_is_refused(listener):
    with listener.connect() as first, listener.connect() as second:
        shake_hands(first)
        with contextlib.closing(listener.keeper()) as keeper:
            with pytest.raises(ConnectError, match="could not start a session"):
                shake_hands(second)
            keeper.take()[1].close()


def test_what_a_keeper_reports_reaches_the_watcher(listener):
    with listener.connect() as sock:
        shake_hands(sock)
        listener.seen.next()
        with contextlib.closing(listener.keeper()) as keeper:
            keeper.send({"kind": "request", "text": "os.getpid()"})
            keeper.send({"kind": "something newer"})
            keeper.send({"kind": "request", "text": "next"})
            assert listener.seen.next() == ("requested", "os.getpid()")
            assert listener.seen.next() == ("requested", "next")


def test_a_keeper_that_talks_nonsense_loses_its_session_only(listener):
    with listener.connect() as bad, listener.connect() as good:
        shake_hands(bad)
        bad_peer = listener.seen.next()[1]
        shake_hands(good, token=b"g" * 16)
        listener.seen.next()
        with contextlib.closing(listener.keeper()) as keeper, contextlib.closing(listener.keeper()) as other:
            keeper.sock.sendall(struct.pack(">I", 4) + b"\xff\xff\xff\xff")
            assert listener.seen.next() == ("disconnected", bad_peer)
            other.send({"kind": "request", "text": "still here"})
            assert listener.seen.next() == ("requested", "still here")


def test_more_sessions_than_allowed_are_refused_by_name(running):
    listener = running(limits=Limits(sessions=1))
    with listener.connect() as first, listener.connect() as second:
        shake_hands(first)
        with pytest.raises(ConnectError) as caught:
            shake_hands(second, token=b"o" * 16)
        assert str(caught.value) == ("lab1: the server has as many sessions as it allows; close one or raise its limit")


@pytest.mark.parametrize("trouble", [OSError(errno.EAGAIN, "no more processes"), EasyClusterError("template is gone")])
def test_a_keeper_that_cannot_be_had_is_told_to_client_and_watcher(listener, trouble):
    listener.keepers.trouble = trouble
    with listener.connect() as sock:
        with pytest.raises(ConnectError, match="accepted the key but could not start a session"):
            shake_hands(sock)
        peer = f"127.0.0.1:{sock.getsockname()[1]}"
    assert listener.seen.next() == ("failed", f"cannot start a session for {peer}: {trouble}")
    listener.keepers.trouble = None
    with listener.connect() as sock:
        shake_hands(sock)


def test_settings_travel_to_the_keeper(running):
    listener = running(settings={"report": True})
    with listener.connect() as sock:
        shake_hands(sock)
        with contextlib.closing(listener.keeper()) as keeper:
            packet, connection = keeper.take()
            connection.close()
            assert packet["limits"] == {"report": True}


# ---- strangers


def test_a_client_with_another_key_hears_nothing_but_the_hello(listener):
    with listener.connect() as sock, pytest.raises(AuthenticationError):
        shake_hands(sock, key=bytes(32))
    assert listener.seen.next()[1].endswith(" refused: wrong key")
    assert listener.keepers.spawned.empty()


def test_a_client_with_an_unknown_key_id_looks_the_same(listener):
    with listener.connect() as sock, pytest.raises(AuthenticationError):
        shake_hands(sock, key_id=b"nobody")


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", bytes(600), b"EC2C\x01\x09\x00", b"EC2C\x01\x01\xff"])
def test_noise_is_answered_by_closing(listener, noise):
    with listener.connect() as sock:
        sock.sendall(noise)
        assert is_closed(sock)


def test_a_client_of_another_version_learns_ours(listener):
    with listener.connect() as sock:
        sock.sendall(b"EC2C" + bytes([VERSION + 1]) + bytes(200))
        answer = b""
        while len(answer) < 37:
            answer += sock.recv(37)
        assert answer[:5] == b"EC2S" + bytes([VERSION])
        assert is_closed(sock)


def test_silence_ends_at_the_deadline_however_slow_the_bytes_come(running):
    listener = running(limits=Limits(handshake_timeout=0.3))
    hello = ClientHandshake(KEY, CONTROL, TOKEN).start()
    began = time.monotonic()
    with listener.connect() as silent, listener.connect() as slow:
        slow.sendall(hello[:1])
        slow.settimeout(0.1)
        for byte in hello[1:]:
            try:
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                with contextlib.suppress(OSError):
                    slow.sendall(bytes([byte]))
            except ConnectionResetError:
                break
        assert is_closed(silent)
    assert 0.3 <= time.monotonic() - began < SOON


def test_silent_connections_are_capped_and_do_not_lock_anyone_out(running):
    listener = running(limits=Limits(pending=4, handshake_timeout=60))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(listener.connect()) for _ in range(12)]
        sock = stack.enter_context(listener.connect())
        shake_hands(sock)
        # The oldest went first: of the 13 the last four stayed, one of which is a client now.
        assert all(is_closed(s) for s in silent[:9])
        assert listener.listener.pending == 3


def test_the_busiest_address_makes_room_first(running):
    listener = running(bind="*", limits=Limits(pending=4, handshake_timeout=60))
    port = listener.address[1]
    with contextlib.ExitStack() as stack:
        quiet = stack.enter_context(socket.socket())
        quiet.settimeout(SOON)
        quiet.bind(("127.0.0.2", 0))
        quiet.connect(("127.0.0.1", port))
        for _ in range(20):
            stack.enter_context(listener.connect(address=("127.0.0.1", port)))
        shake_hands(quiet)


def test_a_good_client_gets_in_after_2000_bad_ones_and_nothing_is_left(listener):
    seed = 20261122
    noise = random.Random(seed)
    hello = ClientHandshake(KEY, CONTROL, TOKEN).start()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(2000):
        data = bytearray(hello)
        for _ in range(noise.randrange(4)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        with listener.connect() as sock:
            sock.sendall(data[: noise.randrange(len(data) + 1)] + noise.randbytes(noise.randrange(80)))
    began = time.monotonic()
    with listener.connect() as sock:
        shake_hands(sock, token=b"good" * 4)
        assert time.monotonic() - began < 1
        with contextlib.closing(listener.keeper()) as keeper:
            keeper.take()[1].close()
    assert listener.keepers.spawned.empty()
    listener.close()
    if before:
        assert len(os.listdir("/proc/self/fd")) < before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts processes in /proc")
def test_before_the_key_is_proven_nothing_is_unpickled_inflated_or_forked():
    """A process whose pickle, zlib, fork and threads are tripwires serves noise and wrong keys."""
    program = """
import sys, socket, threading, os, _thread
from easycluster.transport import listener as listener_module
from easycluster.transport.listener import Listener, open_sockets
import pickle, zlib, subprocess
def trip(*args, **kwargs):
    os.write(1, b'TRIPPED'); os._exit(3)
for module, names in ((pickle, 'load loads Unpickler'), (zlib, 'decompress decompressobj'), (os, 'fork posix_spawn'),
                      (subprocess, 'Popen'), (threading.Thread, 'start'), (_thread, 'start_new_thread')):
    for name in names.split():
        setattr(module, name, trip)
class Spawner:
    spawn = close = trip
class Watcher:
    count = 0
    connected = disconnected = requested = failed = trip
    def refused(self, text):
        self.count += 1
        if self.count == int(sys.argv[1]):
            listener.stop()
listener = Listener(open_sockets('127.0.0.1', 0), {b'': bytes(32)}.get, Spawner(), Watcher())
print(listener.addresses[0][1], flush=True)
listener.run()
print('untouched')
"""
    with subprocess.Popen([sys.executable, "-c", program, "60"], stdout=subprocess.PIPE) as process:
        port = int(process.stdout.readline())
        noise = random.Random(7)
        for n in range(60):
            with socket.create_connection(("127.0.0.1", port), SOON) as sock:
                if n % 2:
                    sock.sendall(b"\x80\x04" + noise.randbytes(300))
                    assert is_closed(sock)
                else:
                    with pytest.raises(AuthenticationError):
                        shake_hands(sock)
        assert process.stdout.read() == b"untouched\n"
    assert process.returncode == 0


OUT_OF_FILES = """
import resource, sys
from easycluster.transport import listener as listener_module
from easycluster.transport.listener import Listener, open_sockets
hoard = []
class Spawner:
    def spawn(self):
        raise OSError('not in this test')
class Watcher:
    def failed(self, text):
        print(text, flush=True)
        while hoard:
            hoard.pop().close()
        if 'not in this test' in text:
            listener.stop()
    connected = disconnected = requested = refused = None
listener = Listener(open_sockets('127.0.0.1', 0), {b'': bytes(range(32))}.get, Spawner(), Watcher())
print(listener.addresses[0][1], flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
while sys.argv[1] == 'hoard':
    try:
        hoard.append(open('/dev/null'))
    except OSError:
        break
listener.run()
"""


@pytest.mark.skipif(os.name != "posix", reason="file limits are POSIX")
@pytest.mark.parametrize(
    ("who", "strangers", "said"),
    [("strangers", 30, []), ("hoard", 0, ["cannot accept connections: Too many open files; trying again"])],
)
def test_running_out_of_files_delays_a_client_and_shuts_nobody_out(who, strangers, said):
    words = [sys.executable, "-c", OUT_OF_FILES, who]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", int(process.stdout.readline()))
        for _ in range(strangers):
            stack.enter_context(socket.create_connection(address, SOON))
        client = stack.enter_context(socket.create_connection(address, SOON))
        with pytest.raises(ConnectError, match="accepted the key but could not start a session"):
            shake_hands(client)
        lines = process.stdout.read().splitlines()
    assert lines[:-1] == said
    assert lines[-1].startswith("cannot start a session for 127.0.0.1:")
    assert process.returncode == 0


# ---- where it listens, and whom it lets in


def test_by_default_it_listens_on_the_loopback_of_both_families(running):
    listener = running(bind=None)
    hosts = [host for host, _ in listener.listener.addresses]
    ports = {port for _, port in listener.listener.addresses}
    assert hosts[0] == "127.0.0.1"
    assert hosts[1:] in ([], ["::1"])
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("bind", "no_ipv6", "hosts"),
    [
        ("127.0.0.1", False, ["127.0.0.1"]),
        (None, True, ["127.0.0.1"]),
        ("*", True, ["0.0.0.0"]),
        ("", True, ["0.0.0.0"]),
        ("0.0.0.0", False, ["0.0.0.0"]),
        ("*", False, ["0.0.0.0", "::"]),
        ("::", False, ["0.0.0.0", "::"]),
        ("::1", False, ["::1"]),
    ],
)
def test_addresses_to_listen_on(bind, no_ipv6, hosts):
    with contextlib.ExitStack() as stack:
        for sock, host in zip(open_sockets(bind, 0, no_ipv6=no_ipv6), hosts, strict=True):
            stack.enter_context(sock)
            assert sock.getsockname()[0] == host


def trouble(*args, **kwargs):
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the text is compared by the caller
        open_sockets(*args, **kwargs)
    return caught.value.strerror


def test_a_taken_port_is_named_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert trouble("127.0.0.1", port) == (
            f"cannot listen on 127.0.0.1:{port}: Address already in use; "
            "another server has the port: stop it or give another with -p"
        )


def test_an_address_of_another_machine_is_named_with_what_to_do():
    assert trouble("192.0.2.1", 0) == (
        "cannot listen on 192.0.2.1:0: Cannot assign requested address; "
        "this machine does not have that address: give another with -b"
    )


def test_a_name_that_does_not_resolve_is_named_with_what_to_do():
    message = trouble("no-such-host.invalid", 0)
    assert message.startswith("cannot listen on 'no-such-host.invalid': ")
    assert message.endswith("; give an address of this machine")


def test_an_ipv6_address_without_ipv6_is_refused():
    assert "cannot listen on '::' (IPv6 is off): " in trouble("::", 0, no_ipv6=True)


def test_a_peer_that_is_not_allowed_is_closed_before_its_first_byte(running):
    listener = running(allow=parse_allow(["192.0.2.0/24", "::1"]))
    with listener.connect() as sock:
        assert is_closed(sock)
    assert listener.seen.next() == ("refused", "127.0.0.1 is not allowed to connect")


def test_a_peer_on_the_allow_list_gets_in(running):
    listener = running(allow=parse_allow(["10.0.0.1", "127.0.0.0/8"]))
    with listener.connect() as sock:
        shake_hands(sock)


ALLOW = [
    ("10.0.0.7", ["10.0.0.7"], True),
    ("10.0.0.8", ["10.0.0.7"], False),
    ("10.0.0.8", ["10.0.0.0/24"], True),
    ("10.0.1.8", ["10.0.0.0/24"], False),
    ("::ffff:10.0.0.8", ["10.0.0.0/24"], True),
    ("::1", ["127.0.0.1"], False),
    ("::1", ["::1"], True),
    ("fe80::1%eth0", ["fe80::/10"], True),
    ("fe80::1", ["0.0.0.0/0"], False),
    ("10.0.0.8", ["::/0"], False),
]


@pytest.mark.fault("scope", transport="tcp")
@pytest.mark.parametrize(("peer", "entries", "allowed"), ALLOW)
def test_allow_list(peer, entries, allowed, outcome):
    from easycluster.transport.addresses import is_allowed

    assert is_allowed(peer, parse_allow(entries)) is allowed
    outcome.saw()


BAD_ALLOW = [
    ("10.0.0.5/8", "cannot allow '10.0.0.5/8': 10.0.0.5/8 has host bits set; write 10.0.0.0/8 for the whole subnet"),
    (
        "gpu01",
        (
            "cannot allow 'gpu01': 'gpu01' does not appear to be an IPv4 or IPv6 network; "
            "write an address, or a subnet such as 192.168.0.0/24"
        ),
    ),
]


@pytest.mark.parametrize(("entry", "message"), BAD_ALLOW)
def test_what_is_no_network_is_refused(entry, message):
    with pytest.raises(ValueError, match="cannot allow") as caught:
        parse_allow([entry])
    assert str(caught.value) == message


# ---- ending


def test_stopping_closes_port_strangers_and_sessions(running):
    listener = running()
    with listener.connect() as stranger, listener.connect() as sock:
        shake_hands(sock)
        with contextlib.closing(listener.keeper()) as keeper:
            keeper.take()[1].close()
            listener.close()
            assert keeper.sock.recv(1) == b""
        assert is_closed(stranger)
        with pytest.raises(ConnectionRefusedError):
            listener.connect()
