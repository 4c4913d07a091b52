"""Far sides behind an execnet gateway: a local Python, or one behind the user's own ssh.

execnet carries the control stream.  What makes it dependable is here and in :mod:`easycluster.transport.process`: a
deadline for the whole bootstrap, ssh's own words in the error, no prompt, no forced compression, an end that leaves
nothing behind.  The far end of the stream is :mod:`easycluster.far.channel`.

A gateway also opens *data pipes*: raw pipes to the worker beside the gateway.  Locally the worker is handed two pipes
through its unix socket; over ssh a second session on a private master hands over its standard input and output.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import threading
import time
import weakref
from typing import TYPE_CHECKING

from easycluster.errors import ConnectError, ConnectionLost
from easycluster.far.start import MARKER_BYTES
from easycluster.transport.commands import SUDO, GatewayTarget
from easycluster.transport.diagnosis import explain_end
from easycluster.transport.direct import DataPipes, open_local_pipes, open_ssh_pipes
from easycluster.transport.ways import Way, reach

if TYPE_CHECKING:
    from collections.abc import Callable

    import execnet

__all__ = ["Gateway", "GatewayTarget", "open_gateway"]

# Seconds that ssh gets to end by itself once its output has ended.
GRACE = 1.0

# Seconds that a person gets to answer ssh's questions, on top of the timeout.
ASK_EXTRA = 60.0


def open_gateway(
    target: GatewayTarget, *, timeout: float = 10.0, meanwhile: Callable[[], object] = lambda: None
) -> Gateway:
    """Start a Python at the target and make sure that it answers.

    Args:
        target: Where to.
        timeout: Seconds for all of it: network, login, start-up files and Python.
        meanwhile: Called once the target is at work.

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
        gateway._open(timeout + ASK_EXTRA if target.ask else timeout, meanwhile)
    except BaseException:
        gateway.close(timeout=0.0)
        raise
    return gateway


class Gateway:
    """A Python process at the other end of an execnet gateway.

    Attributes:
        target: Where it leads.
        python_version: Version of the far side's Python.
        python: Path of the far side's Python.
        local_pid: Process id on this machine: the far side itself locally, over ssh a shell with ssh below it.
        far_pid: Process id over there.
    """

    def __init__(self, target: GatewayTarget) -> None:
        """Choose the private folder; :func:`open_gateway` makes gateways."""
        self.target = target
        self.python_version: tuple[int, ...] = ()
        self.python = ""
        self.local_pid = 0
        self.far_pid = 0
        self._owner = os.getpid()
        self._marker = secrets.token_hex(MARKER_BYTES)
        self._way: Way | None = None
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

    def _open(self, timeout: float, meanwhile: Callable[[], object]) -> None:
        """Have a Python started, and join execnet to its pipes."""
        import execnet
        from execnet.gateway_base import Popen2IO

        class PipeIO(Popen2IO):
            """As execnet has it for processes that it starts itself."""

            def wait(self) -> int | None:
                return process.wait()

            def kill(self) -> None:
                process.kill()

        way = self._way = reach(self.target, self._marker, timeout, meanwhile)
        process, found = way.process, way.found
        self.python_version, self.far_pid, self.python = found.version, found.pid, found.executable
        self.local_pid = process.pid
        group = self._group = execnet.Group(execmodel="thread")
        atexit.unregister(group._cleanup_atexit)  # it would hold the group for ever, and on 3.12 it fails
        read_fd, write_fd = process.take_pipes()
        io = PipeIO(os.fdopen(write_fd, "wb"), os.fdopen(read_fd, "rb"), group.execmodel)
        spec = execnet.XSpec("popen")
        group.allocate_id(spec)
        self._gateway = execnet.Gateway(io, spec)
        group._register(self._gateway)

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
            bundle: What makes ``easycluster.far.channel`` importable, see :mod:`easycluster.far.start`.
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
            # Beside execnet: the other end of its stream is in the bundle.
            self._gateway._io.write(len(bundle).to_bytes(4, "big") + bundle)
            self._channel = self._gateway.remote_exec("# easycluster.far.channel knows what to run")
            self._channel.setcallback(receive, endmarker=end)
        except (OSError, EOFError, ValueError) as exc:  # execnet closes its files when it sees the end
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
        channel = self._channel
        if channel is not None:
            try:
                channel.waitclose(timeout)
            except channel.RemoteError as exc:
                return f"the keeper failed: {str(exc).strip()}"
            except (OSError, EOFError, TypeError):
                pass
        ended = explain_end(self.target, self._how_it_ended(), self.words())
        master = self._way.master if self._way is not None else None
        return ended if master is None or not master.has_ended(timeout) else f"{master.explain_end()}; {ended}"

    def _how_it_ended(self) -> int | None:
        """Exit code of ssh or of the local far side (negative for a signal), None while unknown."""
        return self._way.process.wait(GRACE) if self._way is not None else None

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
        end = time.monotonic() + timeout
        if self.target.kind == "local":
            pipes = open_local_pipes(self.target.host, command_path)
        else:
            pipes = self._prepared or self._open_ssh_pipes()
            self._prepared = None
        try:
            self._join(pipes, command_path, marker, timeout)
        except ConnectError as exc:
            assert self._way is not None  # it is open
            control = self._way.another(self.target, exc.details, max(0.1, end - time.monotonic()))
            if not control:
                raise
            pipes = self._open_ssh_pipes(control)
            self._join(pipes, command_path, marker, max(0.1, end - time.monotonic()))
        self._adopt(pipes)
        return pipes

    def prepare_data(self) -> None:
        """Begin what :meth:`open_data` takes long to do, while the far side does other things."""
        if self.target.kind == "ssh":
            # What is wrong with it, open_data will see.
            with contextlib.suppress(ConnectError):
                self._prepared = self._open_ssh_pipes()
                self._adopt(self._prepared)

    def _join(self, pipes: DataPipes, command_path: str, marker: bytes, timeout: float) -> None:
        """Have pipes handed to the listener, and wait for it."""
        try:
            if self.target.kind == "ssh":
                pipes.tell(command_path)
            pipes.skip_noise(marker, timeout)
        except BaseException:
            pipes.close()
            raise

    def _open_ssh_pipes(self, control: str = "") -> DataPipes:
        """Start a second session on the master, or on another one."""
        # The listener's directory is open to nobody but its own user.
        become = SUDO if self.target.sudo else ""
        assert self._way is not None  # it is open
        return open_ssh_pipes(self.target.host, self.target.ssh, control or self._way.control_path, self.python, become)

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
        return self._way.process.words() if self._way is not None else ""

    def kill(self) -> None:
        """Kill the local process and ssh, now; the far side then meets an end of file.  :meth:`close` is still due."""
        if self._way is not None:
            self._way.process.kill()

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
            # Before its keeper runs, the far side takes no goodbye.
            self._terminate(timeout if self._heard else 0.0)
        reporter = self._reporter
        if reporter is not None and reporter is not threading.current_thread():
            reporter.join(1.0)
        if self._way is not None:
            self._way.close()

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
