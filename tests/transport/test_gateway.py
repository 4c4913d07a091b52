"""Gateways: the control stream, data pipes, failures by name, and an end that leaves nothing."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.sshd import free_port

from easycluster.errors import (
    AuthenticationError,
    BootstrapError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HostKeyError,
    HostNotFound,
)
from easycluster.far import channel as channel_module
from easycluster.transport import gateway as gateway_module
from easycluster.transport.gateway import Gateway, GatewayTarget, open_gateway

# Stands in for the bundle: the real end of the stream, and a keeper that answers to a few words.
BUNDLE = b"""
import sys, types

def serve_channel(channel):
    import os, socket, threading
    queue = []
    while True:
        while not queue:
            queue = channel.read()
        data = queue.pop(0)
        if data is None:
            os._exit(0)
        word, _, rest = data.partition(b" ")
        if word == b"raise":
            raise ValueError("keeper is broken")
        elif word == b"exit":
            os._exit(7)
        elif word == b"template":
            near, pid = sys.easycluster_template
            source = rest
            near.sendall(len(source).to_bytes(4, "big") + source)
            channel.send(str(pid).encode() + b" " + near.recv(1000))
        elif word == b"hang-up-template":
            near, pid = sys.easycluster_template
            near.close()
            os.waitpid(pid, 0)
            channel.send(b"template ended")
        elif word == b"listen":
            listen(channel, rest)
        elif word == b"eval":
            channel.send(str(eval(rest.decode())).encode())
        else:
            channel.send(data)

def listen(channel, marker):
    import os, socket, tempfile, threading
    path = os.path.join(tempfile.mkdtemp(), "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)

    def serve():
        import array
        connection, _ = listener.accept()
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
        _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(8))
        fds = array.array("i")
        fds.frombytes(ancillary[0][2][:8])
        os.write(fds[1], marker)
        while True:
            data = os.read(fds[0], 65536)
            if not data:
                break
            while data:
                data = data[os.write(fds[1], data):]
        for fd in fds:
            os.close(fd)
        connection.close()
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    channel.send(path.encode())

def trim():
    pass

parts = {"easycluster": {}, "easycluster.far": {}}
parts.update({"easycluster.far." + name: globals() for name in ("control", "reaper")})
for name, names in parts.items():
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    module.__dict__.update({key: value for key, value in names.items() if callable(value)})
module = sys.modules["easycluster.far.channel"] = types.ModuleType("easycluster.far.channel")
sys.modules["easycluster.far"].control = sys.modules["easycluster.far.control"]
exec(CHANNEL, module.__dict__)
"""
BUNDLE = b"CHANNEL = %r\n" % Path(channel_module.__file__).read_text() + BUNDLE

MARKER = b"0123456789abcdef"


class Talk:
    """A started gateway with what came back."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.received: queue.Queue[bytes] = queue.Queue()
        self.ends: queue.Queue[str] = queue.Queue()
        gateway.start(BUNDLE, self.received.put, self.ends.put)

    def ask(self, words: bytes) -> bytes:
        self.gateway.send(words)
        return self.received.get(timeout=10)


@pytest.fixture(params=["local", "ssh"])
def target(request):
    if request.param == "local":
        return GatewayTarget()
    sshd = request.getfixturevalue("sshd")
    return GatewayTarget(kind="ssh", host=sshd.host, extra_args=sshd.extra_args, pythons=(sys.executable,))


@pytest.fixture
def talk(target):
    gateway = open_gateway(target, timeout=20)
    yield Talk(gateway)
    gateway.close()


@pytest.fixture
def ssh_target(sshd):
    def make(**changes):
        values = {"kind": "ssh", "host": sshd.host, "extra_args": sshd.extra_args, **changes}
        return GatewayTarget(**values)

    return make


