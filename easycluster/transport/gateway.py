"""Far sides behind an execnet gateway: a local Python, or one behind the user's own ssh.

execnet starts the process and carries the control stream.  Everything else that makes it dependable is here and in
:mod:`easycluster.transport.launcher`: a deadline for the whole bootstrap, ssh's own words in the error, no prompt, no
forced compression, an end that leaves nothing behind.

A gateway also opens *data pipes*: raw pipes to the worker beside the gateway.  Locally the worker is handed two pipes
through its unix socket; over ssh a second session on a private master hands over its standard input and output.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import errno
import os
import random
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.errors import ConnectError, ConnectionLost
from easycluster.far.start import FIRST_STAGE, MARKER_BYTES, OLDEST_PYTHON
from easycluster.transport.commands import SUDO, GatewayTarget, choose_folder, octal, ssh_command
from easycluster.transport.diagnosis import explain_end, explain_failure, explain_local_failure, was_turned_away
from easycluster.transport.direct import DataPipes, open_local_pipes, open_ssh_pipes

if TYPE_CHECKING:
    from collections.abc import Callable

    import execnet

__all__ = ["Gateway", "GatewayTarget", "open_gateway"]

# Runs in the far side's main thread for as long as the gateway lives.
KEEPER = """\
from easycluster.far.control import serve_channel
serve_channel(channel)
"""

# Seconds that the near side waits beyond the launcher's own deadline before it kills the launcher.
WATCHDOG_MARGIN = 1.0

# Seconds to wait before another try when sshd hangs up before the login.  Its default lets ten log in at a time.
RETRIES = (0.2, 0.5, 1.0)

# Seconds that a person gets to answer ssh's questions, on top of the timeout.
ASK_EXTRA = 60.0


def open_gateway(target: GatewayTarget, *, timeout: float = 10.0) -> Gateway:
    """Start a Python at the target and make sure that it answers.

    Args:
        target: Where to.
        timeout: Seconds for all of it: network, login, start-up files and Python.

    Returns:
        A gateway on which :meth:`Gateway.start` comes next.

    Raises:
        HostNotFound: If the name does not resolve.
        HostKeyError: If ssh does not trust the host.
        AuthenticationError: If the login was refused.
        ConnectTimeout: If nothing answered in time.
        BootstrapError: If the login worked and no Python 3.8 or newer came up.
        ConnectError: For every other reason.
    """
    gateway = Gateway(target)
    try:
        gateway._open(timeout + ASK_EXTRA if target.ask else timeout)
    except BaseException:
        gateway.close(timeout=0.0)
        raise
    return gateway


# What this machine may have run out of when a process cannot be started: descriptors, processes, memory.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Gateway:
    """A Python process at the other end of an execnet gateway.

    Attributes:
        target: Where it leads.
        python_version: Version of the far side's Python.
        python: Path of the far side's Python.
        local_pid: Process id on this machine: the far side itself locally, our launcher over ssh.
        far_pid: Process id over there.
    """

    def __init__(self, target: GatewayTarget) -> None:
        """Choose the private folder; :func:`open_gateway` makes gateways."""
        self.target = target
        self.python_version: tuple[int, ...] = ()
        self.python = ""
        self.local_pid = 0
        self.far_pid = 0
        self._folder = choose_folder()
        self._launched = False
        self._overdue = False
        self._words = -1  # standard error of ssh or of the local far side, a file in the folder
        self._owner = os.getpid()
        self._marker = secrets.token_hex(MARKER_BYTES)
        self._group: execnet.Group | None = None
        self._gateway: execnet.Gateway | None = None
        self._channel: execnet.Channel | None = None
        self._sending = threading.Lock()  # execnet has none; a record must not be torn
        self._closing = threading.Lock()
        self._closed = False
        self._heard = False  # whether the keeper has sent anything
        self._failure = ""  # what a callback of the caller did
        self._reporter: threading.Thread | None = None
        self._pipes: set[DataPipes] = set()
        self._prepared: DataPipes | None = None
        _gateways.add(self)

    def __repr__(self) -> str:
        """Name the target and the interpreter."""
        version = ".".join(map(str, self.python_version)) or "not open"
        return f"<Gateway {self.target.kind} {self.target.host} Python {version}>"

    # Opening

    def _open(self, timeout: float) -> None:
        """Start the process, wait for its marker, and read what it says about itself."""
        if os.name == "nt":
            raise ConnectError(
                f"{self.target}: gateways need a POSIX system here; use the TCP server", self.target.host
            )
        if self.target.kind == "ssh":
            self._open_ssh(timeout)
        else:
            self._open_local(timeout)

    def _open_ssh(self, timeout: float) -> None:
        """Log in; once more and again when sshd has too many others before it."""
        end = time.monotonic() + timeout
        for pause in (*RETRIES, None):
            left = end - time.monotonic()
            self._launch(*self._ssh_launcher(left), left)
            try:
                self._read_status(timeout)
            except ConnectError as exc:
                # Random, because those who were turned away together would come back together.
                wait = (pause or 0.0) * random.uniform(0.5, 1.5)
                if pause is None or not was_turned_away(exc) or time.monotonic() + wait > end - 1.0:
                    raise
                self._terminate(0.0)
                if self._words >= 0:
                    os.ftruncate(self._words, 0)
                for name in ("status", "pid"):
                    (self._folder / name).unlink(missing_ok=True)
                time.sleep(wait)
            else:
                return

    def _open_local(self, timeout: float) -> None:
        """Try one command after the other."""
        old: list[str] = []
        for candidate in self.target.candidates:
            words = shlex.split(candidate)
            program = shutil.which(os.path.expanduser(words[0])) if words else None
            if program is None:
                continue
            sudo = SUDO.split() if self.target.sudo else []
            command = shlex.join([*sudo, program, *words[1:], "-u", "-c", FIRST_STAGE, self._marker, str(self._folder)])
            self._launch(f'{command} 2>>"$folder/stderr"', b"", timeout)
            version = self._read_started(program, timeout)
            if not version:
                return
            old.append(version)
        raise explain_failure(self.target, {"cause": "none", "versions": old, "login": True}, "", timeout)

    def _ssh_launcher(self, timeout: float) -> tuple[str, bytes]:
        """The command that starts the launcher, and its settings."""
        values = [str(os.getpid()), str(timeout), self._marker, "ask" if self.target.ask else ""]
        values += ssh_command(self.target, self._folder, self._marker, timeout)
        if any("\0" in value for value in values):
            raise ConnectError(f"{self.target}: a NUL character in the host, user or arguments", self.target.host)
        launcher = Path(__file__).with_name("launcher.py")
        # As a module, so that Python need not compile it each time.
        start = "import sys; sys.path.append(sys.argv[2]); import launcher; sys.exit(launcher.main(sys.argv[1]))"
        command = shlex.join([sys.executable, "-I", "-S", "-c", start, str(self._folder), str(launcher.parent)])
        return command, b"".join(os.fsencode(value) + b"\0" for value in values)

    def _launch(self, command: str, settings: bytes, timeout: float) -> None:
        """Have execnet run a shell command as the gateway's process; bounded by the timeout and a margin."""
        import execnet

        # The shell makes the folder, and what it becomes removes it when we are gone: there is no moment in which we
        # could be killed and leave it behind.  It also notes its process id for us: should Python hang before its
        # first line, there is nothing else to kill it by.
        script = f"folder={self._folder}; "
        if self._launched:
            script += "[ -d $folder ] || "
        script += "mkdir -m 700 $folder || exit 1; "
        script += "echo $$ >$folder/pid; "
        if settings:
            script += f"printf %b '{octal(settings)}' >$folder/settings; "
        script += f"exec {command}"
        self._launched = True
        self._group = group = execnet.Group(execmodel="thread")
        atexit.unregister(group._cleanup_atexit)  # it would hold the group for ever, and on 3.12 it fails
        finished = threading.Event()

        def watch() -> None:
            # Up to its marker the launcher has the same deadline, and says more than we could.
            if finished.wait(timeout) or (self._is_awaited() and finished.wait(WATCHDOG_MARGIN)):
                return
            self._overdue = True
            self.kill()

        threading.Thread(target=watch, name=f"easycluster-launch-{self.target.host}", daemon=True).start()
        try:
            # Octal, because execnet splits its own arguments at "//" and blanks.
            shell = f"""/bin/sh -c 'eval "$(printf %b "$0")"' '{octal(os.fsencode(script))}'"""
            self._gateway = group.makegateway(f"popen//python={shell}")
        except (OSError, EOFError) as exc:
            _reap(exc)  # it has ended or is about to, and the watchdog is still awake
            if isinstance(exc, OSError) and exc.errno in EXHAUSTED:
                raise  # it was never there
        except BaseException as exc:
            self.kill()
            _reap(exc)
            if not isinstance(exc, AssertionError):  # execnet's way to say that something else than Python answered
                raise
        finally:
            finished.set()
            self.local_pid = self._read_pid()
            if self._words < 0 and self._folder.exists():
                self._words = os.open(self._folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def _read_pid(self) -> int:
        """The process id that the run script wrote, 0 if it never ran."""
        try:
            return int((self._folder / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def _is_running(self) -> bool:
        """Whether our process runs; execnet reaps it when it ends during the bootstrap."""
        try:
            os.kill(self.local_pid, 0)
        except OSError:
            return False
        return self.local_pid != 0 and self._gateway is not None

    def _status(self) -> dict[str, Any]:
        """What the launcher noted last, nothing if it noted nothing."""
        try:
            status: dict[str, Any] = ast.literal_eval((self._folder / "status").read_text(encoding="ascii"))
        except (OSError, ValueError, SyntaxError):
            return {}
        return status

    def _is_awaited(self) -> bool:
        """Whether the launcher still waits for a Python over there."""
        return self.target.kind == "ssh" and self._status().get("stage") != "running"

    def _read_status(self, timeout: float) -> None:
        """Take what the launcher found out, or raise what it says."""
        status = self._status() or {"stage": "failed", "cause": "timeout"}
        if self._overdue and status["stage"] == "running":
            status = {"stage": "failed", "cause": "silent"}
        if status["stage"] != "running" or not self._is_running():
            raise explain_failure(self.target, status, self.words(), timeout)
        self._take(status["version"], status["pid"], status["executable"])

    def _read_started(self, program: str, timeout: float) -> str:
        """Take what a local Python wrote; returns its version if it is too old, else ""."""
        try:
            _, version, pid, executable = (self._folder / "started").read_text().split(" ")
        except (OSError, ValueError):
            raise explain_local_failure(self.target, program, self.words(), timeout) from None
        if tuple(map(int, version.split(".")[:2])) < OLDEST_PYTHON:
            self._terminate(0.0)
            return version
        if not self._is_running():
            raise explain_local_failure(self.target, program, self.words(), timeout)
        self._take(version, int(pid), executable.strip())
        return ""

    def _take(self, version: str, pid: int, executable: str) -> None:
        self.python_version = tuple(map(int, version.split(".")))
        self.far_pid = pid
        self.python = os.fsdecode(bytes.fromhex(executable))
        if self.target.kind == "local":
            shutil.rmtree(self._folder, ignore_errors=True)  # our descriptor of stderr stays good

    # The control stream

    def start(
        self,
        bundle: bytes,
        on_data: Callable[[bytes], None],
        on_close: Callable[[str], None],
        *,
        timeout: float = 10.0,
    ) -> None:
        """Run the keeper over there.

        Args:
            bundle: What makes ``easycluster.far.control`` importable, see :mod:`easycluster.far.start`.
            on_data: Gets what the keeper sends, in execnet's receiver thread: it must only enqueue.
            on_close: Gets the reason, once, when the stream has ended for any other reason than :meth:`close`; in a
                thread of its own.
            timeout: Seconds until the bundle has to be out of the door.

        Raises:
            ConnectionLost: If the far side is gone.
        """
        if self._gateway is None or self._channel is not None:
            raise ConnectionLost("the gateway cannot be started (again)", self.target.host)
        end = object()

        def receive(item: object) -> None:
            if item is end:
                self._end_seen(on_close)
            elif isinstance(item, bytes):
                self._heard = True
                try:
                    on_data(item)
                except Exception as exc:
                    self._failure = f"the receiver of its data failed: {exc!r}"
                    raise

        watchdog = threading.Timer(timeout, self.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            # Beside execnet: its side over there begins to listen once it has what we send here.
            self._gateway._io.write(len(bundle).to_bytes(4, "big") + bundle)
            self._channel = self._gateway.remote_exec(KEEPER)
            self._channel.setcallback(receive, endmarker=end)
        except (OSError, EOFError) as exc:
            raise self._lost() from exc
        finally:
            watchdog.cancel()

    def send(self, data: bytes) -> None:
        """Send bytes to the keeper, which gets them whole and in order; any thread may call this.

        Raises:
            ConnectionLost: If the far side is gone or the gateway is closed.
        """
        channel = self._channel
        if channel is None or self._closed:
            raise ConnectionLost("the gateway is closed", self.target.host)
        try:
            with self._sending:
                channel.send(data)
        except (OSError, EOFError) as exc:
            raise self._lost() from exc

    def _lost(self) -> ConnectionLost:
        """The error for a stream that broke."""
        if self._closed:
            return ConnectionLost("the gateway was closed", self.target.host)
        return ConnectionLost(self._why(0.5), self.target.host, last_output=self.words()[-2048:])

    def _end_seen(self, on_close: Callable[[str], None]) -> None:
        """Called by the receiver thread at the end of the stream; finding out why takes time it does not have."""
        if self._closed:
            return

        def report() -> None:
            reason = self._why(0.5)
            if not self._closed:
                on_close(reason)

        self._reporter = threading.Thread(target=report, name=f"easycluster-end-{self.target.host}", daemon=True)
        self._reporter.start()

    def _why(self, timeout: float) -> str:
        """Why the stream ended, waiting a little for those who know."""
        if self._failure:
            return self._failure
        end = time.monotonic() + timeout
        channel = self._channel
        if channel is not None:
            try:
                channel.waitclose(timeout)
            except channel.RemoteError as exc:
                return f"the keeper failed: {str(exc).strip()}"
            except (OSError, EOFError, TypeError):
                pass
        while True:
            how = self._how_it_ended()
            # Once we close it, it ends because of that, and nobody asks why any more.
            if how is not None or self._closed or time.monotonic() > end:
                return explain_end(self.target, how, self.words())
            time.sleep(0.005)

    def _how_it_ended(self) -> int | None:
        """Exit code of ssh or of the local far side (negative for a signal), None while unknown."""
        if self.target.kind == "ssh":
            code = self._status().get("exit")
            return code if isinstance(code, int) else None
        try:
            ended = os.waitid(os.P_PID, self.local_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except (OSError, AttributeError):  # execnet has reaped it; not on this system
            return None
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    # Data pipes

    def open_data(self, command_path: str, marker: bytes, *, timeout: float = 5.0) -> DataPipes:
        """Open raw pipes to whoever listens at a unix socket over there.

        The listener accepts one connection, receives one byte ``b"x"`` with two descriptors (what it is to read, what
        it is to write; SCM_RIGHTS), writes the marker first, and keeps the connection open for as long as it wants
        the pipes.

        Args:
            command_path: Path of the unix socket on the far side.
            marker: What the listener writes first; everything before it is dropped.
            timeout: Seconds until the marker has to be there.

        Returns:
            The pipes; whoever asked closes them, :meth:`close` closes those that are left.

        Raises:
            ConnectError: If they cannot be had (sshd allows no second session, no such socket, no marker in time); the
                gateway itself is as good as before.
        """
        if self._closed or not self.python_version:
            raise ConnectError(f"{self.target}: the gateway is closed", self.target.host)
        if self.target.kind == "local":
            pipes = open_local_pipes(self.target.host, command_path)
        else:
            pipes = self._prepared or self._open_ssh_pipes()
            self._prepared = None
        try:
            if self.target.kind == "ssh":
                pipes.tell(command_path)
            pipes.skip_noise(marker, timeout)
        except BaseException:
            pipes.close()
            raise
        self._adopt(pipes)
        return pipes

    def prepare_data(self) -> None:
        """Begin what :meth:`open_data` takes long to do, while the far side does other things."""
        if self.target.kind == "ssh":
            # What is wrong with it, open_data will see.
            with contextlib.suppress(ConnectError):
                self._prepared = self._open_ssh_pipes()
                self._adopt(self._prepared)

    def _open_ssh_pipes(self) -> DataPipes:
        """Start a second session on the master."""
        # The listener's directory is open to nobody but its own user.
        become = SUDO if self.target.sudo else ""
        return open_ssh_pipes(self.target.host, self.target.ssh, str(self._folder / "master"), self.python, become)

    def _adopt(self, pipes: DataPipes) -> None:
        """Remember pipes that close() has to close."""
        with self._closing:
            if self._closed:
                pipes.close()
                raise ConnectError(f"{self.target}: the gateway is closed", self.target.host)
            self._pipes = {known for known in self._pipes if not known.closed} | {pipes}

    # The end

    def words(self) -> str:
        """The last 4 KiB of what ssh, or the local far side, wrote to its standard error."""
        try:
            size = os.fstat(self._words).st_size
            return os.pread(self._words, 4096, max(0, size - 4096)).decode("utf-8", "replace")
        except OSError:  # not open, or closed
            return ""

    def kill(self) -> None:
        """Kill the local process and ssh, now; the far side then meets an end of file.  :meth:`close` is still due."""
        pid = self.local_pid or (0 if self._closed else self._read_pid())
        if not pid or os.getpid() != self._owner:  # a forked child must not end the session of its parent
            return
        with contextlib.suppress(OSError):
            if self.target.ask:
                os.kill(pid, signal.SIGTERM)  # shares our process group; it kills ssh itself
                return
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(pid, signal.SIGKILL)  # it has not got round to its own group yet

    def close(self, timeout: float = 2.0) -> None:
        """End the session and leave nothing behind: no process, thread, descriptor or file; a second call does nothing.

        Args:
            timeout: Seconds for the far side to end by itself before the local process is killed.
        """
        with self._closing:
            if self._closed or os.getpid() != self._owner:
                return
            self._closed = True
            for pipes in self._pipes:
                pipes.close()
            # execnet's worker waits 5 s for a task that it was about to start when the end came.
            self._terminate(timeout if self._heard or self._channel is None else 0.0)
            shutil.rmtree(self._folder, ignore_errors=True)
        reporter = self._reporter
        if reporter is not None and reporter is not threading.current_thread():
            reporter.join(1.0)
        words, self._words = self._words, -1
        if words >= 0:
            os.close(words)

    def _terminate(self, timeout: float) -> None:
        """End the execnet gateway; a send that blocks is broken by the kill."""
        group = self._group
        if group is None:
            return
        if timeout <= 0:
            self.kill()
        thread = threading.Thread(target=group.terminate, args=(timeout + 1.0,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no new threads at interpreter shutdown
            self.kill()
            return
        thread.join(max(timeout, 0.0))
        if thread.is_alive():
            self.kill()
            thread.join(1.0)
        self._group = self._gateway = self._channel = None
        self.local_pid = 0


# All that may be open, for :func:`_forget_in_child`.
_gateways: weakref.WeakSet[Gateway] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Let go of every pipe in a child that the user's code has forked.

    The far side knows that the near side has died by the end of its pipe, which must not be held open by somebody else.
    The numbers stay taken, so that nobody closes a descriptor that means something else by then.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for gateway in list(_gateways):
        held = [fd for pipes in gateway._pipes if not pipes.closed for fd in (pipes.read_fd, pipes.write_fd)]
        io = getattr(gateway._gateway, "_io", None)
        files = (getattr(io, "outfile", None), getattr(io, "infile", None))
        held += [file.fileno() for file in files if file is not None and not file.closed]
        for fd in held:
            os.dup2(null, fd, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _reap(exc: BaseException) -> None:
    """Wait for the process of a gateway that execnet did not finish making; it leaves that to the garbage collector."""
    traceback = exc.__traceback__
    while traceback is not None:
        io = traceback.tb_frame.f_locals.get("io")
        if io is not None and hasattr(io, "wait"):
            for end in (io.close_write, io.close_read):
                with contextlib.suppress(OSError):
                    end()
            io.wait()
            return
        traceback = traceback.tb_next
