"""``Client``: the classic interface over one session."""

from __future__ import annotations

import copy
import itertools
import threading
from typing import TYPE_CHECKING, Any

from easycluster.client import wishes
from easycluster.client.arrivals import Arrivals
from easycluster.client.batch import Batch
from easycluster.client.gather import make_start
from easycluster.client.globals import GlobalProxy
from easycluster.client.output import Output
from easycluster.client.process import Forked, close_when_dropped, is_ending, live, shielded, weakly
from easycluster.client.quick import make_call
from easycluster.client.requests import BEGINNING, SINGLE, Requests, deadlines
from easycluster.errors import ConnectionClosed, ForkedClientError, SessionError
from easycluster.wire.frames import SINGLE_THREAD, Kind

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from easycluster.client.endpoint import Endpoint
    from easycluster.client.session import NearSession

__all__ = ["BaseClient"]


class BaseClient(Requests, Output):
    """What every client does with a session, however it was connected."""

    # Whether calls that name no thread all go to thread 0.
    _one_thread = True
    # What can be done once its session has ended; a lab has other ways.
    _way_out = "reconnect() starts anew"

    def __init__(self) -> None:
        super().__init__()
        self._endpoint: Endpoint | None = None
        self._session: NearSession | None = None
        self._opener: Callable[[], Endpoint] | None = None
        self._peername = ""
        self._remote_host: str | None = None
        self._remote_port: int | None = None
        self._default_thread = 0
        # ``_call(operation, origexc=True)`` does a plain call, one without keywords.
        self._call: Callable[..., Any] = self._request_plainly
        # ``_start(operation)`` begins one with nothing but ``nonblocking``.
        self._start: Callable[[tuple[Any, ...]], Any] = self._start_plainly
        self._thread_numbers: dict[int, int] = {0: 0, SINGLE: SINGLE_THREAD}
        # Not the caller's numbers, which may be any int.
        self._wire_numbers = itertools.count(1)
        self._sent_blocks: dict[str, int] = {}
        self._definition_names: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._arrivals = Arrivals()
        self._ended_error: SessionError | None = None
        self._respawn_due = False
        self._finalizer: weakref.finalize[Any, Any] | None = None
        live.add(self)

    # Where it is connected to --------------------------------------------------------------------

    @property
    def peername(self) -> str:
        """The far side as messages name it."""
        return self._peername

    @property
    def connected(self) -> bool:
        """Whether calls can be made."""
        session = self._session
        return session is not None and session.ended is None

    @property
    def remote_host(self) -> str | None:
        """The host given to :meth:`connect`, None for a local session."""
        return self._remote_host

    @property
    def remote_port(self) -> int | None:
        """The port given to :meth:`connect`, None for a local session."""
        return self._remote_port

    @property
    def server_version(self) -> str | None:
        """Version of EasyCluster on the far side; a tuple of Python's is in :attr:`server_python`."""
        return self._endpoint.hello.get("version") if self._endpoint is not None else None

    @property
    def server_python(self) -> tuple[int, ...] | None:
        """Version of the far side's Python."""
        return self._endpoint.hello.get("python_version") if self._endpoint is not None else None

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<{type(self).__name__} {self._peername or '?'}, {state}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{self!r} cannot be pickled: a connection belongs to its process")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # The session ---------------------------------------------------------------------------------

    def _open(self, opener: Callable[[], Endpoint]) -> None:
        """Bring a session up with what ``opener`` makes, and send the definitions."""
        with self._lock:
            self._opener = opener
            self._ended_error = None
            made: list[Endpoint] = []

            def undo() -> None:
                for endpoint in made:
                    endpoint.close("connecting was interrupted")

            try:
                shielded(lambda: made.append(opener()), undo)
                self._begin(made[0])
            except BaseException as exc:
                if made:
                    self._endpoint = made[0]
                    interrupted = not isinstance(exc, Exception)
                    self.close("connecting was interrupted" if interrupted else "the definitions could not be sent")
                raise

    def _begin(self, endpoint: Endpoint) -> None:
        """Use a session from now on and send the definitions; calls of other threads wait until they are there."""
        self._use(endpoint)
        session = self._session
        assert session is not None  # _use has set it
        try:
            self._after_connect()
        finally:
            session.special.discard(BEGINNING)

    def _use(self, endpoint: Endpoint) -> None:
        if self._finalizer is None or endpoint is not self._endpoint:
            if self._finalizer is not None:
                self._finalizer.detach()
            self._finalizer = close_when_dropped(self, endpoint)
        self._endpoint = endpoint
        self._session = session = endpoint.session
        assert session is not None  # open() has made it
        # Behind this: a thread that comes late looks for a session after it has noted why there was none.
        self._ended_error = None
        session.special.add(BEGINNING)
        wishes.mark(session)
        session.completions = self._arrivals.completions
        session.notify_completed = self._arrivals.arrived
        self._arrivals.relink(session.stream.fileno())
        self._sent_blocks = {}
        self._thread_numbers = {0: 0, SINGLE: SINGLE_THREAD}
        self._wire_numbers = itertools.count(1)
        self._make_quick(session)
        self._start_output()
        self._respawn_due = False

    def _make_quick(self, session: NearSession) -> None:
        numbers = self._numbers()
        self._call = make_call(self, session, deadlines, one_thread=self._one_thread, numbers=numbers)
        self._start = make_start(self, session, deadlines, one_thread=self._one_thread, numbers=numbers)

    def _numbers(self) -> Any:
        """Return what knows the far-side thread of each thread here, None if :meth:`_thread_number` is to be asked."""
        return None

    def _after_connect(self) -> None:
        self.update_definitions()

    def _usable(self) -> NearSession:
        """Return the session, or raise why there is none; replace a worker that was killed for us."""
        session = self._session
        if session is not None and session.ended is None:
            return session
        if self._must_replace():
            with self._lock:
                if self._must_replace():
                    self._replace_worker()
                # Perhaps by another thread.
                session = self._session
                if session is not None and session.ended is None:
                    return session
        raise self._why_unusable()

    def _must_replace(self) -> bool:
        """Whether the worker was killed for us: a call could not be stopped at its deadline, its cancel or Ctrl-C."""
        endpoint = self._endpoint
        if endpoint is None or self.connected or not endpoint.keeper_lives:
            return False
        died = endpoint.control.died
        return self._respawn_due or (died is not None and died.killed)

    def _why_unusable(self) -> Exception:
        if self._ended_error is not None:
            error = self._ended_error
            return type(error)(f"{error.reason}; {self._way_out}", error.host)
        endpoint = self._endpoint
        if endpoint is None:
            return ConnectionClosed("not connected; call connect() first", self._peername)
        if isinstance(endpoint, Forked):
            return ForkedClientError(
                "this client was connected by the parent of this process; connect another one here", self._peername
            )
        error = endpoint.why_ended()
        self._ended_error = copy.copy(error)  # what is raised gets a traceback, and with it the frames of the caller
        if self._endpoint is not endpoint or self.connected:  # another thread may have reconnected meanwhile
            self._ended_error = None
        return error

    def _replace_worker(self, timeout: float = 10.0) -> None:
        """Get a fresh worker from the keeper; its globals and objects are new."""
        endpoint = self._endpoint
        assert endpoint is not None
        self._respawn_due = False
        try:
            if endpoint.session is not None:
                endpoint.session.reclaim()
            shielded(lambda: endpoint.respawn(timeout), lambda: endpoint.close("reconnecting was interrupted"))
            self._ended_error = None
            self._begin(endpoint)
            endpoint.respawning = False
        except BaseException as exc:
            if not isinstance(exc, Exception):
                self.close("reconnecting was interrupted")
            raise

    def _retire_worker(self, timeout: float = 10.0) -> None:
        """End the worker and everything it started; the next call gets a fresh one from the keeper."""
        endpoint = self._endpoint
        if endpoint is None or not endpoint.keeper_lives:
            return
        with self._lock:
            if endpoint.session is not None:
                endpoint.session.reclaim()
            self._respawn_due = True
            shielded(lambda: endpoint.retire(timeout))

    def _ask_keeper(self, question: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
        """Ask what the session holds on its host, or change it; works whatever the worker does."""
        endpoint = self._endpoint
        if endpoint is None or isinstance(endpoint, Forked):
            raise self._why_unusable()
        return endpoint.control.ask(question, timeout)

    def _ask_keeper_later(
        self, question: dict[str, Any], told: Callable[[dict[str, Any] | Exception], object]
    ) -> Callable[[], None]:
        """As :meth:`_ask_keeper`, without waiting; see :meth:`easycluster.client.monitor.Control.ask_later`."""
        endpoint = self._endpoint
        if endpoint is None or isinstance(endpoint, Forked):
            raise self._why_unusable()
        return endpoint.control.ask_later(question, told)

    def reconnect(self) -> None:
        """Start with a fresh far side: new globals; proxies from before are stale.

        If only the worker died, the host's keeper starts another one and the connection stays.

        Raises:
            ValueError: If there was no connection before.
            ConnectError: If the far side does not come up.
        """
        if self._opener is None:
            raise ValueError("cannot reconnect before the first connection: call connect() first")
        with self._lock:
            endpoint = self._endpoint
            if endpoint is not None and not isinstance(endpoint, Forked) and endpoint.keeper_lives:
                try:
                    self._replace_worker()
                except OSError:
                    pass
                else:
                    return
            self.close()
            self._open(self._opener)

    def close(self, message: str = "the connection was closed") -> None:
        """Close the connection; calls that wait get a ConnectionClosed with ``message``.

        The far side ends everything the session started.  A second call does nothing.
        """
        endpoint = self._endpoint
        if endpoint is None or isinstance(endpoint, Forked):
            return
        self._respawn_due = False
        if endpoint.session is not None:
            endpoint.session.reclaim()
        shielded(lambda: endpoint.close(message))
        if not is_ending():
            self._complete_rest()
        self._print_unfinished_lines()
        self._arrivals.close()

    # Responses -------------------------------------------------------------------------------------

    def _complete_rest(self) -> None:
        """Tell everybody who still waits in some way that no answer comes any more."""
        self._arrivals.sort()
        self._after_wait()

    def read_response(self, block: bool = True) -> bool:
        """Read one response and run its completion function, if it has one.

        Args:
            block: Whether to wait for one.

        Returns:
            Whether there was one.

        Raises:
            SessionError: If the session has ended.
        """
        while not self._arrivals.take():
            # What has arrived, or will not arrive any more, comes before the news that the session has ended.
            if not self._read_once(self._usable(), block) and not block:
                self._arrivals.tell()
                return False
        self._arrivals.tell()
        return True

    def _read_once(self, session: NearSession, block: bool) -> bool:
        """Read what the link has; return whether anything came."""
        if session.ended is not None:
            raise self._why_unusable()
        if not session._reading.acquire(timeout=0.05 if block else 0):
            return False
        try:
            if not block and not session._decoder.ready and not session.stream.wait(write=False, timeout=0)[0]:
                return False
            session._pump(None)
        finally:
            session._leave_role()
        return True

    def fileno(self) -> int:
        """Return a descriptor that is readable while a response can be read, for ``select``.

        Raises:
            SessionError: If not connected.
        """
        return self._arrivals.watch(self._usable().stream.fileno())

    def write_fileno(self) -> int:
        """Return the descriptor that requests are written to."""
        return self._usable().stream.write_fileno()

    def _watch(self, session: NearSession) -> None:
        """Have responses read although nobody waits: something waits for them in another way."""
        session.start_watcher(weakly(self._sort_quietly))
        session.notify_completed = weakly(self._notify_watcher)
        session.wake_watcher()

    def _notify_watcher(self, urgent: bool) -> None:
        self._arrivals.arrived(urgent)
        if urgent and self._session is not None:
            self._session.wake_watcher()

    def _sort_quietly(self) -> None:
        """Hand answers to their responses; in the watcher's thread, which must go on."""
        try:
            self._arrivals.sort()
        except Exception:  # noqa: BLE001 - a function given to add_done_callback() failed
            import traceback

            traceback.print_exc()

    def ready(self) -> bool:
        """Whether requests can be made."""
        return self.connected

    def wait_ready(self) -> None:
        """Wait until requests can be made; raises if there is no connection."""
        self._usable()

    # Threads ---------------------------------------------------------------------------------------

    def set_default_thread(self, threadid: int) -> None:
        """Set the far-side thread for calls that do not name one."""
        self._default_thread = threadid
        self._one_thread = False
        if self._session is not None:
            self._make_quick(self._session)

    def stop_remote_thread(self, threadid: int) -> None:
        """Let a far-side thread end once it has answered what it was sent."""
        if threadid in (0, SINGLE):
            return
        with self._lock:
            number = self._thread_numbers.get(threadid)
        if number is not None:
            self._usable().send(Kind.STOP_THREAD, 0, b"", thread=number)

    # Many at once ----------------------------------------------------------------------------------

    def batch(self) -> Batch:
        """Return a :class:`Batch`, which records calls and sends them in one message."""
        return Batch(self)

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Kept: looking for a name that is not there, in all our classes, takes longer than the rest.
        proxy = self.__dict__[name] = GlobalProxy(self, name)
        return proxy