@pytest.fixture(autouse=True)
def no_files_left(monkeypatch):
    """Every folder that a test made is gone after it; they are made where nobody else makes any."""
    with tempfile.TemporaryDirectory(prefix="t-") as parent:
        monkeypatch.setenv("XDG_RUNTIME_DIR", parent)
        yield
        end = time.monotonic() + 10.0
        while os.listdir(parent) and time.monotonic() < end:
            time.sleep(0.01)
        assert os.listdir(parent) == []


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pids, seconds):
    end = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    return [pid for pid in pids if is_alive(pid)]


# The control stream


def test_gateway_says_which_python_it_runs(talk):
    assert talk.gateway.python_version == sys.version_info[:3]
    assert talk.gateway.python == sys.executable
    assert talk.gateway.far_pid == int(talk.ask(b"eval __import__('os').getpid()"))


def test_what_is_sent_comes_whole_and_in_order(talk):
    sent = [bytes([n]) * size for n, size in enumerate([1, 100, 70_000, 3_000_000, 2])]
    assert [talk.ask(data) for data in sent] == sent


def test_many_threads_may_send(talk):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: talk.gateway.send(b"%d " % n + b"x" * 20_000), range(80)))
    got = [talk.received.get(timeout=10) for _ in range(80)]
    assert sorted(int(data.split()[0]) for data in got) == list(range(80))


def test_far_side_has_nothing_of_the_current_directory_on_its_path(talk):
    assert talk.ask(b"eval '' in __import__('sys').path") == b"False"


def test_far_side_runs_in_a_session_of_its_own(talk):
    assert int(talk.ask(b"eval __import__('os').getsid(0)")) != os.getsid(0)
    assert int(talk.ask(b"eval __import__('os').getpgid(0)")) != os.getpgid(0)


def test_local_process_is_in_a_session_of_its_own(talk):
    assert os.getsid(talk.gateway.local_pid) != os.getsid(0)


def test_broken_keeper_ends_the_stream_with_its_traceback(talk):
    talk.gateway.send(b"raise")
    reason = talk.ends.get(timeout=10)
    assert reason.startswith("the keeper failed: Traceback")
    assert reason.endswith("ValueError: keeper is broken")


def test_far_side_that_exits_ends_the_stream_with_its_exit_code(talk):
    talk.gateway.send(b"exit")
    assert talk.ends.get(timeout=10) == "the far-side process ended with exit code 7"


def test_local_far_side_that_is_killed_ends_the_stream_with_the_signal():
    gateway = open_gateway(GatewayTarget())
    talk = Talk(gateway)
    os.kill(gateway.far_pid, signal.SIGKILL)
    assert talk.ends.get(timeout=10) == "the far-side process was killed by signal 9"
    gateway.close()


def test_sending_after_the_far_side_has_gone_raises(talk):
    talk.gateway.send(b"exit")
    talk.ends.get(timeout=10)
    with pytest.raises(ConnectionLost, match="the far-side process ended with exit code 7"):
        talk.gateway.send(b"x")


def test_sending_on_a_closed_gateway_raises(talk):
    talk.gateway.close()
    with pytest.raises(ConnectionLost, match=r"the gateway is closed$"):
        talk.gateway.send(b"x")


def test_close_is_not_reported_as_an_end(talk):
    talk.gateway.close()
    assert talk.ends.empty()


def test_second_close_does_nothing(talk):
    talk.gateway.close()
    talk.gateway.close()


def test_start_is_refused_the_second_time(talk):
    with pytest.raises(ConnectionLost, match="cannot be started"):
        talk.gateway.start(BUNDLE, print, print)


def test_close_breaks_a_send_that_blocks(talk):
    assert talk.ask(b"hello") == b"hello"
    os.kill(talk.gateway.far_pid, signal.SIGSTOP)
    failed = threading.Event()

    def fill():
        try:
            while True:
                talk.gateway.send(b"x" * 1_000_000)
        except ConnectionLost:
            failed.set()

    thread = threading.Thread(target=fill)
    thread.start()
    time.sleep(0.2)  # nothing can be waited for: that the send blocks is the point
    began = time.monotonic()
    talk.gateway.close(timeout=0.5)
    assert time.monotonic() - began < 2.5
    thread.join(5)
    assert failed.is_set()
    os.kill(talk.gateway.far_pid, signal.SIGKILL) if is_alive(talk.gateway.far_pid) else None


