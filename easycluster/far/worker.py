"""The worker: the process that runs the calls of one session.

Its main thread serves thread 0; each further number gets a thread of its own, and ``SINGLE`` a
thread per call.  A control thread takes links and cancels from the keeper.  Cancelling a call of
the main thread is a signal whose handler raises, which also breaks ``time.sleep`` and
``subprocess.run``; in other threads it is an asynchronous exception, which byte code sees.  Both
only while that very call is running.

This module is shipped to the far side.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
from _thread import allocate_lock, get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, List, Optional, Set

from easycluster.errors import ForkedClientError, ProtocolError
from easycluster.far import output, undo
from easycluster.far.audit import AuditedSession
from easycluster.far.fdpass import recv_packet, send_packet
from easycluster.far.gather import make_serve_waiting
from easycluster.far.importer import ControllerFinder, NotNow
from easycluster.far.keeper import CANCEL_SIGNAL, DUMP_SIGNAL
from easycluster.far.namespace import Namespace
from easycluster.far.quick import make_serve
from easycluster.far.root import Root
from easycluster.far.session import FarThread, Interrupted, NearConnection, WorkerSession, ask
from easycluster.link.operations import Op
from easycluster.link.pending import Pending
from easycluster.link.streams import SocketStream, stream_from_fds
from easycluster.objects.registry import Exports, Proxies
from easycluster.version import VERSION
from easycluster.wire.frames import SINGLE_THREAD, Frame, Kind
from easycluster.wire.tracebacks import NEAR_SIDE
from easycluster.wire.values import PeerInfo, Values, this_python

if TYPE_CHECKING:
    from easycluster.link.pending import Waiter

__all__ = ["CloudpickleFinder", "Worker", "main"]

# Seconds that a call which runs when the session ends gets to clean up.
LEAVE_TIME = 0.5

# Seconds until the main thread is told again that the session is over.
TELL_AGAIN = 0.02

# Seconds between attempts to interrupt a call that goes on.
INSIST = 0.1
# Cancelled calls that may still arrive; those of long ago have ended before they were cancelled.
MOST_REFUSED = 4096


class Worker:
    """What belongs to the process as a whole."""

    def __init__(self, control: socket.socket, settings: Dict[str, Any]) -> None:
        self.settings = settings
        self.report_calls = bool(settings.get("report"))
        self.namespace = Namespace(settings.get("definitions") or ("easycluster.remote_code",))
        self.session: Optional[WorkerSession] = None
        self.main_thread = FarThread(0)
        self.main_thread.ident = get_ident()
        self.threads_by_ident: Dict[int, FarThread] = {get_ident(): self.main_thread}
        # Calls that must not go on, of which those that run are interrupted again and again.
        self.cancelled: Set[int] = set()
        self._insist: Set[int] = set()
        self._refused: Deque[int] = deque()
        self._threads: Dict[int, FarThread] = {}
        self._control = control
        self._control_writing = allocate_lock()
        self._syncs = 0
        self._linked = threading.Event()
        # Whether the keeper has ended the session, and whether the main thread is done with it.
        self._over = False
        self._told = False
        self._leaving = False
        self._left = threading.Event()
        self._root: Optional[Root] = None
        self.pid = os.getpid()
        # Modules of the controller that were imported here, by name.
        self.fetched: Dict[str, Any] = {}
        # Guards asynchronous exceptions: set only while the call runs, taken back when it ends.
        self._interrupting = allocate_lock()
        signal.signal(CANCEL_SIGNAL, self._on_cancel_signal)

    # Links -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the near side ends the data link."""
        threading.Thread(target=self._listen, name="easycluster-control", daemon=True).start()
        try:
            self._run()
        finally:
            self._leaving = True
            self._left.set()

    def _run(self) -> None:
        self._linked.wait()
        session = self.session
        if session is None:
            return
        ControllerFinder(self._fetch_module).install()
        CloudpickleFinder(self._fetch_module).install()
        session.start_watcher(self._run_refusals)
        try:
            session.send(Kind.HELLO, 0, pickle.dumps(self.hello(), 4))
        except OSError:
            # The near side does not want us any more.
            return
        self.serve(session, self.main_thread)

    def hello(self) -> Dict[str, Any]:
        """Return what the near side wants to know of this process."""
        return {
            "version": VERSION,
            "python": this_python(),
            "python_version": tuple(sys.version_info[:3]),
            "executable": sys.executable,
            "pid": os.getpid(),
            "platform": sys.platform,
        }

    def _link(self, packet: Dict[str, Any], fds: List[int]) -> None:
        if self.session is not None:
            for fd in fds:
                os.close(fd)
            return
        stream: Any
        if len(fds) == 1:
            stream = SocketStream(socket.socket(fileno=fds[0]))
        else:
            stream = stream_from_fds(fds[0], fds[1])
        marker = packet.get("marker")
        if marker:
            try:
                _write_all(stream, marker)
            except OSError:
                # The near side has given this one up; it may try another way.
                stream.close()
                return
        near_name = self.settings.get("near_name") or NEAR_SIDE
        near = self.settings.get("near")
        exports, proxies = Exports(), Proxies(None)
        values = Values(exports, proxies, None, peer=PeerInfo(near_name, tuple(near) if near else None))
        make_session: Callable[..., WorkerSession] = AuditedSession if self.settings.get("audit") else WorkerSession
        session = make_session(
            self,
            stream,
            values,
            packet.get("send"),
            packet.get("receive"),
            self.settings.get("max_frame") or 4 << 30,
        )
        session.compress = bool(self.settings.get("compress"))
        values.connection = proxies.connection = NearConnection(session, near_name)
        self.session = session
        self._linked.set()

    def after_fork(self) -> None:
        """In a child that far-side code has forked: the links stay the parent's, whatever the child does.

        Both would answer the calls otherwise, now the one and now the other.
        """
        # Nobody else says that a child has crashed.
        faulthandler.enable(2)
        descriptors = [self._control.fileno()]
        session = self.session
        if session is not None:
            session.ended = ForkedClientError("only the process that was forked can talk to the near side")
            descriptors += [session.stream.fileno(), session.stream.write_fileno()]
        if undo.registrar is not None:
            descriptors.append(undo.registrar.fileno())
        descriptors = [fd for fd in descriptors if fd >= 0]
        # First this: there may be no descriptor left for the null device.
        for fd in set(descriptors):
            os.close(fd)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in descriptors:
            if fd != null:
                os.dup2(null, fd, inheritable=False)
        if null not in descriptors:
            os.close(null)

    def serve(self, session: WorkerSession, thread: FarThread) -> None:
        """Answer what arrives for a thread, until it is stopped or the link ends."""
        is_main = thread is self.main_thread
        inbox = thread.inbox
        answer_plain_calls = make_serve(self, session, thread) if is_main else None
        answer_waiting_calls = make_serve_waiting(self, session, thread)
        while True:
            try:
                if answer_plain_calls is not None:
                    answer_plain_calls()
                session.wait_some(inbox)
                answer_waiting_calls()
                if not inbox.items:
                    continue
                message = inbox.items.popleft()
                if message[0] == Kind.STOP_THREAD:
                    return
                if message[0] == Kind.CALLS:
                    session.take_apart(message, inbox)
                    continue
                self._answer(session, message)
                del message
            except Interrupted as exc:
                if thread.running:
                    self._answer_interrupted(session, thread.running[-1], exc)
                # Else it came late, outside of any call.
            except OSError:
                if session.ended is not None:
                    if is_main and isinstance(session.ended.__cause__, ProtocolError):
                        # The near side learns from our last words what it cannot know.
                        sys.stderr.write(f"easycluster: {session.ended}\n")
                    return
                raise

    def _answer(self, session: WorkerSession, message: Frame) -> None:
        try:
            session.answer(message)
        except Interrupted as exc:
            self._answer_interrupted(session, message[2], exc)

    def _answer_interrupted(self, session: WorkerSession, request: int, exc: Interrupted) -> None:
        """The interruption came in the moment between the end of the call and our note of it."""
        session.finish(request)
        reply, out = session.dump_failure(exc)
        flags, mark = session.mark()
        session.inside.pop(get_ident(), None)
        session.send(Kind.RAISE, request, reply, out, mark, flags)

    def thread(self, number: int, stop: bool) -> Optional[Waiter]:
        """Return the inbox of thread ``number``, starting it if need be."""
        if number == SINGLE_THREAD:
            return self._start_thread(number).inbox
        thread = self._threads.get(number)
        if thread is None:
            if stop:
                return None
            thread = self._threads[number] = self._start_thread(number)
        if stop:
            # What was sent before is still answered; the number starts afresh afterwards.
            del self._threads[number]
        return thread.inbox

    def refuse_later(self, request: int, exc: BaseException) -> None:
        """Answer a request that no thread can be had for.  Not here: whoever reads the link must not write to it."""
        session = self.session
        assert session is not None
        refusal = Pending(("refused",), False)
        refusal.request = request
        refusal.on_done = lambda refusal: self._refuse(refusal.request, exc)
        session.completions.append(refusal)
        session.wake_watcher()

    def _run_refusals(self) -> None:
        """What the watcher has to do besides reading."""
        session = self.session
        while session is not None and session.completions:
            refusal = session.completions.popleft()
            if refusal.on_done is not None:
                refusal.on_done(refusal)

    def _start_thread(self, number: int) -> FarThread:
        thread = FarThread(number)
        threading.Thread(target=self._run_thread, args=(thread,), name=f"easycluster-{number}", daemon=True).start()
        return thread

    def _run_thread(self, thread: FarThread) -> None:
        session = self.session
        assert session is not None
        ident = thread.ident = get_ident()
        self.threads_by_ident[ident] = thread
        try:
            if thread.number == SINGLE_THREAD:
                self._answer(session, session.wait_item(thread.inbox))
            else:
                self.serve(session, thread)
        except (OSError, Interrupted):
            pass
        finally:
            self.threads_by_ident.pop(ident, None)

    # The keeper --------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Run :meth:`_obey`; a worker that cannot be told anything any more ends, and says why."""
        try:
            self._obey()
        except BaseException:  # noqa: BLE001 - the last boundary of the thread
            traceback.print_exc()
            os._exit(70)

    def _obey(self) -> None:
        """Take packets from the keeper, in a thread of its own."""
        control = self._control
        poller = select.poll()
        poller.register(control.fileno(), select.POLLIN)
        while True:
            if not poller.poll(INSIST * 1000 if self._insist else None):
                for request in list(self._insist):
                    self._interrupt(request)
                continue
            try:
                received = recv_packet(control)
            except OSError:
                received = None
            if received is None:
                self._session_over()
                return
            packet, fds = received
            if packet["kind"] == "link":
                self._link(packet, fds)
            elif packet["kind"] == "cancel":
                self.cancel(packet["request"])

    def _session_over(self) -> None:
        """The keeper is gone or wants us gone: the main thread leaves, and the process with it."""
        self._linked.set()
        session = self.session
        if session is not None:
            session.end(EOFError())
        self._over = True
        end = time.monotonic() + LEAVE_TIME
        while not self._left.is_set() and time.monotonic() < end:
            # What runs may clean up, so it is told once; a read of a pipe that is still open returns.  Python
            # forgets a signal that comes between its last look at them and the system call: once more then.
            if not self._told or not self.main_thread.running:
                signal.pthread_kill(self.main_thread.ident, CANCEL_SIGNAL)
            self._left.wait(TELL_AGAIN)
        if self._left.is_set():
            # Exit functions run now; the template sets their end, and we do if it is gone.
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    def _send_control(self, packet: Dict[str, Any]) -> None:
        with self._control_writing:
            try:
                send_packet(self._control, packet)
            except OSError:
                pass

    def request_sync(self) -> int:
        """Ask the keeper to read our output up to here; return the number it will repeat."""
        with self._control_writing:
            self._syncs = number = self._syncs % 0xFFFFFFFF + 1
            try:
                send_packet(self._control, {"kind": "sync", "number": number})
            except OSError:
                pass
        return number

    def report(self, text: str) -> None:
        """Tell the server what is called."""
        self._send_control({"kind": "report", "text": text})

    def send_log(self, data: bytes) -> None:
        """Send a record of logging, pickled."""
        self._send_control({"kind": "log", "record": data})

    # Cancelling --------------------------------------------------------------------------------

    def cancel(self, request: int) -> None:
        """Stop a call, whether it runs, waits for its turn, has not arrived yet or has ended already."""
        # First this, then the look at what runs: a call that begins meanwhile finds itself cancelled.
        self.cancelled.add(request)
        if any(request in thread.running for thread in list(self.threads_by_ident.values())):
            self._insist.add(request)
            self._interrupt(request)
            return
        self._refused.append(request)
        if len(self._refused) > MOST_REFUSED:
            self.cancelled.discard(self._refused.popleft())
        self._send_control({"kind": "cancelled", "request": request})
        # In a thread of its own: the link may be full, and this thread has to hear the next cancel.
        arguments = (request, Interrupted())
        try:
            threading.Thread(target=self._refuse, args=arguments, name="easycluster-refusal", daemon=True).start()
        except (RuntimeError, MemoryError):
            # Far-side code has used up what threads are made of.
            self.refuse_later(*arguments)

    def _refuse(self, request: int, exc: BaseException) -> None:
        """Answer a call that does not run; a second answer is dropped by the near side."""
        session = self.session
        if session is not None:
            try:
                reply, out = session.dump_failure(exc)
                session.send(Kind.RAISE, request, reply, out)
            except OSError:
                pass

    def _interrupt(self, request: int) -> None:
        for thread in list(self.threads_by_ident.values()):
            if request in thread.running:
                if thread is self.main_thread:
                    signal.pthread_kill(thread.ident, CANCEL_SIGNAL)
                    return
                with self._interrupting:
                    if request in thread.running:
                        _raise_in_thread(thread.ident, Interrupted)
                return

    def _on_cancel_signal(self, _number: int, _frame: Any) -> None:
        running = self.main_thread.running
        if self._over:
            if not self._leaving:
                self._told = True
                raise Interrupted
        elif running and not self.cancelled.isdisjoint(running):
            raise Interrupted

    def cancel_ended(self, request: int) -> None:
        """A cancelled call has ended, one way or the other."""
        self.cancelled.discard(request)
        self._insist.discard(request)
        ident = get_ident()
        if ident != self.main_thread.ident:
            with self._interrupting:
                _raise_in_thread(ident, None)
        self._send_control({"kind": "cancelled", "request": request})

    # Services ----------------------------------------------------------------------------------

    def service(self, name: str, *args: Any) -> Any:
        """Do one of the things beyond calls: files, commands, wishes."""
        if name == "root":
            if self._root is None:
                self._root = Root(self.namespace)
            return self._root
        if name == "wishes":
            # Late, as what it leads to: most near sides wish nothing.
            from easycluster.far.wishes import fulfil

            return fulfil(self, *args)
        if name == "post_mortem":
            from easycluster.far.debugger import post_mortem

            return post_mortem(*args)
        if name in ("apply", "start_at", "clocks", "release"):
            from easycluster.far import meeting

            if args and isinstance(args[0], str):
                args = (self.namespace.get_global(args[0]), *args[1:])
            return getattr(meeting, name)(*args)
        from easycluster.far.services import SERVICES

        return SERVICES[name](*args)

    def ask_near(self, name: str, *args: Any) -> Any:
        """Ask the near side for one of its services."""
        session = self.session
        assert session is not None
        return ask(session, (Op.SERVICE, name, *args))

    def _fetch_module(self, name: str) -> Any:
        if self.session is None or get_ident() not in self.session.inside:
            # Nobody on the near side waits for this thread.
            raise NotNow
        found = self.ask_near("fetch_module", name)
        if found is not None:
            self.fetched[name] = found
        return found


