"""Undo: what sets a host back, registered before the change and done whoever dies.

The worker registers an action with its template, which is the last process of a session to go, and waits until that
has it.  Actions run one by one, the last registered first, each in a process of its own that the template forks: at
the end of a lease, or when the session ends in any way, before the locks go.  So they need nothing of the worker, the
near side or the link; what code they are made of travels with them::

    kind     "undo"
    what     text for messages
    limit    seconds
    boot     "keep", or "forget" if a reboot undoes it anyway
    command  text for sh, or a list of words; or
    name     a far-side name, and
    call     a pickle of its arguments; without name one of (function, positional, keyword arguments)
    code     (blocks, modules): what definitions and modules the worker got that it had not at the last time

In a lease they are on disk, too, so that they are done after a loss of power: :mod:`easycluster.far.journal`.

This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import shlex
import signal
import sys
import threading
import time
import traceback
import zlib
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from easycluster.far.fdpass import MAX_PACKET, recv_packet, send_packet

if TYPE_CHECKING:
    import socket

    from easycluster.far.journal import Journal
    from easycluster.far.worker import Worker

__all__ = ["LIMIT", "Code", "Registrar", "UndoStack", "undo"]

# Seconds that one action may take.
LIMIT = 30.0
# Bytes of output that a failed action shows: the end of it.
SHOWN = 4096
# Exit code of an action whose function raised; its output ends with the exception.
RAISED = 113

# In the worker.
registrar: Optional[Registrar] = None


def undo(what: Any, *args: Any, timeout: float = LIMIT, boot: str = "keep", **kwargs: Any) -> None:
    """Have something done on this host after the test, or when the worker or the link dies; call it before the change.

    Args:
        what: A command, as a text for the shell or a list of words; or a function.  It runs in a process of its own
            that has the definitions, but none of the objects of this one.
        args: Of the function; of a command, more words.
        timeout: Seconds until it is killed.
        boot: ``"forget"`` if a reboot undoes the change anyway; else it is done after one, too.
        kwargs: Of the function.

    Raises:
        RuntimeError: Outside of a session's worker.
        SerializationError: If the function or its arguments cannot be kept.
        OSError: If a lease for reboots was asked for, and this cannot be kept over one.
    """
    if registrar is None or registrar.pid != os.getpid():
        raise RuntimeError("undo() works in calls from the near side only, not in what they start")
    if isinstance(what, str):
        registrar.register(command=" ".join([what, *map(_quoted, args)]), limit=timeout, boot=boot)
    elif isinstance(what, (list, tuple)):
        registrar.register(command=[os.fspath(word) for word in (*what, *args)], limit=timeout, boot=boot)
    else:
        registrar.register(call=(what, args, kwargs), limit=timeout, boot=boot)


def _quoted(word: Any) -> str:
    return shlex.quote(str(word))


class Registrar:
    """The worker's side.

    Args:
        sock: To the template.
        worker: Whose code actions are made of.
    """

    def __init__(self, sock: socket.socket, worker: Worker) -> None:
        self.pid = os.getpid()
        self._sock = sock
        self._worker = worker
        self._lock = threading.Lock()
        self._sent = 0, 0

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._sock.fileno()

    def register(
        self,
        *,
        command: Union[str, Sequence[str], None] = None,
        name: str = "",
        call: Any = None,
        limit: float = LIMIT,
        boot: str = "keep",
    ) -> None:
        """Hand an action over; when this returns, it is safe."""
        if boot not in ("keep", "forget"):
            raise ValueError(f"boot is {boot!r}; write 'keep', or 'forget' for what a reboot undoes anyway")
        packet: Dict[str, Any] = {"kind": "undo", "limit": float(limit), "boot": boot}
        if command is not None:
            packet["what"] = command if isinstance(command, str) else " ".join(map(_quoted, command))
            packet["command"] = command
        else:
            packet["what"] = f"{name}()" if name else f"{getattr(call[0], '__qualname__', call[0])}()"
            if name:
                # Now rather than when nobody is left to hear of a misprint.
                self._worker.namespace.get_global(name)
                packet["name"] = name
            packet["call"] = _pickled(call if not name else call or ((), {}), packet["what"])
        errors: List[BaseException] = []

        def hand_over() -> None:
            try:
                self._hand_over(packet)
            except BaseException as exc:  # noqa: BLE001 - raised by the caller
                errors.append(exc)

        # In a thread, where a cancel cannot break it off in the middle of a packet.
        thread = threading.Thread(target=hand_over, name="easycluster-undo", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]

    def _hand_over(self, packet: Dict[str, Any]) -> None:
        with self._lock:
            blocks, modules = self._worker.namespace.received, list(self._worker.fetched.items())
            fresh = blocks[self._sent[0] :], dict(modules[self._sent[1] :])
            if any(fresh):
                packet["code"] = zlib.compress(pickle.dumps(fresh, 4))
            if len(packet.get("code", b"")) + len(packet.get("call", b"")) > MAX_PACKET - (64 << 10):
                raise ValueError(f"{packet['what']} and its code are above 1 MiB; keep what it needs in a file")
            send_packet(self._sock, packet)
            received = recv_packet(self._sock)
            if received is None:
                raise OSError("the template is gone, so nothing can be undone")
            self._sent = len(blocks), len(modules)
            if received[0]["refused"]:
                raise OSError(received[0]["refused"])


def _pickled(call: Any, what: str) -> bytes:
    try:
        return pickle.dumps(call, 4)
    except Exception:  # noqa: BLE001 - anything a reducer raises; code that has no name is the usual reason
        from easycluster.errors import SerializationError

        try:
            import cloudpickle

            data: bytes = cloudpickle.dumps(call)
            return data
        except Exception as exc:
            raise SerializationError(f"{what} cannot be kept for later: {exc}; give a function of role code") from exc


class UndoStack:
    """The template's side: what is to be undone, and the doing of it.

    Attributes:
        journal: Where it is on disk, too; None before there is a lease.
        leave: Run in each child before the action: closes what a child must not hold.
    """

    def __init__(self) -> None:
        # With the number that each has in the journal, 0 for one that is not there.
        self._actions: List[Tuple[Dict[str, Any], Code, int]] = []
        self.journal: Optional[Journal] = None
        self.leave: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._actions)

    @property
    def unkept(self) -> List[str]:
        """What of it would be lost with the power, although a reboot does not undo it."""
        return [packet["what"] for packet, _code, number in self._actions if not number and packet["boot"] != "forget"]

    def add(self, packet: Dict[str, Any], code: Code) -> None:
        """Take an action that a worker registered.

        Raises:
            OSError: If it cannot be written down; it is not taken then.
        """
        data = packet.pop("code", b"")
        if data:
            code.parts.append(data)
        number = 0
        if self.journal is not None and packet["boot"] != "forget":
            number = self.journal.add(packet, code, len(self._actions))
        self.push(packet, code, number)

    def push(self, packet: Dict[str, Any], code: Code, number: int = 0) -> None:
        """Take an action that is in the journal already, or is not to be there."""
        # Its own view: a later worker has other code.
        self._actions.append((packet, code, number))

    def run(self, level: int = 0) -> List[Dict[str, Any]]:
        """Do what was registered above ``level``, the last first; return the failures."""
        failures = []
        while len(self._actions) > level:
            packet, code, number = self._actions[-1]
            began = time.monotonic()
            fault, output = packet.get("fault") or "", ""
            if not fault:
                fault, output = self._run_one(packet, code)
            self._actions.pop()
            if fault:
                seconds = time.monotonic() - began
                failures.append({"what": packet["what"], "error": fault, "output": output, "seconds": seconds})
            if number and self.journal is not None:
                # On a disk that is full it would be done once more after a loss of power, which is not worse.
                with contextlib.suppress(OSError):
                    self.journal.done(number)
        if self.journal is not None:
            with contextlib.suppress(OSError):
                self.journal.settle()
        return failures

    def _run_one(self, packet: Dict[str, Any], code: Code) -> Tuple[str, str]:
        out, out_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(out)
                self._become_action(packet, code, out_end)
            except BaseException:  # noqa: BLE001 - the last boundary of the process
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(RAISED)
        os.close(out_end)
        try:
            return _wait(pid, out, packet["limit"])
        finally:
            os.close(out)

    def _become_action(self, packet: Dict[str, Any], code: Code, out: int) -> None:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self.leave()
        # What the template inherited is the null device.
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        command = packet.get("command")
        if isinstance(command, str):
            os.execv("/bin/sh", ["sh", "-c", command])
        elif command is not None:
            os.execvp(command[0], list(command))
        namespace = code.load()
        name = packet.get("name")
        if name:
            args, kwargs = pickle.loads(packet["call"])
            function = namespace.get_global(name)
        else:
            function, args, kwargs = pickle.loads(packet["call"])
        function(*args, **kwargs)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Code:
    """What definitions and modules one worker had got when it registered actions."""

    def __init__(self, definitions: Sequence[str]) -> None:
        self.definitions = tuple(definitions)
        self.parts: List[bytes] = []

    def load(self) -> Any:
        """Make it importable in this process; return the namespace."""
        from easycluster.far.namespace import Namespace
        from easycluster.far.worker import CloudpickleFinder

        blocks, modules = [], {}
        for part in self.parts:
            more, others = pickle.loads(zlib.decompress(part))
            blocks += more
            modules.update(others)
        finder = CloudpickleFinder(modules.get)
        finder.install()
        from easycluster.far.importer import ControllerFinder

        ControllerFinder(modules.get).install()
        namespace = Namespace(self.definitions)
        namespace.update(blocks)
        return namespace


def _wait(pid: int, out: int, limit: float) -> Tuple[str, str]:
    """Wait for an action; return what was wrong with it, "" for nothing, and the end of its output."""
    from easycluster.far.reaper import kill_group

    end = time.monotonic() + limit
    output = b""
    poller = select.poll()
    poller.register(out, select.POLLIN)
    is_open, late, pause = True, False, 0.001
    while True:
        if is_open:
            if poller.poll(pause * 1000):
                data = os.read(out, 65536)
                output = (output + data)[-SHOWN:]
                is_open = bool(data)
        else:
            time.sleep(pause)
        # Its output may stay open for long: a daemon that it started has it.  Its number is its own until it is reaped.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        pause = min(pause * 2, 0.05)
        if not late and time.monotonic() > end:
            late = True
            kill_group(pid)
    while is_open and poller.poll(0):
        data = os.read(out, 65536)
        output = (output + data)[-SHOWN:]
        is_open = bool(data)
    kill_group(pid)
    status = os.waitpid(pid, 0)[1]
    text = output.decode("utf-8", "replace")
    if late:
        return f"did not finish within {limit:g} s", text
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}", text
    code = os.WEXITSTATUS(status)
    if code == RAISED and text.strip():
        return text.strip().splitlines()[-1], text
    return (f"ended with exit code {code}" if code else ""), text
