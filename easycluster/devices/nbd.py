"""A disk in memory that fails when it is told to: ``nbdkit`` with its filters, and a client for it.

::

    with open_disk(64 << 20, host=host) as disk:
        disk.write(0, bytes(4096))
        with disk.failing("read"):
            ...                     # reads are answered with EIO, whoever asks

The program runs on the host, or here, behind a socket file; ``disk.uri`` is for others who speak NBD there.  It ends
with the session that started it.  The client speaks what doc/proto.md of NetworkBlockDevice/nbd calls the fixed
newstyle handshake and simple replies.

This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import time
from typing import Any, Dict, Iterator, Optional, Tuple

from easycluster.devices.san.guard import Guarded
from easycluster.errors import EasyClusterError, Unsupported
from easycluster.objects.exports import ServerObject

__all__ = ["DiskError", "NbdDisk", "NbdServer", "open_disk"]

_START = 20.0
_ANSWER = 10.0
# What can fail by itself; nbdkit-error-filter(1).
_FAILING = {"read": "pread", "write": "pwrite", "trim": "trim", "zero": "zero"}
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM = range(5)
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")


class DiskError(EasyClusterError, OSError):
    """A disk answered with an error, or not at all; ``errno`` says which."""


class _Client:
    """One connection to a disk.

    Args:
        path: Of its socket.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER)
        try:
            self._socket.connect(path)
            magic, option, _ = struct.unpack(">8s8sH", self._take(18))
            if (magic, option) != (b"NBDMAGIC", b"IHAVEOPT"):
                raise DiskError(0, f"{path} does not speak NBD")
            # Fixed newstyle, no zeroes; then the export without a name.
            self._socket.sendall(struct.pack(">I", 3) + struct.pack(">8sII", b"IHAVEOPT", 1, 0))
            self.size, self.flags = struct.unpack(">QH", self._take(10))
        except BaseException:
            self._socket.close()
            raise

    def ask(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"") -> bytes:
        self._socket.sendall(_REQUEST.pack(0x25609513, 0, kind, 0, offset, length) + data)
        _, error, _ = _REPLY.unpack(self._take(_REPLY.size))
        if error:
            raise DiskError(error, f"{os.strerror(error)} at {offset}, {length} bytes")
        return self._take(length) if kind == _READ else b""

    def _take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._socket.recv(length - len(data))
            if not more:
                raise DiskError(0, "the disk has ended the connection")
            data += more
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(_REQUEST.pack(0x25609513, 0, _DISCONNECT, 0, 0, 0))
        self._socket.close()


