"""A host at the other end of a cable: a network namespace of its own, behind a real pair of veth devices.

The cable can be pulled, fall silent, answer with resets, let only one direction or only small packets through; with
``wire`` it is made of two TUN devices and a program that delays, drops and reorders packets (see
:mod:`support.wire`; not every kernel has netem).  The namespace lives with a process that dies with us, and the devices
with the namespace, so nothing is left even if pytest is killed.

Needs root, ``ip`` and ``nft``; without them the tests are skipped, and in CI they fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.sshd import Sshd

__all__ = ["Host", "HostSshd", "require_netns"]

TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux", "setpriv": "util-linux"}

# 198.18.0.0/15 is set aside for tests of networks (RFC 2544): two addresses for each cable.
CABLES = 256


def require_netns() -> None:
    """Skip the test where no network namespaces can be made; in CI it fails instead."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    text = ""
    if sys.platform != "linux" or os.geteuid() != 0:
        text = "needs root on Linux, for network namespaces"
    elif missing:
        text = f"needs network namespaces and filters: install {' and '.join(missing)}"
    elif subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        text = "needs network namespaces, which this machine does not allow"
    if text and os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    if text:
        pytest.skip(text)


class Host:
    """A network namespace and the cable to it.

    Args:
        wire: Arguments for :mod:`support.wire`, such as ``("--delay", "0.025", "--loss", "0.05")``; without any the
            cable is a pair of veth devices.

    Attributes:
        address: Of the host.
        near_address: Of our end of the cable.
        device: Our end of the cable.
    """

    def __init__(self, *wire: str) -> None:
        number, self._lock = _take_number()
        self.near_address, self.address = _addresses(number)
        self.device = f"ec{os.getpid() % 10**6}v{number}"
        self._children: list[subprocess.Popen[bytes]] = []
        self._holder = self._start("unshare", "--net", "sleep", "infinity")
        # The namespace is there once the holder has become sleep.
        _wait(lambda: Path(f"/proc/{self._holder.pid}/comm").read_text() == "sleep\n", "a namespace")
        self._namespace = os.readlink(f"/proc/{self._holder.pid}/ns/net")
        if wire:
            self._lay_wire(wire)
        else:
            _run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
            _run("ip", "addr", "add", f"{self.near_address}/30", "dev", self.device)
            _run("ip", "link", "set", self.device, "up")
            self.run("ip", "addr", "add", f"{self.address}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "link", "set", "lo", "up")

    def _lay_wire(self, wire: tuple[str, ...]) -> None:
        far = self.device + "f"
        program = str(Path(__file__).with_name("wire.py"))
        process = self._start(sys.executable, "-I", program, self.device, far, *wire, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        _run("ip", "link", "set", far, "netns", str(self.pid))
        self.run("ip", "link", "set", far, "name", "eth0")
        _run("ip", "addr", "add", self.near_address, "peer", self.address, "dev", self.device)
        _run("ip", "link", "set", self.device, "up")
        self.run("ip", "addr", "add", self.address, "peer", self.near_address, "dev", "eth0")

    @property
    def pid(self) -> int:
        """A process in the namespace, which keeps it."""
        return self._holder.pid

    @property
    def prefix(self) -> list[str]:
        """What makes a command run on the host."""
        return ["nsenter", "-t", str(self.pid), "-n", "--"]

    def run(self, *command: str) -> str:
        """Run a command on the host and return what it printed."""
        return _run(*self.prefix, *command)

    def start(self, *command: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a program on the host; it dies with us."""
        return self._start(*self.prefix, *command, **options)

    def _start(self, *command: str, **options: object) -> subprocess.Popen[bytes]:
        # setpriv, nsenter and unshare become what they start: the process is the program itself.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            **{"stdin": subprocess.DEVNULL, "start_new_session": True, **options},  # type: ignore[call-overload]
        )
        self._children.append(process)
        return process

    # What can go wrong ---------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull the cable at the host's end: our device loses its carrier."""
        self.run("ip", "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Plug the cable in again, and let everything pass."""
        self.heal()
        self.run("ip", "link", "set", "eth0", "up")

    def fall_silent(self) -> None:
        """Drop every packet in both directions, and tell nobody."""
        self.filter("drop", "drop")

    def fall_half_silent(self) -> None:
        """Drop what the host sends; what we send still arrives."""
        self.filter("", "drop")

    def reset(self) -> None:
        """Answer every TCP packet with a reset to whoever sent it."""
        rule = "meta l4proto tcp tcp flags & rst == 0 reject with tcp reset"
        self.filter(rule, rule)

    def drop_large(self, size: int) -> None:
        """Drop packets of more bytes than ``size``, without the message that would tell the sender."""
        self.filter(f"meta length > {size} drop", f"meta length > {size} drop")

    def lose_large(self, size: int, *, there: bool) -> None:
        """Drop packets of more bytes than ``size`` in one direction, on arrival, so that no sender can know.

        Args:
            size: The largest that passes.
            there: Whether it is on the way to the host, or back.
        """
        device, prefix = ("eth0", self.prefix) if there else (self.device, [])
        rules = (
            f"table netdev {self.device}\ndelete table netdev {self.device}\n"
            f"table netdev {self.device} {{ chain in {{ type filter hook ingress device {device} priority 0; "
            f"meta length > {size} drop; }}; }}\n"
        )
        _nft(prefix, rules)

    def break_after(self, count: int, verdict: str = "drop") -> None:
        """Let so many bytes of ours arrive; a verdict is on what comes then."""
        self.filter(f"quota over {count} bytes {verdict}", "")

    def slow_down(self) -> None:
        """Let through 30 MB in a second in either direction, and drop what is above."""
        rule = "limit rate over 30 mbytes/second burst 1 mbytes drop"
        self.filter(rule, rule)

    def forget_connections(self) -> None:
        """Kill whoever holds a TCP connection, listeners excepted, as a restart of the host would."""
        held = {line.split()[9] for line in self._tcp() if line.split()[3] == "01"}
        for pid in self.inside():
            with contextlib.suppress(OSError):
                targets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
                if targets & {f"socket:[{inode}]" for inode in held}:
                    os.kill(pid, signal.SIGKILL)
        _wait(lambda: all(line.split()[3] != "01" for line in self._tcp()), "the end of connections")

    def tcp_sockets(self) -> set[str]:
        """Every TCP socket of the host, as /proc calls them in the descriptors of processes."""
        return {f"socket:[{line.split()[9]}]" for line in self._tcp()}

    def _tcp(self) -> list[str]:
        return Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]

    def filter(self, incoming: str, outgoing: str) -> None:
        """Replace the rules for what comes in and what goes out, lo excepted; "" lets everything pass."""
        rules = "table inet faults\ndelete table inet faults\n"
        if incoming or outgoing:
            rules += (
                "table inet faults {\n"
                f'chain in {{ type filter hook input priority 0; iifname "eth0" {incoming or "accept"}; }}\n'
                f'chain out {{ type filter hook output priority 0; oifname "eth0" {outgoing or "accept"}; }}\n'
                "}\n"
            )
        _nft(self.prefix, rules)

    def heal(self) -> None:
        """Let everything pass again."""
        self.filter("", "")
        for prefix in (self.prefix, []):
            _nft(prefix, f"table netdev {self.device}\ndelete table netdev {self.device}\n")

    # What runs there -----------------------------------------------------------------------------

    def serve(self, key_file: Path, folder: Path, port: int = 11999) -> subprocess.Popen[bytes]:
        """Start an EasyCluster server on the host, whose temporary files go to ``folder``."""
        environment = {**os.environ, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": ""}
        words = ("-S", "-k", str(key_file), "-b", self.address, "-p", str(port))
        process = self.start(
            sys.executable, "-m", "easycluster", *words, env=environment, cwd="/", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert b"listening" in process.stdout.readline()
        self.wait_for(port)
        return process

    def wait_for(self, port: int) -> None:
        """Wait until somebody listens there, without connecting, so that no handshake is begun."""
        wanted = f":{port:04X} 00000000:0000 0A"
        _wait(lambda: wanted in Path(f"/proc/{self.pid}/net/tcp").read_text(), f"port {port}")

    def close(self) -> None:
        """End every process of the host; the kernel removes the namespace and the cable with the last one."""
        for process in self._children:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            if process.stdout is not None:
                process.stdout.close()
            process.wait()
        while pids := self.inside():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _wait(lambda: not Path(f"/sys/class/net/{self.device}").exists(), "the end of a namespace")
        self._lock.close()

    def inside(self) -> list[int]:
        """Every process of the host."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/net") == self._namespace:
                    found.append(int(entry))
        return found

    def __enter__(self) -> Host:  # noqa: PYI034  # typing.Self needs 3.11
        """The host as it is."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End it."""
        self.close()


class HostSshd(Sshd):
    """An sshd on a :class:`Host`, with port 22 to itself."""

    def __init__(self, host: Host, *lines: str) -> None:
        super().__init__(*lines, host=host.address)
        self._there = host

    def start(self) -> None:
        """Run sshd and wait until it listens."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.port = 22
        self.write_config()
        # ssh names the port of a host only if it is another one.
        known = self.folder / "known_hosts"
        known.write_text(known.read_text().replace(f"[{self.host}]:22", self.host))
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        self.run([*self._there.prefix, program, "-D", "-f", f"{self.folder}/sshd_config", "-E", f"{self.folder}/log"])
        self._there.wait_for(22)


def _take_number() -> tuple[int, socket.socket]:
    """A number that no other process of this machine has, and what keeps it."""
    for number in range(CABLES):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0easycluster-test-cable-{number}")
        except OSError:
            lock.close()
            continue
        # Of a run that was killed, whose namespace is about to go.
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_addresses(number)[0], 0))
            lock.close()
            continue
        return number, lock
    raise RuntimeError("all cables are in use")


def _addresses(number: int) -> tuple[str, str]:
    """Of our end of a cable and of the host's."""
    first = (198 << 24) + (18 << 16) + 4 * number
    return _dotted(first + 1), _dotted(first + 2)


def _dotted(number: int) -> str:
    return socket.inet_ntoa(number.to_bytes(4, "big"))


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _nft(prefix: list[str], rules: str) -> None:
    """Change the filters of the namespace that ``prefix`` leads to."""
    subprocess.run([*prefix, "nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True, timeout=30)


def _wait(condition: object, what: str) -> None:
    end = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"no sign of {what} within 20 s")
        time.sleep(0.005)
