"""What an adapter is: a small class that says how one peer does what is measured.

A :class:`Peer` starts what its sessions need and opens them; a :class:`Session` is one connection.  Both live in a
child process that runs the peer's own interpreter, so an adapter imports the library of its peer, and nothing else of
this checkout but :mod:`benchmarks.peers` and the standard library.  What a peer cannot do raises
:class:`Unsupported`, and the table says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from typing_extensions import Self

# On PYTHONPATH of every child, so that peers that import by name find it on both sides.
FAR = Path(__file__).resolve().parents[1] / "far"
FAR_SOURCE = FAR / "bench_far.py"

# What a far side is given where the start is what is measured.
LEAN = """
import os

def add(a, b):
    return a + b

def process_id():
    return os.getpid()
"""

START_TIMEOUT = 20.0


class Unsupported(Exception):
    """The peer cannot do this; the text says why."""


class Session:
    """One connection.  ``call`` is what every peer has; the others are done by it where they can be."""

    def call(self, name: str, *args: Any) -> Any:
        """Run a function of ``bench_far`` on the far side and return its value."""
        raise Unsupported("runs commands only")

    def add(self, a: int, b: int) -> int:
        """Add on the far side, the way a user of the peer writes it."""
        result: int = self.call("add", a, b)
        return result

    def start(self, name: str, *args: Any) -> Any:
        """Begin a call and return what :meth:`gather` takes."""
        raise Unsupported("no nonblocking call")

    def gather(self, started: Sequence[Any]) -> list[Any]:
        """Return the values of calls that were begun, in order."""
        raise Unsupported("no nonblocking call")

    def batch(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Make many calls in one message."""
        raise Unsupported("no batch of calls")

    def attribute(self) -> int:
        """Read ``value`` of a far-side ``Holder`` through its proxy."""
        raise Unsupported("no proxies")

    def stream(self, count: int) -> Iterator[int]:
        """Iterate over the far-side generator ``count_up``."""
        raise Unsupported("no generators")

    def send(self, value: Any) -> int:
        """Give a value to the far side, which says its size."""
        result: int = self.call("size", value)
        return result

    def fetch(self, maker: str) -> Any:
        """Fetch the value that ``keep`` has made there."""
        return self.call("kept", maker)

    def functions(self) -> ModuleType:
        """Return ``bench_far`` as this side knows it: what its classes are pickled by."""
        import bench_far  # on the path of the child only

        module: ModuleType = bench_far
        return module

    def everywhere(self, sessions: Sequence[Any], name: str, *args: Any) -> Callable[[], list[Any]] | None:
        """Return what calls a function in several sessions at once, None if the peer has no way of its own for it."""
        return None

    def for_thread(self) -> Session:
        """Return what one more thread of this side uses: this connection, or its own where it cannot be shared."""
        return self

    def close(self) -> None:
        """End the session."""


class Peer:
    """Where sessions come from; enter it to start what they need.

    Args:
        settings: ``ssh_config``, ``ssh_host`` and ``ssh_master``, the host that shares a connection.
    """

    # What `import` is timed of, "" for none.
    imports = ""
    # Whether threads can use one session at once.
    shared = True
    # Whether far sides get next to no definitions.
    lean = False

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = settings
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self.stack as stack:
            self.serve()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def serve(self) -> None:
        """Start what sessions need."""

    def open(self) -> Session:
        """Connect."""
        raise NotImplementedError

    def own(self, session: Session) -> Session:
        """Return what one more thread uses if it shall have a connection of its own."""
        return self.open()

    @property
    def source(self) -> str:
        """What a far side is to run that takes source."""
        return LEAN if self.lean else FAR_SOURCE.read_text()

    @property
    def ssh(self) -> list[str]:
        """The ssh command for the far side."""
        return ["ssh", "-F", self.settings["ssh_config"], self.settings["ssh_host"]]


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it goes, however it goes: prctl(2)."""
    with contextlib.suppress(AttributeError):  # Linux has it
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextlib.contextmanager
def served(command: Sequence[str], cwd: str = "/") -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block ends."""
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        cwd=cwd,
        preexec_fn=die_with_parent,
    )
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(3.0)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()


@contextlib.contextmanager
def python_server(code: str) -> Iterator[str]:
    """Run code that prints ``READY ADDRESS`` once it serves; gives the address.

    Raises:
        RuntimeError: If it ends before.
    """
    with served([sys.executable, "-c", code]) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("READY"):
                yield line.split(None, 1)[1].strip()
                return
        raise RuntimeError(f"the server ended with {server.wait()} before it was ready")


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(port: int, server: subprocess.Popen[Any]) -> None:
    """Return once something listens.

    Raises:
        RuntimeError: If the server ends or START_TIMEOUT passes first.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens on port {port}, exit status {server.poll()}")


def home() -> str:
    """Return the folder with the far side's functions, for PYTHONPATH."""
    return os.fspath(FAR)
