"""One far side, as the near side holds it: its control link, its worker, its data link."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from easycluster.client.monitor import HEARTBEAT, Control, monitor
from easycluster.client.plain import load_plain
from easycluster.client.process import Weak
from easycluster.client.session import NearSession
from easycluster.errors import (
    BootstrapError,
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    ConnectTimeout,
    EasyClusterError,
    ProtocolError,
    SessionError,
    WorkerDied,
)
from easycluster.link.operations import describe_operation
from easycluster.link.pending import Expired, Pending
from easycluster.objects.registry import Exports, Proxies
from easycluster.version import VERSION
from easycluster.wire.frames import Kind
from easycluster.wire.values import PeerInfo, Values, this_python

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.client.died import Died
    from easycluster.link.streams import DataLink

__all__ = ["Carrier", "Endpoint", "Options"]

# Seconds that the control link gets to say why the data link ended.
EXPLAIN_TIME = 2.0


class Carrier(Protocol):
    """A transport that can reach one far side."""

    # Whether the keeper offers a unix socket to hand pipes over.
    needs_socket: bool
    # Whether compression is ours to do; ssh does its own.
    compresses_frames: bool

    def open_control(self, control: Control, timeout: float) -> None:
        """Start the far side and connect the control link."""

    def open_data(self, control: Control, marker: bytes, timeout: float) -> DataLink:
        """Connect a data link to the worker."""

    def words(self) -> str:
        """Return what ssh or the system said about the link, "" if nothing."""

    def kill(self) -> None:
        """End the link by force, so that a blocked read returns."""

    def close(self, timeout: float) -> None:
        """Give everything back."""


@dataclass
class Options:
    """What a session is opened with.

    Attributes:
        label: The host as messages name it.
        definitions: Names of its definitions modules.
        compress: Whether the link is compressed, where the transport can.
        heartbeat: Seconds between heartbeats.
        lost_after: Seconds of silence after which the other side counts as lost.
        max_frame: The largest single message, in bytes.
    """

    label: str
    definitions: Sequence[str] = ()
    compress: bool = False
    heartbeat: float = HEARTBEAT
    lost_after: float = HEARTBEAT * 3
    max_frame: int = 4 << 30
    extra: dict[str, Any] = field(default_factory=dict)


# Each session numbers its requests from another number on: to cancel one of a worker that has just been replaced must
# not stop a call of its successor.
_numbers = itertools.cycle(range(1, 1 << 32, 1 << 20))


class _Proxies(Proxies):
    """The proxies of a client, each of which keeps the client; we, whom the monitor knows, do not."""

    connection = Weak()


class _Values(Values):
    connection = Weak()


class Endpoint:
    """One far side: a keeper, its worker and the links to both.

    Args:
        carrier: Reaches it.
        options: See there.
        connection: What proxies talk to.
        on_output: Called with 1 or 2 and bytes of output, in the monitor's thread.
        services: What the far side may ask of this side, by name.
    """

    _connection = Weak()

    def __init__(
        self,
        carrier: Carrier,
        options: Options,
        connection: Any,
        on_output: Callable[[int, bytes], None],
        services: dict[str, Callable[..., Any]],
    ) -> None:
        self.options = options
        self.label = options.label
        self.session: NearSession | None = None
        self.hello: dict[str, Any] = {}
        self.closed_because = ""
        # Whether the worker had died before the session was closed.
        self._died_first = False
        self._carrier = carrier
        self._connection = connection
        self._services = services
        self._marker = os.urandom(16)
        self._data: DataLink | None = None
        self._closing = threading.RLock()
        # Seconds that a user lets it take to connect.
        self._patience = float("inf")
        # Whether a new worker was asked for and is not in use yet; stays if that was interrupted.
        self.respawning = False
        self.control = Control(options.label, on_output, self._control_ended, options.heartbeat, options.lost_after)
        self.control.on_idle = self.idle

    # Seconds a cancelled call gets to end by itself before its worker is killed.
    cancel_grace = 2.0

    @property
    def cancel_time(self) -> float:
        """Seconds within which a cancelled call has ended, or its worker been killed."""
        return self.cancel_grace + 1.5

    # Opening -----------------------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Bring the far side up.

        Raises:
            ConnectError: If it does not come up within the timeout.
        """
        end = time.monotonic() + timeout
        self._patience = timeout
        control = self.control
        try:
            self._carrier.open_control(control, timeout)
            monitor().add(control)
            control.send(Kind.HELLO, 0, pickle.dumps(self._settings(), 4))
            if self._carrier.needs_socket and not control.wait_for(
                lambda: control.hello is not None, max(0.0, end - time.monotonic())
            ):
                raise self._did_not_come_up(timeout)
            self._open_data(end, timeout)
        except BaseException as exc:
            # Who did not answer in time will not say goodbye either.
            farewell = 0.0 if isinstance(exc, ConnectTimeout) else 0.5
            self.close(ConnectionClosed("the session did not come up", self.label), timeout=farewell)
            if isinstance(exc, ConnectionLost):
                # Lost before there was anything to lose.
                text = f"{self.label}: the session did not come up: {exc.reason}"
                raise ConnectError(text, self.label, self._carrier.words()) from exc
            if isinstance(exc, OSError) and not isinstance(exc, EasyClusterError):
                # This machine has no descriptor, process or memory left for it.
                text = f"{self.label}: the session did not come up: {exc.strerror or exc}"
                raise ConnectError(text, self.label) from exc
            raise

    def _settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "lease": options.lost_after,
            "heartbeat": options.heartbeat,
            "label": options.label,
            "definitions": list(options.definitions),
            "socket": self._carrier.needs_socket,
            "marker": self._marker if self._carrier.needs_socket else b"",
            "near": this_python(),
            "max_frame": options.max_frame,
            "version": VERSION,
            "compress": options.compress and self._carrier.compresses_frames,
            **options.extra,
        }

    def _open_data(self, end: float, timeout: float) -> None:
        """Connect to the worker and wait for its hello."""
        remaining = max(0.1, end - time.monotonic())
        link = self._data = self._carrier.open_data(self.control, self._marker, remaining)
        exports, proxies = Exports(), _Proxies(self._connection)
        values = _Values(
            exports, proxies, self._connection, peer=PeerInfo(self.label, None), copies_server_objects=True
        )
        session = NearSession(
            link.stream, values, link.send_key, link.receive_key, self.options.max_frame, services=self._services
        )
        session.name = "the near side"
        session.number_from(next(_numbers))
        session.compress = self.options.compress and self._carrier.compresses_frames
        session.label = self.label
        self.session = session
        if self.control.ended:
            # It ended while there was no session to end with it.
            session.end(ConnectionResetError(self.control.ended))
        try:
            message = session.wait_item(session.hello, end)
        except Expired:
            raise self._did_not_come_up(timeout) from None
        except OSError as exc:
            # When the time is over, links are given up, and a worker that has lost one leaves.
            raise self._did_not_come_up(timeout, exc if time.monotonic() < end else None) from exc
        try:
            self.hello = load_plain(message[4])
            values.peer.python = tuple(self.hello["python"])
        except (ProtocolError, LookupError, TypeError) as exc:
            raise ConnectError(f"{self.label}: the worker does not say what it is: {exc}", self.label) from exc

    def _did_not_come_up(self, timeout: float, exc: OSError | None = None) -> ConnectError:
        control = self.control
        control.wait_for(lambda: control.died is not None, 0.5 if exc is not None else 0.0)
        if control.died is not None and not (exc is None and control.died.exit_code == 0):
            return BootstrapError(
                f"{self.label}: the worker {_how_it_ended(control.died)} while it started",
                self.label,
                control.died.details,
            )
        if exc is not None or control.ended:
            reason = control.ended or str(exc)
            kind = ConnectTimeout if control.fell_silent else ConnectError
            return kind(f"{self.label}: the session did not come up: {reason}", self.label, self._carrier.words())
        return ConnectTimeout(f"{self.label}: no session within {timeout:g} s", self.label, self._carrier.words())

    # A new worker ------------------------------------------------------------------------------

    @property
    def keeper_lives(self) -> bool:
        """Whether a new worker can be had without a new connection."""
        return not self.control.ended and not self.closed_because and not self.respawning

    def respawn(self, timeout: float) -> None:
        """Replace the worker, which has died or is killed for this; its globals and objects are gone.

        Raises:
            OSError: If the far side is gone altogether.
        """
        self.respawning = True
        control = self.control
        timeout = min(timeout, self._patience)
        end = time.monotonic() + timeout
        session = self.session
        if session is not None and control.died is None:
            if session.why_ended is None and not control.ended:
                # Now: its worker may be gone, as it is told here, before the session is ended below.
                session.why_ended = ConnectionClosed(StaleReason.REPLACED, self.label)
            # A pipe shows its end only once it is closed, which waits for those who read it here.
            with contextlib.suppress(OSError, Expired):
                session.send(Kind.GOODBYE, 0, b"", deadline=time.monotonic() + 0.5)
        self._end_session(StaleReason.REPLACED)
        if control.died is None:
            # It leaves when its link ends; one that does not is killed.
            if not control.wait_for(lambda: control.died is not None, 1.0):
                control.send(Kind.KILL)
            control.wait_for(lambda: control.died is not None, max(0.1, end - time.monotonic()))
        self._close_data()
        control.worker_replaced()
        control.send(Kind.SPAWN)
        try:
            self._open_data(end, timeout)
        finally:
            if self.closed_because:
                # Meanwhile, by another thread, which has not seen what is new.
                self._end_session(StaleReason.CLOSED)
                self._close_data()
        if self.closed_because:
            raise ConnectionClosed(self.closed_because, self.label)

    def retire(self, timeout: float) -> None:
        """End the worker and everything it started; :meth:`respawn` brings another.

        Raises:
            ConnectionLost: If the far side is gone, or does not answer.
        """
        control = self.control
        self._end_session(StaleReason.REPLACED)
        if control.died is None:
            control.ask({"op": "end_worker"}, timeout)
            control.wait_for(lambda: control.died is not None, timeout)
        self._close_data()

    # Errors ------------------------------------------------------------------------------------

    def explain(self, session: NearSession, pending: Pending) -> SessionError:
        """Return why a call of a session that has ended cannot be answered any more."""
        if session.why_ended is None:
            session.why_ended = self.why_ended()
        error = copy.copy(session.why_ended)
        error.call = describe_operation(pending.operation)
        error.elapsed = time.monotonic() - pending.started
        return error

    def why_ended(self, call: str = "", elapsed: float | None = None) -> SessionError:
        """Return why the session cannot be used any more; waits a little for the news."""
        control = self.control
        if not self.closed_because:
            control.wait_for(lambda: control.died is not None or bool(self.closed_because), EXPLAIN_TIME)
        if self.closed_because and not self._died_first:
            # Its worker has ended since, too, but that is what closing is.
            return ConnectionClosed(self.closed_because, self.label, call, elapsed)
        given_up = self.session.ended if self.session is not None else None
        if given_up is not None and isinstance(given_up.__cause__, ProtocolError):
            # The worker has ended since, because we left.
            return ConnectionLost(str(given_up), self.label, call, elapsed)
        died = control.died
        if died is not None:
            reason = f"the worker {_how_it_ended(died)}"
            if died.killed:
                reason = "the worker was killed, because a call could not be interrupted"
            error = WorkerDied(reason, self.label, call, elapsed, died.last_output)
            error.signal, error.exit_code = died.signal, died.exit_code
            error.stack = died.stack
            return error
        reason = control.ended or "the data link broke"
        words = self._carrier.words().strip()
        if words:
            reason += f"; {words.splitlines()[-1]}"
        last = control.last_output.decode("utf-8", "replace")
        return ConnectionLost(reason, self.label, call, elapsed, last)

    # Cancelling --------------------------------------------------------------------------------

    def cancel(self, request: int) -> None:
        """Ask the far side to stop a call; if it does not in time, its worker is killed."""
        self.control.send_quietly(Kind.CANCEL, request, pickle.dumps(self.cancel_grace, 4))

    # The end -----------------------------------------------------------------------------------

    def close(self, reason: SessionError | str = "the connection was closed", timeout: float = 2.0) -> None:
        """End the session and give everything back; a second call waits for the first."""
        with self._closing:
            if not self.closed_because:
                self._died_first = self.control.died is not None
                self.closed_because = reason if isinstance(reason, str) else reason.reason
                self._close(timeout)

    def _close(self, timeout: float) -> None:
        control = self.control
        self._end_session(StaleReason.CLOSED)
        if not control.ended and control.port is not None:
            control.send_quietly(Kind.GOODBYE)
            # The far side says goodbye, or its link ends.
            control.wait_for(lambda: False, timeout)
        said_goodbye = bool(control.ended)
        control.end("closed")
        if not said_goodbye:
            self._kill_local()
        self._carrier.close(timeout)
        monitor().remove(control)
        self._close_data()

    def _end_session(self, reason: str) -> None:
        """Let nobody use the session any more; the worker sees the end of its link."""
        session = self.session
        if session is not None:
            if session.why_ended is None and self.control.died is None and not self.control.ended:
                session.why_ended = ConnectionClosed(self.closed_because or reason, self.label)
            session.values.proxies.detach_all(reason)
            session.end(ConnectionResetError(reason))
            session.values.exports.clear()

    def _close_data(self) -> None:
        """Give the data link back, once the worker is gone and no thread reads it any more."""
        session, data = self.session, self._data
        self._data = None
        if session is not None:
            session.join_watcher(1.0)
            session.close_stream()
        if data is not None:
            data.close()

    def cut(self) -> None:
        """Cut the link, as if a cable was pulled: the far side and this one find out by themselves."""
        self._carrier.kill()

    def _kill_local(self) -> None:
        """Make blocked reads return: the other end of a pipe has to go for that."""
        self._carrier.kill()
        pid = self.control.worker_pid
        if pid and getattr(self._carrier, "is_local", False):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    # The monitor -------------------------------------------------------------------------------

    def _control_ended(self, reason: str) -> None:
        """The control link has ended: so has the session.  In the monitor's thread."""
        if self.closed_because:
            return
        session = self.session
        if session is not None and session.ended is None:
            session.end(ConnectionResetError(reason))
        self._kill_local()

    def idle(self) -> None:
        """Have the far side release what is not used any more; in the monitor's thread."""
        session = self.session
        if session is not None and session.values.proxies.dropped:
            session.flush_releases()


class StaleReason:
    """Why a proxy's object is gone."""

    CLOSED = "its connection was closed"
    REPLACED = "its worker was replaced"


def _how_it_ended(died: Died) -> str:
    if died.signal is not None:
        try:
            name = signal.Signals(died.signal).name
        except ValueError:
            name = f"signal {died.signal}"
        return f"was killed by {name}"
    return f"ended with exit code {died.exit_code}"
