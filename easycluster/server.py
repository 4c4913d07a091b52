"""The server of hosts without ssh: ``Server``, ``run_server``, ``stop_server``; and ``spawn_local``.

A server binds to the loopback unless told otherwise and does not start without
a good key.  Each connection is its own far-side process with a clean
environment.  Whoever holds the key runs any code as the server's user: that is
what it is for.  The key proves and protects, it does not encrypt; where others
can listen, use ssh.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.errors import KeyFileError
from easycluster.keys import KEY_SIZE, Key
from easycluster.transport.audit import Audit
from easycluster.transport.daemon import daemonize_process, pid_file, stop_on_signals
from easycluster.transport.keyring import KeyRing
from easycluster.transport.listener import DEFAULT_PORT, Listener, open_sockets, parse_allow
from easycluster.transport.serving import Limits, Session, Spawner
from easycluster.wire.auth import key_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Self

__all__ = ["QuietServer", "Server", "Session", "run_server", "server_main", "spawn_local", "stop_server"]

# The server that run_server runs, for stop_server.
_running: Server | None = None


class Server:
    """An EasyCluster server.

    The port is open once the constructor returns; clients get in once ``serve_forever`` or
    ``start`` runs.  Override ``report_connection``, ``report_disconnection`` and ``report_request``
    to be told; they run in the server's thread.

    Args:
        port: The TCP port; 0 takes a free one, see ``port``.
        key: The HMAC key, 32 bytes; or give ``keyfile``.
        bind: The address to listen on: None is the loopback only, ``"*"`` every address.
        keyfile: A key file, or a folder with a key file ``NAME.key`` for each client.  Looked at every
            second: a new key works at once, and the sessions of one that is gone or replaced end.
        audit: Where to write the audit log, a file name, or ``-`` for the standard output; by default
            the class's ``audit``, which is None: nowhere.
        allow: Addresses and subnets that may connect; empty means everyone who reaches the port.
        verbosity: 0 reports trouble only, 1 connections, 2 also calls.
        no_ipv6: Leave IPv6 out.
        max_sessions: How many sessions to run at a time.
        profile: Where far-side workers write profiles, a file name; the process id is appended.
        spawner: Where keeper processes come from; by default our own.

    Raises:
        KeyFileError: If the key is missing or has the wrong size, or a key file cannot be used.
        ValueError: If an allowed address is none, or a key is given in both ways.
        OSError: If the port or the audit log cannot be had.
    """

    audit: str | os.PathLike[str] | None = None

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        key: bytes = b"",
        bind: str | None = None,
        *,
        keyfile: str | os.PathLike[str] | None = None,
        audit: str | os.PathLike[str] | None = None,
        allow: Iterable[str] = (),
        verbosity: int = 0,
        no_ipv6: bool = False,
        max_sessions: int = 64,
        profile: str | None = None,
        spawner: Spawner | None = None,
    ) -> None:
        if key and keyfile is not None:
            raise ValueError("a server takes its keys from one place: give key or keyfile, not both")
        self._keyring = KeyRing(keyfile) if keyfile is not None else None
        self._key = key = Key(key)
        if self._keyring is None:
            _check_key(key)
        self.verbosity = verbosity
        if audit is not None:
            self.audit = audit
        self._allow = parse_allow(allow)
        self._limits = Limits(sessions=max_sessions)
        self._settings: dict[str, Any] = {"report": verbosity >= 2}
        if profile is not None:
            self._settings["profile"] = os.path.abspath(profile)
        self._reports = _Reports(self)
        self._audit: Audit | None = None
        self._sockets = open_sockets(bind, port, no_ipv6=no_ipv6)
        try:
            if self.audit is not None:
                self._audit = Audit(self.audit, self._reports.failed)
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise
        self._addresses: list[tuple[str, int]] = [sock.getsockname()[:2] for sock in self._sockets]
        self._spawner = spawner
        self._listener: Listener | None = None
        # The thread that runs the loop, and whether it is through.
        self._runner: threading.Thread | None = None
        self._thread: threading.Thread | None = None  # the runner, if start() made it
        self._ended = threading.Event()
        # Guards what close() and a starting server both touch.
        self._lock = threading.Lock()
        self._stopping = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.where}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Every address and port that the server listens on."""
        return list(self._addresses)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._addresses[0][1]

    @property
    def where(self) -> str:
        """The addresses as text."""
        return " and ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self._addresses)

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are up."""
        return self._listener.sessions if self._listener else []

    def report_connection(self, session: Session) -> None:
        """A client connected; by default printed from verbosity 1 on."""
        if self.verbosity >= 1:
            self.log(f"{session.peer}: connected")

    def report_disconnection(self, session: Session) -> None:
        """A session ended; by default printed from verbosity 1 on."""
        if self.verbosity >= 1:
            self.log(f"{session.peer}: disconnected")

    def report_request(self, session: Session, text: str) -> None:
        """A session runs a call, never shown with its arguments' values; by default printed at verbosity 2.

        Reported only if the server was made with verbosity 2.
        """
        if self.verbosity >= 2:
            self.log(f"{session.peer}: {text}")

    def log(self, text: str) -> None:
        """Where all reports go: standard output."""
        print(text, flush=True)  # noqa: T201  # a server talks to its terminal or journal

    def start(self) -> None:
        """Let clients in, in a thread of the server's own, until ``close``."""
        listener = self._open()
        self._thread = self._runner = threading.Thread(
            target=self._run, args=(listener,), name=f"easycluster server {self.where}", daemon=True
        )
        self._runner.start()

    def serve_forever(self) -> None:
        """Let clients in until ``stop`` is called, then close."""
        listener = self._open()
        self._runner = threading.current_thread()
        try:
            self._run(listener)
        finally:
            self.close()

    def stop(self) -> None:
        """End ``serve_forever``, from any thread or signal handler; also if it has not begun."""
        self._stopping = True
        if self._listener is not None:
            self._listener.stop()

    def reload(self) -> None:
        """Look at the key files now, and open the audit log again; from any thread or signal handler."""
        if self._listener is not None:
            self._listener.reload()

    def close(self) -> None:
        """Close the port and end every session; again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.stop()
        if self._runner is None:
            if self._listener is not None:
                self._listener.close()
        elif self._runner is not threading.current_thread():
            self._ended.wait()
            if self._thread is not None:
                self._thread.join()
        for sock in self._sockets:
            sock.close()
        if self._spawner is not None:
            self._spawner.close()
        if self._audit is not None:
            if self._listener is not None:
                self._audit.write("server", what="stopped")
            self._audit.close()

    def _open(self) -> Listener:
        with self._lock:
            if self._closed or self._runner is not None:
                raise RuntimeError(f"{self!r} has already been started; make a new one")
            if self._listener is not None:
                return self._listener
            if self._spawner is None:
                # Not earlier: what starts keepers must be a child of the process that serves.
                from easycluster.transport.sessions import SessionSpawner

                self._spawner = spawner = SessionSpawner()
                # Now, so that no client waits for it and a fault shows before the server says that it serves.
                spawner.start()
            # A client that names no key means the only one.
            keys = {b"": self._key, key_id(self._key): self._key}
            self._listener = Listener(
                self._sockets,
                self._keyring.find if self._keyring is not None else keys.get,
                self._spawner,
                self._reports,
                allow=self._allow,
                limits=self._limits,
                settings=self._settings,
                keyring=self._keyring,
                audit=self._audit,
            )
            if self._audit is not None:
                names = self._keyring.names if self._keyring is not None else []
                self._audit.write("server", what="started", pid=os.getpid(), where=self.where, keys=names)
        if self._stopping:
            self._listener.stop()
        return self._listener

    def _run(self, listener: Listener) -> None:
        try:
            listener.run()
        finally:
            self._ended.set()


class QuietServer(Server):
    """A server that reports nothing but trouble; kept for scripts that name it, since every server is quiet now."""

    def report_connection(self, session: Session) -> None:
        """Say nothing."""

    def report_disconnection(self, session: Session) -> None:
        """Say nothing."""

    def report_request(self, session: Session, text: str) -> None:
        """Say nothing."""


class _Reports:
    """Passes what the listener sees on to methods that users may override, and survives their faults."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connected(self, session: Session) -> None:
        with self._reported():
            self._server.report_connection(session)

    def disconnected(self, session: Session) -> None:
        with self._reported():
            self._server.report_disconnection(session)

    def requested(self, session: Session, text: str) -> None:
        with self._reported():
            self._server.report_request(session, text)

    def refused(self, text: str) -> None:
        if self._server.verbosity >= 1:
            with self._reported():
                self._server.log(text)

    def failed(self, text: str) -> None:
        with self._reported():
            self._server.log(text)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001  # a fault in a report must not end every session
            traceback.print_exc()