# The template


def test_template_runs_the_source_it_is_sent(talk):
    answer = talk.ask(
        b"template sock.sendall(b'%d %d' % (__import__('os').getpid(), len(__import__('os').listdir('/proc/self/fd'))))"
    )
    pid, own, fds = answer.split()
    assert pid == own
    assert int(fds) == 5  # 0, 1, 2, its socket, and the listing's own


def test_template_holds_none_of_our_pipes(talk):
    source = b"import os; sock.sendall(' '.join(os.readlink('/proc/self/fd/%d' % fd) for fd in (0, 1, 2)).encode())"
    assert talk.ask(b"template " + source).split()[1:] == [b"/dev/null"] * 3


def test_template_has_a_session_of_its_own(talk):
    answer = talk.ask(b"template import os; sock.sendall(b'%d' % os.getsid(0))")
    pid, session = answer.split()
    assert pid == session


def test_template_dies_when_its_socket_closes(talk):
    assert talk.ask(b"hang-up-template") == b"template ended"


def test_template_dies_with_a_killed_far_side(talk):
    template = int(talk.ask(b"eval __import__('sys').easycluster_template[1]"))
    os.kill(talk.gateway.far_pid, signal.SIGKILL)
    assert wait_until_gone([template], 2) == []


# Data pipes


def echo(pipes, data):
    """Write and read at the same time."""
    writer = threading.Thread(target=write_all, args=(pipes.write_fd, data))
    writer.start()
    got = b""
    while len(got) < len(data):
        got += os.read(pipes.read_fd, 65536)
    writer.join()
    return got


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def test_data_pipes_carry_bytes_to_the_worker_and_back(talk):
    path = talk.ask(b"listen " + MARKER).decode()
    pipes = talk.gateway.open_data(path, MARKER)
    data = os.urandom(500_000)
    assert echo(pipes, data) == data
    pipes.close()


def test_what_comes_before_the_marker_is_dropped(talk):
    noise = b"Welcome to the lab\n" * 50 + MARKER[:9]
    path = talk.ask(b"listen " + noise + MARKER).decode()
    pipes = talk.gateway.open_data(path, MARKER)
    assert echo(pipes, b"hello") == b"hello"
    pipes.close()


def test_several_data_pipes_may_be_open(talk):
    every = [talk.gateway.open_data(talk.ask(b"listen " + MARKER).decode(), MARKER) for _ in range(3)]
    assert [echo(pipes, b"%d" % n) for n, pipes in enumerate(every)] == [b"0", b"1", b"2"]


def test_closed_data_pipes_end_the_worker_s_reading(talk):
    path = talk.ask(b"listen " + MARKER).decode()
    before = int(talk.ask(b"eval __import__('threading').active_count()"))
    talk.gateway.open_data(path, MARKER).close()
    end = time.monotonic() + 5
    while int(talk.ask(b"eval __import__('threading').active_count()")) >= before and time.monotonic() < end:
        time.sleep(0.01)
    assert int(talk.ask(b"eval __import__('threading').active_count()")) < before


def test_data_pipes_to_nowhere_fail_and_the_gateway_lives(talk):
    with pytest.raises(ConnectError, match="no data pipe"):
        talk.gateway.open_data("/nonexistent/socket", MARKER)
    assert talk.ask(b"still there") == b"still there"


def test_data_pipes_without_a_marker_fail_in_time(talk):
    path = talk.ask(b"listen nonsense").decode()
    began = time.monotonic()
    with pytest.raises(ConnectError, match=r"no data pipe: no answer within 0.5 s"):
        talk.gateway.open_data(path, MARKER, timeout=0.5)
    assert time.monotonic() - began < 1.5
    assert talk.ask(b"still there") == b"still there"