class NbdServer(ServerObject):
    """An nbdkit and a connection to it, where they run.

    Args:
        size: Of the disk, in bytes.
        error: What failing operations are answered with, such as ``"EIO"``.
        share: Of how many of them, from 0 to 1.
        delay: Seconds that each read and write takes, always.
    """

    def __init__(self, size: int, error: str = "EIO", share: float = 1.0, delay: float = 0.0) -> None:
        program = shutil.which("nbdkit", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
        if program is None:
            raise Unsupported("open_disk()", "nbdkit is not installed there; Debian has it in nbdkit")
        self._folder = tempfile.mkdtemp(prefix="ec-nbd-")
        self._process: Optional[Guarded] = None
        self._client: Optional[_Client] = None
        self.path = os.path.join(self._folder, "disk")
        words = [program, "--foreground", "--unix", self.path, "--filter=error", "--filter=delay", "memory", str(size)]
        for name in _FAILING.values():
            words += [f"error-{name}={error}", f"error-{name}-rate={share * 100:g}%"]
            words.append(f"error-{name}-file={self._switch(name)}")
        if delay:
            words += [f"rdelay={delay * 1000:.0f}ms", f"wdelay={delay * 1000:.0f}ms"]
        try:
            with open(os.path.join(self._folder, "log"), "wb") as log:
                self._process = Guarded(words, log.fileno(), dict(os.environ), [self._folder])
            self._wait()
        except BaseException:
            self.close()
            raise

    def _switch(self, name: str) -> str:
        """The file whose being there makes an operation fail."""
        return os.path.join(self._folder, f"fail-{name}")

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _START
        while self._client is None:
            # The socket's file is there a moment before anybody listens.
            try:
                self._client = _Client(self.path)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            if not self._process.alive or time.monotonic() > end:
                with open(os.path.join(self._folder, "log"), errors="replace") as log:
                    raise DiskError(0, f"nbdkit does not start: {log.read()[-1000:].strip()}")
            time.sleep(0.005)

    def ask(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"") -> bytes:
        """One request; a connection that was given up is made anew by the next."""
        if self._client is None:
            self._client = _Client(self.path)
        try:
            return self._client.ask(kind, offset, length, data)
        except DiskError as exc:
            if not exc.errno:
                self._drop()
            raise
        except OSError as exc:
            self._drop()
            text = f"the disk did not answer within {_ANSWER:g} s" if isinstance(exc, socket.timeout) else str(exc)
            raise DiskError(exc.errno or 110, text) from None

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def fail(self, operation: str, on: bool) -> None:
        """Have an operation fail from now on, or not any more."""
        path = self._switch(_FAILING[operation])
        if on:
            open(path, "w").close()
        elif os.path.exists(path):
            os.unlink(path)

    def stop(self, on: bool) -> None:
        """Stop the program, or let it go on."""
        assert self._process is not None
        (self._process.stop if on else self._process.resume)()

    def close(self) -> None:
        """End it."""
        self._drop()
        if self._process is not None:
            self._process.kill()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


class NbdDisk:
    """A disk, as a test has it; usable in ``with``.

    Args:
        server: Where it is, or a proxy for it.
        path: Of its socket there.
    """

    def __init__(self, server: Any, path: str) -> None:
        self._server = server
        self.path = path
        # How many blocks want an operation to fail, and the disk to hang.
        self._wanted: Dict[str, int] = {}

    def __enter__(self) -> NbdDisk:  # noqa: PYI034  # typing.Self needs 3.11
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """For others who speak NBD, on the host where it runs."""
        return f"nbd+unix:///?socket={self.path}"

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of it.

        Raises:
            DiskError: If it says so, or does not answer in 10 s.
        """
        data: bytes = self._server.ask(_READ, offset, length)
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes of it; errors as in :meth:`read`."""
        self._server.ask(_WRITE, offset, len(data), data)

    def flush(self) -> None:
        """Have what was written stay."""
        self._server.ask(_FLUSH)

    def trim(self, offset: int, length: int) -> None:
        """Say that bytes are not needed any more."""
        self._server.ask(_TRIM, offset, length)

    def failing(self, *operations: str) -> Any:
        """In a ``with`` block, answer ``"read"``, ``"write"``, ``"trim"``, ``"zero"``, or all, with an error."""
        unknown = set(operations) - set(_FAILING)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} is none of {', '.join(_FAILING)}")
        return self._while(tuple(operations) or tuple(_FAILING))

    def hanging(self) -> Any:
        """In a ``with`` block, answer nothing."""
        return self._while(("",))

    @contextlib.contextmanager
    def _while(self, switches: Tuple[str, ...]) -> Iterator[None]:
        begun = []
        try:
            for one in switches:
                begun.append(one)
                self._count(one, 1)
            yield
        finally:
            for one in begun:
                self._count(one, -1)

    def _count(self, switch: str, step: int) -> None:
        before = self._wanted.get(switch, 0)
        self._wanted[switch] = now = before + step
        if bool(before) != bool(now):
            if switch:
                self._server.fail(switch, bool(now))
            else:
                self._server.stop(bool(now))

    def close(self) -> None:
        """End it."""
        self._server.close()


def open_disk(size: int, *, host: Any = None, error: str = "EIO", share: float = 1.0, delay: float = 0.0) -> NbdDisk:
    """Serve a disk from memory.

    Args:
        size: Bytes.
        host: A host of the lab, or a client, that it runs on; by default this machine.
        error: What is answered while it fails: EPERM, EIO, ENOMEM, EINVAL, ENOSPC or ESHUTDOWN.
        share: How many of the requests fail then, from 0 to 1.
        delay: Seconds that each read and write takes, always.

    Raises:
        Unsupported: If nbdkit is not installed there; a test is skipped then.
    """
    if host is None:
        server: Any = NbdServer(size, error, share, delay)
    else:
        client = (getattr(type(host), "remote", None) and host.remote) or host
        client.import_module(__name__)
        server = client.call(f"{__name__}.NbdServer", size, error, share, delay)
    return NbdDisk(server, str(server.path))
