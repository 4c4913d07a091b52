"""Many strangers at once: they cost the server a bounded number of sockets, and clients nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time

import pytest
from attacks.servers import KEY, SOON, address_number, children, hear_all, memory, until

from easycluster.errors import AuthenticationError
from easycluster.transport.listener import Limits
from easycluster.wire.auth import CONTROL, TOKEN_SIZE, ClientHandshake

# What the server promises, whatever the number of strangers.
MOST_PENDING = Limits().pending
HANDSHAKE_TIMEOUT = Limits().handshake_timeout

# MiB that a thousand strangers may cost; a hundredth of this is what they do cost.
MOST_MEMORY = 8


@pytest.fixture
def many_files():
    """Let this process have a few thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if wanted < 2048:
        pytest.skip("this user may not open 2048 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def own_server(start_server):
    """A server of the test's own, whose memory and descriptors mean something."""
    server = start_server("-v", bind="0.0.0.0")
    # What a first session takes once and for all.
    server.log_in()[0].close()
    server.wait_until_idle()
    return server


@contextlib.contextmanager
def strangers(server, count, sources, say=b""):
    """Connect ``count`` times, from as many addresses as ``sources``."""
    with contextlib.ExitStack() as stack:
        socks = []
        for number in range(count):
            sock = stack.enter_context(server.connect(address_number(number % sources)))
            if say:
                with contextlib.suppress(OSError):
                    sock.sendall(say)
            socks.append(sock)
        yield socks


def how_quick(server):
    """Return how long a good client needs for its handshake, in seconds."""
    began = time.monotonic()
    sock, _keys = server.log_in(source="127.99.0.1")
    took = time.monotonic() - began
    sock.close()
    return took


def half_a_hello():
    return ClientHandshake(KEY, CONTROL, os.urandom(TOKEN_SIZE)).start()[:30]


@pytest.mark.parametrize(
    ("sources", "say"),
    [(1, b""), (40, b""), (1000, b""), (40, half_a_hello())],
    ids=["one address", "40 addresses", "1000 addresses", "half a hello"],
)
def test_a_thousand_silent_strangers_cost_next_to_nothing(many_files, own_server, sources, say):
    server = own_server
    before = memory(server.pid, "VmRSS"), memory(server.pid)
    with strangers(server, 1000, sources, say) as socks:
        # Never more than the cap and the one that was just accepted, for which another one goes.
        assert server.connections() <= MOST_PENDING + 1
        times = []
        for _ in range(5):
            times.append(how_quick(server))
            assert server.connections() <= MOST_PENDING + 6
        until(lambda: not server.processes() and server.connections() <= MOST_PENDING)
        held = server.connections()
        assert held <= MOST_PENDING
        # Those that were dropped know it.
        dropped = sum(1 for sock in socks if is_dropped(sock))
        assert dropped >= 1000 - MOST_PENDING
    real, space = memory(server.pid, "VmHWM") - before[0], memory(server.pid) - before[1]
    print(
        f"1000 strangers from {sources}: {held} held, {1e3 * max(times):.1f} ms for a client at most, "
        f"{real:.1f} MiB more"
    )
    assert max(times) < 1.0
    assert real < MOST_MEMORY
    assert space < MOST_MEMORY


def is_dropped(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_no_process_is_started_for_strangers(many_files, own_server):
    """Neither by the server nor by its helper, whenever one looks; nor a thread."""
    pids = (own_server.pid, own_server.helper)
    before = [children(pid) for pid in pids]
    threads = [len(os.listdir(f"/proc/{pid}/task")) for pid in pids]
    seen, over = [], threading.Event()

    def look():
        while not over.is_set():
            seen.append([children(pid) for pid in pids])

    looker = threading.Thread(target=look)
    looker.start()
    try:
        with own_server.begins(0), strangers(own_server, 500, 100, half_a_hello()):
            for number in range(100):
                with pytest.raises(AuthenticationError):
                    own_server.log_in(key=bytes(32), source=address_number(number))
    finally:
        over.set()
        looker.join()
    assert len(seen) > 10
    assert all(found == before for found in seen)
    assert [len(os.listdir(f"/proc/{pid}/task")) for pid in pids] == threads


def test_slow_strangers_end_at_the_deadline_of_the_handshake(own_server):
    """A byte now and then does not buy time: the deadline is that of the whole handshake."""
    hello = ClientHandshake(KEY, CONTROL, os.urandom(TOKEN_SIZE)).start()
    began = time.monotonic()
    ended = {}
    with strangers(own_server, 20, 20) as socks:
        for at in range(len(hello)):
            for sock in socks:
                if sock in ended:
                    continue
                sock.setblocking(True)
                with contextlib.suppress(OSError):
                    sock.sendall(hello[at : at + 1])
                if is_dropped(sock):
                    ended[sock] = time.monotonic() - began
            if len(ended) == len(socks):
                break
            time.sleep(0.25)
        assert len(ended) == len(socks)
    assert min(ended.values()) > HANDSHAKE_TIMEOUT - 0.5
    assert max(ended.values()) < HANDSHAKE_TIMEOUT + SOON
    until(lambda: own_server.connections() == 0)


def test_a_flood_of_connects_from_one_address_does_not_keep_others_out(own_server):
    """Three threads connect and hang up as fast as they can; a client from elsewhere gets in all the same."""
    over, count = threading.Event(), [0]

    def flood():
        while not over.is_set():
            with contextlib.suppress(OSError), own_server.connect("127.66.0.1") as sock:
                sock.sendall(b"EC2C")
                count[0] += 1

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: count[0] > 100)
        times = [how_quick(own_server) for _ in range(10)]
        assert own_server.connections() <= MOST_PENDING + 10
    finally:
        over.set()
        for thread in threads:
            thread.join()
    print(f"{count[0]} connects, {1e3 * max(times):.1f} ms for a client at most")
    assert max(times) < 5.0
    until(lambda: own_server.connections() == 0)


def test_a_thousand_wrong_keys_leave_nothing(own_server):
    with own_server.begins(0):
        for number in range(1000):
            with pytest.raises(AuthenticationError):
                own_server.log_in(key=bytes(32), source=address_number(number))
    own_server.wait_until_idle()


# ---- the allow-list, with the addresses that the system itself reports


def is_served(server, family, address, source=None):
    """Return whether a client from an address gets an answer to its hello."""
    with socket.socket(family) as sock:
        sock.settimeout(SOON)
        if source is not None:
            sock.bind(source)
        sock.connect(address)
        with contextlib.suppress(OSError):
            sock.sendall(ClientHandshake(KEY, CONTROL, os.urandom(TOKEN_SIZE)).start())
            return sock.recv(4) == b"EC2S"
    return False


@pytest.mark.parametrize(
    ("allowed", "source", "served"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.8.0.0/16", "127.8.255.9", True),
        ("127.8.0.0/16", "127.9.0.1", False),
        ("::/0", "127.0.0.1", False),
        ("10.0.0.0/8", "127.0.0.1", False),
    ],
)
def test_only_allowed_addresses_are_heard(start_server, allowed, source, served):
    server = start_server("-a", allowed, hears_us=False)
    assert is_served(server, socket.AF_INET, server.address, (source, 0)) == served
    assert not served or "refused" not in server.log


def test_a_stranger_that_is_not_allowed_hears_nothing_even_with_the_key(start_server):
    server = start_server("-v", "-a", "192.0.2.0/24", hears_us=False)
    with server.connect() as sock:
        assert hear_all(sock) == b""
    until(lambda: "127.0.0.1 is not allowed to connect" in server.log)
    assert not server.processes()


MAPPED = """
import socket, sys
from easycluster.transport.listener import Listener, parse_allow
class Nobody:
    def __getattr__(self, name):
        return lambda *args: print(name, *args, flush=True)
sock = socket.socket(socket.AF_INET6)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.bind(('::', 0))
sock.listen()
sock.setblocking(False)
print(sock.getsockname()[1], flush=True)
Listener([sock], {b'': bytes(range(32))}.get, Nobody(), Nobody(), allow=parse_allow(sys.argv[1:])).run()
"""


@pytest.mark.parametrize(
    ("allowed", "source", "served"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::ffff:0:0/96", "127.0.0.1", False),
        ("::/0", "127.0.0.1", False),
    ],
)
def test_an_ipv4_peer_of_an_ipv6_socket_counts_as_ipv4(allowed, source, served):
    """As systems report it whose sockets serve both families: ::ffff:127.0.0.1."""
    import subprocess
    import sys

    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    with subprocess.Popen([sys.executable, "-c", MAPPED, allowed], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            assert is_served(process, socket.AF_INET, ("127.0.0.1", port), (source, 0)) == served
            if not served:
                assert f"::ffff:{source} is not allowed" in process.stdout.readline()
        finally:
            process.kill()


def link_local():
    """Return a link-local address of this machine and its interface, or None."""
    found = []
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as lines:
        for line in lines:
            digits, index, _, scope, _, name = line.split()
            if scope == "20":
                address = ":".join(digits[i : i + 4] for i in range(0, 32, 4))
                # One that is no device may lead to a namespace, and go when another test ends.
                found.append((not os.path.exists(f"/sys/class/net/{name}/device"), (address, int(index, 16), name)))
    return min(found)[1] if found else None


@pytest.mark.parametrize(("allowed", "served"), [("fe80::/10", True), ("::1", False)])
def test_a_peer_with_a_scope_id_is_judged_by_its_address(start_server, allowed, served):
    found = link_local()
    if found is None:
        pytest.skip("no interface of this machine has a link-local address")
    address, index, name = found
    server = start_server("-a", allowed, bind=f"{address}%{name}", hears_us=False)
    assert is_served(server, socket.AF_INET6, (address, server.port, 0, index)) == served