class CloudpickleFinder(ControllerFinder):
    """Prefers the controller's cloudpickle: its pickles are made for its own version."""

    def install(self) -> None:
        """Put this finder in front of all others."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return how to load cloudpickle; other names are none of its business."""
        if name.partition(".")[0] != "cloudpickle":
            return None
        return super().find_spec(name, path, target)


def main(control: socket.socket, out: int, err: int, stacks: int, settings: Dict[str, Any]) -> None:
    """Be a worker.  Does not return."""
    output.redirect(out, err)
    # Not to stderr: that is the user's, and this is shown without our frames.
    faulthandler.enable(stacks)
    faulthandler.register(DUMP_SIGNAL, stacks, all_threads=True, chain=False)
    sys.argv = [""]
    worker = Worker(control, settings)
    undo.registrar = undo.Registrar(settings["undo"], worker)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=worker.after_fork)
    code = 0
    profile = _start_profile() if settings.get("profile") else None
    try:
        worker.run()
    except (SystemExit, Interrupted):
        pass
    except BaseException:  # noqa: BLE001 - the last boundary of the process
        traceback.print_exc()
        code = 70
    finally:
        try:
            if profile is not None:
                _write_profile(profile, settings["profile"])
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(code)


def _start_profile() -> Any:
    """Profile the calls of this thread, the main one."""
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    return profile


def _write_profile(profile: Any, path: str) -> None:
    profile.disable()
    try:
        profile.dump_stats(f"{path}.{os.getpid()}")
    except OSError as exc:
        sys.stderr.write(f"easycluster: the profile cannot be written: {exc}\n")


def _write_all(stream: Any, data: bytes) -> None:
    counts: List[int] = []
    while sum(counts) < len(data):
        try:
            counts.extend(stream.write_map(data[sum(counts) :]))
        except BlockingIOError:
            stream.wait(write=True, read=False, timeout=1.0)


def _raise_in_thread(ident: int, exception: Optional[type]) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(exception) if exception is not None else None
    )