def test_data_pipes_end_with_the_gateway(talk):
    path = talk.ask(b"listen " + MARKER).decode()
    pipes = talk.gateway.open_data(path, MARKER)
    talk.gateway.close()
    assert pipes.closed


def test_sshd_that_allows_one_session_gives_no_data_pipes(sshd_factory):
    server = sshd_factory("MaxSessions 1")
    gateway = open_gateway(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args))
    talk = Talk(gateway)
    path = talk.ask(b"listen " + MARKER).decode()
    with pytest.raises(ConnectError, match="no data pipe"):
        gateway.open_data(path, MARKER)
    assert talk.ask(b"still there") == b"still there"
    gateway.close()


# Failures, each by name


def fail_to_open(target, timeout=10.0):
    """The exception, and how long it took."""
    began = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        open_gateway(target, timeout=timeout)
    assert caught.value.host == target.host
    return caught.value, time.monotonic() - began


def test_unknown_host(ssh_target):
    error, _ = fail_to_open(ssh_target(host="no-such-host.invalid"))
    assert type(error) is HostNotFound
    assert error.message == "no-such-host.invalid: the name does not resolve"
    assert "Could not resolve hostname" in error.details


def test_refused(ssh_target):
    error, took = fail_to_open(ssh_target(port=free_port("127.0.0.1")))
    assert type(error) is ConnectError
    assert error.message == "127.0.0.1: the connection was refused; is sshd running there, on this port?"
    assert "Connection refused" in error.details
    assert took < 2


def test_unknown_host_key(ssh_target, sshd):
    (sshd.folder / "empty").touch()
    error, _ = fail_to_open(ssh_target(extra_args=("-o", f"UserKnownHostsFile={sshd.folder}/empty", *sshd.extra_args)))
    assert type(error) is HostKeyError
    assert error.message == (
        "127.0.0.1: its host key is not known; log in once by hand with 'ssh', or add it to known_hosts"
    )
    assert "Host key verification failed" in error.details


def test_changed_host_key(ssh_target, sshd):
    other = (sshd.folder / "user_key.pub").read_text()
    (sshd.folder / "changed").write_text(f"[{sshd.host}]:{sshd.port} {other}")
    error, _ = fail_to_open(
        ssh_target(extra_args=("-o", f"UserKnownHostsFile={sshd.folder}/changed", *sshd.extra_args))
    )
    assert type(error) is HostKeyError
    assert error.message == (
        "127.0.0.1: its host key has changed; if that was to be expected, remove the old one with 'ssh-keygen -R'"
    )
    assert "IDENTIFICATION HAS CHANGED" in error.details


def test_permission_denied(ssh_target):
    error, _ = fail_to_open(ssh_target(user="nobody"))
    assert type(error) is AuthenticationError
    assert error.message == (
        "127.0.0.1: the login was refused; check the user, and that 'ssh -o BatchMode=yes' works by hand"
    )
    assert "Permission denied" in error.details


@pytest.mark.fault("prompt", transport="ssh")
def test_host_that_accepts_and_never_speaks(ssh_target, outcome):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error, took = fail_to_open(ssh_target(port=silent.getsockname()[1]), timeout=1.5)
    outcome.saw(type(error).__name__, took)
    assert type(error) is ConnectTimeout
    assert error.message == "127.0.0.1: no answer within 1.5 s"
    assert took < 2.5


def test_address_that_nobody_answers(ssh_target):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        error, took = fail_to_open(ssh_target(port=full.getsockname()[1]), timeout=1.5)
        for filler in fillers:
            filler.close()
    assert type(error) is ConnectTimeout
    assert took < 2.5


