"""``Client``: the classic interface over one session."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from easycluster.client import wishes
from easycluster.client.arrivals import Arrivals, Completion, Outstanding
from easycluster.client.batch import Batch
from easycluster.client.calls import Calls
from easycluster.client.gather import make_start
from easycluster.client.globals import GlobalProxy
from easycluster.client.output import OUTPUT_TIME, Output
from easycluster.client.process import Forked, close_when_dropped, is_ending, live, shielded, sleep_on, weakly
from easycluster.client.quick import make_call
from easycluster.client.response import NonblockingResponse
from easycluster.client.session import Unwanted, abandon
from easycluster.client.wishes import WISHES
from easycluster.errors import (
    CallTimeout,
    ConnectionClosed,
    ForkedClientError,
    RemoteException,
    SessionError,
)
from easycluster.link.operations import Op, describe_operation
from easycluster.link.pending import Expired, Pending
from easycluster.wire import failures
from easycluster.wire.frames import HEADER, MARKED, SINGLE_THREAD, Kind

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterator, Sequence

    from easycluster.client.endpoint import Endpoint
    from easycluster.client.session import NearSession

__all__ = ["SINGLE", "BaseClient", "deadline"]

SINGLE = -1
"""Thread number that gives a call a far-side thread of its own."""

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("easycluster_deadline", default=None)
# The same deadlines of all threads: whether there is any costs less to ask than whether there is one here.
_deadlines: list[float] = []
# In ``special`` of a session whose definitions are not all there yet.
_BEGINNING = "beginning"
_monotonic = time.monotonic


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit every far-side call made in a ``with`` block, all of them together.

    Args:
        seconds: The span from now on.

    Raises:
        CallTimeout: In the block, by the call that runs when the span is over.
    """
    end = _monotonic() + seconds
    outer = _deadline.get()
    try:
        # Inside, and without a token: a signal handler may raise after any step.
        _deadlines.append(end)
        _deadline.set(end if outer is None else min(end, outer))
        yield
    finally:
        _deadline.set(outer)
        with contextlib.suppress(ValueError):
            _deadlines.remove(end)