def run_server(
    port: int = DEFAULT_PORT,
    key: bytes = b"",
    bindaddr: str | None = None,
    allow: Sequence[str] = (),
    verbosity: int = 0,
    daemonize: bool = False,
    pidfile: str | os.PathLike[str] | None = None,
    disable_ipv6: bool = False,
    profile: str | None = None,
    *,
    server_class: type[Server] = Server,
    max_sessions: int = 64,
    keyfile: str | os.PathLike[str] | None = None,
    audit: str | os.PathLike[str] | None = None,
) -> None:
    """Run a server until ``stop_server``, SIGTERM or SIGINT, or until its terminal hangs up.

    SIGHUP from anyone but the terminal has the key files looked at and the audit log opened again.

    Args:
        port: The TCP port to listen on.
        key: The HMAC key, 32 bytes; or give ``keyfile``.
        bindaddr: The address to listen on: None is the loopback only, ``"*"`` every address.
        allow: Addresses and subnets that may connect; empty means everyone who reaches the port.
        verbosity: 0 reports trouble only, 1 connections, 2 also calls.
        daemonize: Go on in the background; the caller's process exits once the server serves.
        pidfile: Where to write the process id; removed when the server ends.
        disable_ipv6: Leave IPv6 out.
        profile: Where far-side workers write profiles.
        server_class: What to run.
        max_sessions: How many sessions to run at a time.
        keyfile: A key file, or a folder with a key file ``NAME.key`` for each client.
        audit: Where to write the audit log.

    Raises:
        KeyFileError: If the key is missing or has the wrong size, or a key file cannot be used.
        ValueError: If an allowed address is none, or a key is given in both ways.
        OSError: If the port, the pidfile or the audit log cannot be had.
    """
    global _running
    if daemonize and not hasattr(os, "fork"):
        raise OSError("this system cannot put a server into the background (-d); run it as a service of the system")
    pid_path = None if pidfile is None else Path(pidfile).absolute()
    with (
        server_class(
            port,
            key,
            bindaddr,
            allow=allow,
            verbosity=verbosity,
            no_ipv6=disable_ipv6,
            profile=profile,
            max_sessions=max_sessions,
            keyfile=keyfile,
            audit=audit,
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        announce = None
        if daemonize:
            server.log(f"listening on {server.where}")  # while there is a terminal to say it on
            announce = daemonize_process()
        try:
            if pid_path is not None:
                stack.enter_context(pid_file(pid_path))
            stack.enter_context(stop_on_signals(server))
            server._open()
        except BaseException as exc:
            if announce is not None:
                announce((exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__)
            raise
        if announce is None:
            server.log(f"listening on {server.where}")  # who reads this may signal the process at once
        else:
            announce("")
        _running = server
        try:
            server.serve_forever()
        finally:
            _running = None


def stop_server() -> None:
    """Stop the server that ``run_server`` runs in this process, from any thread; without one, do nothing."""
    if _running is not None:
        _running.stop()


def server_main(args: Sequence[str] | None = None) -> int:
    """Run the ``easycluster`` command and return its exit status.

    Args:
        args: The command line without the program's name; by default this process's.
    """
    # The command lies above this module, and this is only its classic name.
    return int(importlib.import_module("easycluster.cli").main(args))


def spawn_local(*args: Any, **kwargs: Any) -> Any:
    """Start a far side on this machine and return a client of it; see ``easycluster.connect.spawn_local``."""
    return importlib.import_module("easycluster.connect").spawn_local(*args, **kwargs)


def _check_key(key: bytes) -> None:
    if not key:
        raise KeyFileError("a server needs a key: make a key file with: easycluster -g FILE, and give it with: -k FILE")
    if len(key) != KEY_SIZE:
        raise KeyFileError(f"a key is {KEY_SIZE} bytes long, this one has {len(key)}; use generate_key()")