def test_no_python(ssh_target):
    error, took = fail_to_open(ssh_target(pythons=("python9", "/opt/no/python")))
    assert type(error) is BootstrapError
    assert error.message == (
        "127.0.0.1: no Python found there (tried python9, /opt/no/python);"
        " install Python 3.8 or newer, or name one with 'rpython'"
    )
    assert took < 6


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_python_that_is_too_old(kind, version, ssh_target):
    old = find_python(version)
    target = ssh_target(pythons=(old,)) if kind == "ssh" else GatewayTarget(pythons=(old,))
    error, _ = fail_to_open(target)
    assert type(error) is BootstrapError
    assert f"{old} is Python {version}." in error.message
    assert error.message.endswith("the far side needs 3.8 or newer; name another one with 'rpython'")


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_old_python_is_passed_over_for_a_newer_one(kind, ssh_target):
    pythons = ("python9", find_python("2.7"), find_python("3.6"), sys.executable)
    target = ssh_target(pythons=pythons) if kind == "ssh" else GatewayTarget(pythons=pythons)
    gateway = open_gateway(target)
    assert gateway.python_version == sys.version_info[:3]
    assert Talk(gateway).ask(b"hello") == b"hello"
    gateway.close()


def find_python(version):
    """A Python of that version among pyenv's, or a skip."""
    found = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} here")
    return str(found[0])


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_far_side_may_be_another_python(kind, version, ssh_target):
    python = find_python(version)
    target = ssh_target(pythons=(python,)) if kind == "ssh" else GatewayTarget(pythons=(python,))
    gateway = open_gateway(target)
    talk = Talk(gateway)
    assert talk.ask(b"eval '%d.%d' % __import__('sys').version_info[:2]").decode() == version
    assert talk.ask(b"template sock.sendall(b'here')").split()[1] == b"here"
    gateway.close()


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_program_that_is_no_python(kind, ssh_target):
    target = ssh_target(pythons=("true",)) if kind == "ssh" else GatewayTarget(pythons=("true",))
    error, _ = fail_to_open(target)
    assert type(error) is BootstrapError
    assert "true" in error.message


@pytest.mark.parametrize("kind", ["local", "ssh"])
@pytest.mark.parametrize("program", ["cat", "sleep 60"])
def test_program_that_goes_on_without_being_python(kind, program, ssh_target, tmp_path):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nexec {program}\n")
    script.chmod(0o755)
    target = ssh_target(pythons=(str(script),)) if kind == "ssh" else GatewayTarget(pythons=(str(script),))
    error, took = fail_to_open(target, timeout=1.5)
    assert type(error) is BootstrapError
    assert took < 3


def test_missing_ssh_program(ssh_target):
    error, took = fail_to_open(ssh_target(ssh="/opt/no/ssh"))
    assert type(error) is ConnectError
    assert error.message == "127.0.0.1: cannot run '/opt/no/ssh': No such file or directory; install an OpenSSH client"
    assert took < 2


def test_wrong_ssh_option(ssh_target, sshd):
    error, _ = fail_to_open(ssh_target(extra_args=(*sshd.extra_args, "-o", "NoSuchOption=1")))
    assert type(error) is ConnectError
    assert "Bad configuration option: nosuchoption" in error.details


@pytest.mark.parametrize("values", [{"host": "-oProxyCommand=touch x"}, {"user": "-x"}])
def test_host_that_would_be_an_option_is_refused(values, ssh_target):
    with pytest.raises(ConnectError, match="begins with '-' would be an option of ssh"):
        open_gateway(ssh_target(**values))


@pytest.mark.parametrize("timeout", [1.5])
@pytest.mark.fault("prompt", transport="ssh")
def test_start_up_file_that_waits(timeout, sshd_factory, outcome):
    server = sshd_factory("ForceCommand echo Please wait; sleep 60")
    error, took = fail_to_open(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args), timeout)
    outcome.saw(type(error).__name__, took)
    outcome.cleaned("ssh; nothing asks at the terminal")
    assert type(error) is BootstrapError
    assert error.message == (
        "127.0.0.1: logged in, but no Python answered within 1.5 s;"
        " look for start-up files that wait or read standard input"
    )
    assert "standard output began with b'Please wait\\n'" in error.details
    assert took < 2.5