class BaseClient(Calls, Output):
    """What every client does with a session, however it was connected."""

    # Whether calls that name no thread all go to thread 0.
    _one_thread = True

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
            session.special.discard(_BEGINNING)

    def _use(self, endpoint: Endpoint) -> None:
        if self._finalizer is None or endpoint is not self._endpoint:
            if self._finalizer is not None:
                self._finalizer.detach()
            self._finalizer = close_when_dropped(self, endpoint)
        self._endpoint = endpoint
        self._session = session = endpoint.session
        assert session is not None  # open() has made it
        session.special.add(_BEGINNING)
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
            return type(error)(f"{error.reason}; reconnect() starts anew", error.host)
        endpoint = self._endpoint
        if endpoint is None:
            return ConnectionClosed("not connected; call connect() first", self._peername)
        if isinstance(endpoint, Forked):
            return ForkedClientError(
                "this client was connected by the parent of this process; connect another one here", self._peername
            )
        error = endpoint.why_ended()
        self._ended_error = error
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

    # Requests --------------------------------------------------------------------------------------

    def _thread_number(self, threadid: int | None) -> int:
        """Return the number a far-side thread has on the wire."""
        if threadid is None:
            threadid = self._default_thread
        number = self._thread_numbers.get(threadid)
        if number is None:
            with self._lock:
                number = self._thread_numbers.get(threadid)
                if number is None:
                    number = self._thread_numbers[threadid] = next(self._wire_numbers)
        return number

    def _request(
        self,
        operation: tuple[Any, ...],
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Send a request, and wait for its answer unless told otherwise."""
        session = self._session
        if session is None or session.ended is not None:
            session = self._usable()
        if _BEGINNING in session.special:
            # The thread that connects holds the lock until the definitions are there; it is the only one to pass.
            with self._lock:
                session = self._usable()
        if WISHES in session.special:
            self._tell_wishes(session)
        if session.unwanted:
            session.drop_unwanted()
        thread = self._thread_number(threadid)
        limit = _deadline.get()
        try:
            if oncomplete is not None:
                done = Completion(self, session, oncomplete, onerror or oncomplete)
                return session.request(operation, thread, limit, False, done, threadid is None).request
            if nonblocking:
                body, buffers = session.values.dumps(operation, session.name_parts)
                asked = Outstanding(operation)
                # Before it is sent: who reads may find the answer at once.
                response = NonblockingResponse(self, session, asked, origexc)
                session.send_request(asked, body, buffers, thread, limit, threadid is None)
                return response
            if timeout is not None:
                limit = _monotonic() + timeout if limit is None else min(limit, _monotonic() + timeout)
            if limit is not None and limit <= _monotonic():
                raise Expired
            pending = session.request(operation, thread, limit, nested=threadid is None)
        except Expired as exc:
            self._interrupted(exc)
            span = timeout if timeout is not None else 0.0
            raise CallTimeout(self._peername, describe_operation(operation), span) from None
        except OSError as exc:
            if exc is session.ended:
                raise self._explained(session, Pending(operation, True)) from exc
            raise
        except BaseException as exc:
            self._interrupted(exc)
            raise
        return self._finished(session, None, pending, limit, timeout, origexc)

    def _make_quick(self, session: NearSession) -> None:
        self._call = make_call(self, session, _deadlines, one_thread=self._one_thread)
        self._start = make_start(self, session, _deadlines, one_thread=self._one_thread)

    def _tell_wishes(self, session: NearSession) -> None:
        """Tell the far side what this process wishes of it by now, unless it knows."""
        session.special.discard(WISHES)
        wanted = wishes.current()
        if wanted == session.told_wishes:
            return
        try:
            # In a thread of its own: thread 0 may be busy with another call.
            self._request((Op.SERVICE, "wishes", wanted), threadid=SINGLE)
        except BaseException:
            session.special.add(WISHES)
            raise
        session.told_wishes = wanted

    def _request_plainly(self, operation: tuple[Any, ...], origexc: bool | str = True) -> Any:
        """Do what :attr:`_call` does, without a connection: say why there is none."""
        return self._request(operation, origexc=origexc)

    def _start_plainly(self, operation: tuple[Any, ...]) -> Any:
        """Do what :attr:`_start` does, without a connection: say why there is none."""
        return self._request(operation, True)

    def _request_pickled(
        self,
        session: NearSession,
        operation: tuple[Any, ...],
        body: bytes,
        buffers: Sequence[memoryview],
        thread: int,
        origexc: bool | str,
    ) -> Any:
        """Go on with a plain call after it was pickled, for :attr:`_call`."""
        try:
            pending = session.send_request(Pending(operation, True), body, buffers, thread)
        except BaseException as exc:
            self._call_failed(session, operation, exc)
            raise
        return self._finished(session, None, pending, None, None, origexc)

    def _finish_call(self, session: NearSession, pending: Pending | None, answer: bytes, origexc: bool | str) -> Any:
        """Wait for the answer to a plain call, or take the one there is, for :attr:`_call`."""
        message = (Kind.REPLY, 0, 0, 0, answer[HEADER.size :], ()) if pending is None else None
        return self._finished(session, message, pending, None, None, origexc)

    def _call_failed(
        self, session: NearSession, operation: tuple[Any, ...], exc: BaseException, began: float | None = None
    ) -> None:
        """Raise why the session has ended if that is what happened to a plain call; else stop the call."""
        if isinstance(exc, OSError) and (exc is session.ended or exc.errno is not None):
            session.end(exc)
            pending = Pending(operation, True)
            pending.started = began or pending.started
            raise self._explained(session, pending) from exc
        self._interrupted(exc)

    def _finished(
        self,
        session: NearSession,
        message: Any,
        pending: Pending | None,
        limit: float | None,
        timeout: float | None,
        origexc: bool | str,
    ) -> Any:
        """Wait for the answer if it is not here yet; return its value or raise its error."""
        if pending is None:
            value, error = self._unpacked(session, message)
        else:
            value, error = self._await_until(session, pending, limit, timeout)
        if session.unwanted:
            session.drop_unwanted()
        if session.completions:
            self._arrivals.look()
        if error is None:
            return value
        try:
            raise self._chosen(error, origexc)
        finally:
            # Else the exception holds its traceback, that this frame, and this frame the exception.
            del error

    def _interrupted(self, exc: BaseException) -> None:
        """A request may be on its way although nobody waits for it any more: stop it there."""
        request = getattr(exc, "easycluster_request", None)
        if request is not None and self._endpoint is not None:
            self._endpoint.cancel(request)

    def _await(
        self, session: NearSession, pending: Pending, remaining: float | None, timeout: float | None = None
    ) -> tuple[Any, RemoteException | None]:
        """Wait for an answer that was asked for earlier, for the ``remaining`` seconds of a timeout."""
        limit = _deadline.get()
        if remaining is not None:
            limit = _monotonic() + remaining if limit is None else min(limit, _monotonic() + remaining)
        return self._await_until(session, pending, limit, timeout)

    def _after_wait(self) -> None:
        """Call the completion functions whose calls have finished; somebody has waited for a response."""
        self._arrivals.settle()

    def _await_until(
        self, session: NearSession, pending: Pending, limit: float | None, timeout: float | None
    ) -> tuple[Any, RemoteException | None]:
        """Wait for the answer to a request; return its value or its error."""
        try:
            session.wait_some(pending, limit)
            while pending.items[0][0] == Kind.CALL:
                session.answer(pending.items.popleft())
                session.wait_some(pending, limit)
            # The answer stays where it is meanwhile: if a signal handler raises, it is dropped there.
            self._wait_for_output(pending.items[0])
        except Expired:
            raise self._timed_out(session, pending, timeout) from None
        except OSError as exc:
            if exc is session.ended:
                raise self._explained(session, pending) from exc
            raise
        except BaseException:
            session.pending.pop(pending.request, None)
            self._stop(session, pending)
            abandon(pending, Unwanted(session))
            raise
        return self._loaded(session, pending.items.popleft())

    def _unpacked(self, session: NearSession, message: Any) -> tuple[Any, RemoteException | None]:
        """Return the value or the error that an answer carries, after the output that belongs before it."""
        self._wait_for_output(message)
        return self._loaded(session, message)

    def _wait_for_output(self, message: Any) -> None:
        if message[1] & MARKED and self._endpoint is not None and self._endpoint.control is not None:
            self._endpoint.control.wait_mark(message[3], OUTPUT_TIME)

    def _loaded(self, session: NearSession, message: Any) -> tuple[Any, RemoteException | None]:
        value = session.load(message)
        if message[0] != Kind.RAISE:
            return value, None
        return None, self._rebuilt(session, value)

    def _rebuilt(self, session: NearSession, failure: Any) -> RemoteException:
        orig = failures.rebuild(failure, loads=session.values.loads, host=self._peername)
        if failures.kept(failure):
            from easycluster.client.debugger import note_kept

            note_kept(orig, self, failures.kept(failure))
        return RemoteException(orig, failures.text(failure))

    def _explained(self, session: NearSession, pending: Pending) -> Exception:
        """Return why a call of a session that has ended has no answer."""
        sleep_on()
        endpoint = self._endpoint
        if endpoint is None or isinstance(endpoint, Forked):
            return self._why_unusable()
        error = endpoint.explain(session, pending)
        if not self.connected:
            self._ended_error = error
        return error

    def _chosen(self, error: RemoteException, origexc: bool | str) -> BaseException:
        """Return which exception a caller wants to see, printing the traceback if that is wanted."""
        orig = error.orig
        if not origexc or orig is None:
            return error
        if origexc != "quiet" and not isinstance(orig, StopIteration):
            self.report_exception(error)
        return orig

    def _ask_for_items(self, session: NearSession, operation: tuple[Any, ...]) -> Pending:
        """Send a request for items without waiting for them."""
        try:
            return session.request(operation, self._thread_number(None), _deadline.get(), False)
        except OSError as exc:
            if exc is session.ended:
                raise self._explained(session, Pending(operation, False)) from exc
            raise

    # Deadlines -------------------------------------------------------------------------------------

    def _stop(self, session: NearSession, pending: Pending) -> None:
        """Stop a call on the far side."""
        endpoint = self._endpoint
        if endpoint is not None and session is self._session and session.ended is None:
            endpoint.cancel(pending.request)

    def _timed_out(self, session: NearSession, pending: Pending, timeout: float | None) -> Exception:
        """The deadline of a call has passed: stop it, and find out where it was."""
        endpoint = self._endpoint
        assert endpoint is not None
        call = describe_operation(pending.operation)
        span = timeout if timeout is not None else round(_monotonic() - pending.started, 3)
        self._stop(session, pending)
        try:
            message = session.wait_item(pending, _monotonic() + endpoint.cancel_time)
            while message[0] == Kind.CALL or message[0] == Kind.ITEM:
                # It asked something of us just before the end; it is told no by its own end.
                message = session.wait_item(pending, _monotonic() + endpoint.cancel_time)
        except Expired:
            session.pending.pop(pending.request, None)
            return CallTimeout(self._peername, call, span)
        except OSError:
            error = self._explained(session, pending)
            died = endpoint.control.died
            if died is None or not died.killed:
                return error
            # Only this call could not be stopped: the next one finds a fresh worker.
            self._respawn_due = True
            return CallTimeout(self._peername, call, span, died.stack, worker_replaced=True)
        stack = ""
        if message[0] == Kind.RAISE:
            with contextlib.suppress(Exception):
                stack = "".join(failures.text(session.load(message))[1:-1])
        else:
            session.late(message)
        return CallTimeout(self._peername, call, span, stack)

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