@pytest.mark.fault("noise", transport="ssh")
def test_noisy_start_up_file_does_no_harm(sshd_factory, outcome):
    server = sshd_factory('ForceCommand seq 1 5000; echo oops >&2; printf "no newline"; eval "$SSH_ORIGINAL_COMMAND"')
    gateway = open_gateway(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args))
    talk = Talk(gateway)
    assert talk.ask(b"hello") == b"hello"
    assert gateway.words() == "oops\n"
    pipes = gateway.open_data(talk.ask(b"listen " + MARKER).decode(), MARKER)
    assert echo(pipes, b"hello") == b"hello"
    outcome.saw()
    gateway.close()


@pytest.mark.fault("noise", transport="ssh")
def test_start_up_file_that_never_stops_printing(sshd_factory, outcome):
    server = sshd_factory("ForceCommand yes Welcome")
    error, took = fail_to_open(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args))
    outcome.saw(type(error).__name__, took)
    assert type(error) is BootstrapError
    assert error.message == (
        "127.0.0.1: logged in, but its start-up files printed more than 64 KiB and Python did not start;"
        " let them print only in interactive shells"
    )
    assert "standard output began with b'Welcome\\nWelcome" in error.details
    assert took < 5


def test_login_shell_that_refuses(sshd_factory):
    server = sshd_factory("ForceCommand echo This account is currently not available.; exit 1")
    error, _ = fail_to_open(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args))
    assert type(error) is BootstrapError
    assert "ended with exit code 1 before it was ready" in error.message
    assert "This account is currently not available" in error.details


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "busybox sh"])
def test_any_login_shell_will_do(shell, sshd_factory):
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"no {shell} here")
    server = sshd_factory(f'ForceCommand exec {shell} -c "$SSH_ORIGINAL_COMMAND"')
    pythons = ("python9", f"/usr/bin/env 'GREETING=it is \"$5\" \\ here' {sys.executable}")
    gateway = open_gateway(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args, pythons=pythons))
    talk = Talk(gateway)
    assert talk.ask(b"eval __import__('os').environ['GREETING']") == b'it is "$5" \\ here'
    pipes = gateway.open_data(talk.ask(b"listen " + MARKER).decode(), MARKER)
    assert echo(pipes, b"hello") == b"hello"
    gateway.close()


# Ends


def tree(pid):
    """A process and all that come from it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += tree(int(child))
    return found


def test_killed_near_side_takes_everything_with_it(target, tmp_path):
    """SIGKILL: no code of the near side runs any more."""
    script = tmp_path / "near.py"
    script.write_text(
        "import sys, time\n"
        "from easycluster.transport.gateway import GatewayTarget, open_gateway\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_gateway import BUNDLE, MARKER, Talk\n"
        f"talk = Talk(open_gateway({target!r}))\n"
        "pipes = talk.gateway.open_data(talk.ask(b'listen ' + MARKER).decode(), MARKER)\n"
        "print(talk.gateway.far_pid, talk.ask(b'eval sys.easycluster_template[1]').decode(), flush=True)\n"
        "time.sleep(60)\n"
    )
    root = str(Path(gateway_module.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(Path(__file__).parents[1])])}
    near = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    far = [int(word) for word in near.stdout.readline().split()]
    pids = [*tree(near.pid)[1:], *far]
    near.kill()
    near.wait()
    near.stdout.close()
    assert len(pids) >= 2
    assert wait_until_gone(pids, 2.0) == []


def test_ctrl_c_does_not_reach_the_gateway(talk):
    """The terminal sends it to a whole process group."""
    groups = {os.getpgid(pid) for pid in tree(talk.gateway.local_pid)}
    assert os.getpgrp() not in groups


def test_sixteen_gateways_open_at_once(sshd):
    targets = [
        GatewayTarget(kind="ssh", host=sshd.host, extra_args=sshd.extra_args) if n % 4 == 0 else GatewayTarget()
        for n in range(16)
    ]
    with ThreadPoolExecutor(16) as pool:
        gateways = list(pool.map(lambda target: open_gateway(target, timeout=30), targets))
        talks = list(pool.map(Talk, gateways))
        # The threads that opened them are gone or busy elsewhere by now, which must not matter.
        assert list(pool.map(lambda talk: talk.ask(b"hello"), talks)) == [b"hello"] * 16
        list(pool.map(Gateway.close, gateways))


def test_sshd_that_turns_some_away_is_tried_again(sshd_factory):
    server = sshd_factory("MaxStartups 1")
    target = GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args)
    with ThreadPoolExecutor(3) as pool:
        gateways = list(pool.map(lambda _: open_gateway(target, timeout=30), range(3)))
        list(pool.map(Gateway.close, gateways))


def test_sshd_that_turns_everyone_away_is_given_up(ssh_target):
    with socket.create_server(("127.0.0.1", 0)) as rude:
        thread = threading.Thread(target=hang_up, args=(rude,))
        thread.start()
        error, took = fail_to_open(ssh_target(port=rude.getsockname()[1]), timeout=20)
        socket.create_connection(rude.getsockname()).close()
        rude.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert type(error) is ConnectError
    assert error.message == (
        "127.0.0.1: the connection was closed before the login; sshd may be overloaded, or block this address"
    )
    assert took < 6


def hang_up(listener):
    """Close every connection at once."""
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def test_gateway_outlives_the_thread_that_opened_it(target):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(open_gateway(target)))
    thread.start()
    thread.join()
    talk = Talk(opened[0])
    assert talk.ask(b"hello") == b"hello"
    opened[0].close()


def test_lost_connection_ends_the_stream_with_ssh_s_words(sshd_factory):
    server = sshd_factory()
    gateway = open_gateway(GatewayTarget(kind="ssh", host=server.host, extra_args=server.extra_args))
    talk = Talk(gateway)
    assert talk.ask(b"hello") == b"hello"
    server.drop_connections()
    reason = talk.ends.get(timeout=5)
    assert reason.startswith("ssh ended with exit code 255: ")
    gateway.close()


def test_killed_shell_above_ssh_leaves_the_session_and_then_nothing(sshd):
    gateway = open_gateway(GatewayTarget(kind="ssh", host=sshd.host, extra_args=sshd.extra_args))
    talk = Talk(gateway)
    assert talk.ask(b"hello") == b"hello"
    pids = tree(gateway.local_pid)
    os.kill(gateway.local_pid, signal.SIGKILL)
    assert talk.ask(b"hello") == b"hello"
    gateway.close()
    assert len(pids) == 2
    assert wait_until_gone(pids, 2.0) == []


def test_descriptors_are_all_given_back(target):
    def cycle():
        gateway = open_gateway(target)
        talk = Talk(gateway)
        gateway.open_data(talk.ask(b"listen " + MARKER).decode(), MARKER)
        gateway.close()

    cycle()
    before = sorted(os.listdir("/proc/self/fd"))
    cycle()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_descriptors_are_given_back_after_a_failure(ssh_target):
    fail_to_open(ssh_target(pythons=("python9",)))
    before = sorted(os.listdir("/proc/self/fd"))
    fail_to_open(ssh_target(pythons=("python9",)))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_interrupted_opening_leaves_nothing(ssh_target, tmp_path):
    """Ctrl-C while ssh waits; only this process gets the signal, as its group has nobody else in it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = ssh_target(port=silent.getsockname()[1])
        timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            open_gateway(target, timeout=30)
        assert time.monotonic() - began < 5
        timer.join()


def test_forked_child_neither_holds_nor_ends_the_session(target):
    gateway = open_gateway(target)
    talk = Talk(gateway)
    assert talk.ask(b"hello") == b"hello"
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, which is the point
        child = os.fork()
    if child == 0:
        try:
            gateway.kill()
            gateway.close()
            os.write(write_fd, b"done")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(read_fd, 10) == b"done"
    assert talk.ask(b"hello") == b"hello"
    far = [gateway.far_pid]
    gateway.close()
    assert wait_until_gone(far, 2.0) == []
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read_fd)
    os.close(write_fd)


def test_jump_host(ssh_target, sshd):
    gateway = open_gateway(ssh_target(extra_args=(*sshd.extra_args, "-J", sshd.host)))
    assert Talk(gateway).ask(b"hello") == b"hello"
    gateway.close()


def test_silent_connection_is_given_up_by_ssh(sshd_factory):
    server = sshd_factory()
    extra_args = (*server.extra_args, "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1")
    gateway = open_gateway(GatewayTarget(kind="ssh", host=server.host, extra_args=extra_args))
    talk = Talk(gateway)
    assert talk.ask(b"hello") == b"hello"
    stopped = [pid for session in server.sessions() for pid in tree(session)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert talk.ends.get(timeout=6) == "ssh ended with exit code 255: the connection was cut or went silent"
    gateway.close()
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


def test_address_of_ip_version_6(sshd_factory):
    if not has_ipv6():
        pytest.skip("no IPv6 loopback here")
    server = sshd_factory(host="::1")
    gateway = open_gateway(GatewayTarget(kind="ssh", host="::1", extra_args=server.extra_args))
    assert Talk(gateway).ask(b"hello") == b"hello"
    gateway.close()


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_compression_may_be_asked_for(ssh_target):
    gateway = open_gateway(ssh_target(compress=True))
    assert b"-C" in Path(f"/proc/{tree(gateway.local_pid)[1]}/cmdline").read_bytes().split(b"\0")
    assert Talk(gateway).ask(b"x" * 100_000) == b"x" * 100_000
    gateway.close()


NEAR = """\
import sys
sys.path.insert(0, {folder!r})
from test_gateway import BUNDLE, MARKER, Talk
from easycluster.transport.gateway import GatewayTarget, open_gateway
talk = Talk(open_gateway({target!r}))
assert talk.ask(b'hello') == b'hello'
"""


def near_side(target, more):
    """Command line and environment of a program that opens the gateway and goes on with ``more``."""
    root = Path(gateway_module.__file__).parents[2]
    path = os.pathsep.join([str(root), str(Path(__file__).parents[1])])
    source = NEAR.format(folder=str(Path(__file__).parent), target=target) + more
    return [sys.executable, "-W", "error", "-c", source], {**os.environ, "PYTHONPATH": path}


def test_program_that_ends_without_closing_is_quiet_and_quick(target):
    command, environment = near_side(target, "import os, time; print(talk.gateway.far_pid); began = time.monotonic()")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    assert wait_until_gone([int(done.stdout)], 2.0) == []


def test_question_is_asked_at_the_terminal_only_if_allowed(sshd, ssh_target, tmp_path):
    known = tmp_path / "known_hosts"
    extra_args = ("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=ask", *sshd.extra_args)
    command, environment = near_side(ssh_target(extra_args=extra_args, ask=True), "print(talk.ask(b'all right'))")
    pid, terminal = fork_at_terminal(command, environment)
    assert b"continue connecting" in read_until(terminal, b"?")
    os.write(terminal, b"yes\n")
    assert b"all right" in read_until(terminal, b"all right")
    os.waitpid(pid, 0)
    os.close(terminal)
    assert known.read_text()


def fork_at_terminal(command, environment):
    """Run a program with a terminal of its own, as its session's leader."""
    leader, follower = os.openpty()
    script = (
        "import os, sys, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    process.returncode = 0  # reaped by its process id
    return process.pid, leader


def read_until(fd, words):
    seen = b""
    while words not in seen:
        try:
            data = os.read(fd, 1000)
        except OSError:
            break
        if not data:
            break
        seen += data
    return seen
