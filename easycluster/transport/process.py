"""The local process of a gateway: the user's ssh, or a far side's Python on this machine.

execnet's own ``ssh=`` forces compression, leaves ssh's words on our standard error, takes whatever a start-up file
prints for its protocol and cannot be told from a dead host.  So the process is started here:

- in a session of its own: a Ctrl-C at the terminal never reaches it, and there is no terminal to ask at;
- its standard error goes to a file without a name, for messages;
- ssh runs below a shell that ends it, and removes its folder, when the near side is gone, however that came.

A shell, because it starts in 2 ms and keeps half a megabyte; Python took 12 ms of each connect and 7 MB of each host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
import time
import weakref
from typing import TYPE_CHECKING

from easycluster.transport.marker import Found, MarkerSearch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FarProcess"]

# Its arguments: the folder, "0" (what kill(1) takes for the shell's own process group) or "" if that is shared with us,
# and the command.  Descriptor 3 is a pipe from us: it says "end" once the command is ending, "kill" to have it killed,
# and ends without a word when we are gone; the command then gets 0.7 s to see the end of its input.
_SHELL = """\
folder=$1 group=$2; shift 2
[ "$group" ] || trap "" INT HUP
exec 4<&0 </dev/null
[ "$folder" ] && mkdir -m 700 "$folder" 3<&- 4<&-
"$@" <&4 3<&- 4<&- &
command=$!
exec 4<&- >/dev/null
read word <&3
case $word in
end) ;;
kill) kill -9 $command ;;
*)
    for i in 1 2 3 4 5 6 7; do sleep 0.1; kill -0 $command 2>/dev/null || break; done
    [ "$folder" ] && rm -rf "$folder"
    kill -9 $command $group ;;
esac
wait $command
"""

# Python ignores the first two, a program may ignore the last; what is started here is not to: signal(7) keeps that over
# exec.
_DEFAULT_SIGNALS = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGCHLD") if hasattr(signal, name)]

# A shell reports a command that a signal has ended as 128 and its number; 255 is ssh's own.
_BY_SIGNAL = range(129, 193)


class FarProcess:
    """A process with a pipe in each direction.

    Attributes:
        pid: Its process id: the shell's with ssh.
        read_fd: What to read; whoever takes it closes it, see :meth:`take_pipes`.
        write_fd: What to write to.
    """

    def __init__(self, command: Sequence[str], *, folder: Path | None = None, guarded: bool, ask: bool = False) -> None:
        """Start it.

        Args:
            command: The program and its arguments.
            folder: A private folder to make for it, and to remove.
            guarded: Whether a shell has to end it when we are gone; else it sees the end of its input and leaves.
            ask: Whether it may ask at the terminal.

        Raises:
            OSError: If it cannot be run.
        """
        self.folder = folder
        self._ask = ask
        self._guarded = guarded
        self._owner = os.getpid()
        self._exit_code: int | None = None
        self._ended = False
        self._waiting = threading.Lock()
        self._life = -1
        program = _find(command[0])
        argv = [program, *command[1:]]
        if guarded:
            program = "/bin/sh"
            argv = ["sh", "-c", _SHELL, "sh", str(folder or ""), "" if ask else "0", *argv]
        environment = dict(os.environ)
        if not ask:
            # BatchMode does not reach the ssh that ssh itself starts for a jump host.
            environment["SSH_ASKPASS_REQUIRE"] = "never"
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            self._errors = ours.enter_context(tempfile.TemporaryFile())
            inherited, self.write_fd = _pipe(theirs, ours, reads=True)
            output, self.read_fd = _pipe(theirs, ours, reads=False)
            kept = [inherited, output, _high(self._errors.fileno(), theirs)]
            if guarded:
                life, self._life = _pipe(theirs, ours, reads=True)
                kept.append(life)
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(kept)]
            self.pid = os.posix_spawn(
                program, argv, environment, file_actions=actions, setsid=not ask, setsigdef=_DEFAULT_SIGNALS
            )
            ours.pop_all()
        _processes.add(self)

    def find_marker(self, marker: str, deadline: float) -> tuple[Found | None, MarkerSearch]:
        """Wait for the line of a far side's Python."""
        search = MarkerSearch(marker.encode())
        return search.read(self.read_fd, deadline), search

    def take_pipes(self) -> tuple[int, int]:
        """Return ``read_fd`` and ``write_fd``, which are the caller's to close from now on."""
        taken = self.read_fd, self.write_fd
        self.read_fd = self.write_fd = -1
        return taken

    def held_descriptors(self) -> list[int]:
        """What must not stay open in a forked child: the process would not see our end."""
        return [fd for fd in (self._life, self.read_fd, self.write_fd) if fd >= 0]

    # The end

    def words(self) -> str:
        """The last 4 KiB of what it wrote to its standard error."""
        try:
            fd = self._errors.fileno()
            return os.pread(fd, 4096, max(0, os.fstat(fd).st_size - 4096)).decode("utf-8", "replace")
        except (OSError, ValueError):  # closed
            return ""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        with self._waiting:
            if not self._ended:
                try:
                    if hasattr(os, "waitid"):  # macOS has it since Python 3.13
                        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                            return None
                        # What it has left in its session; its number is nobody else's until we have waited for it.
                        self._signal_group()
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else has waited for it
                    self._ended = True
                else:
                    self._ended = bool(pid)
                    code = os.waitstatus_to_exitcode(status) if pid else None
                    by_signal = self._guarded and code in _BY_SIGNAL
                    self._exit_code = 128 - code if code is not None and by_signal else code
            return self._exit_code

    def _signal_group(self) -> None:
        if not self._ask:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        """Whether nobody has waited for its end."""
        self.poll()
        return not self._ended

    def wait(self, timeout: float = float("inf")) -> int | None:
        """Wait for its end, once its output has ended or it was killed; returns its exit code, None if unknown."""
        self._tell(b"end\n")
        end = time.monotonic() + timeout
        pause = 0.0005
        while self.is_running and time.monotonic() < end:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        return self._exit_code

    def kill(self) -> None:
        """Kill it and what it has started; :meth:`close` is still due."""
        if os.getpid() != self._owner or not self.is_running:  # a forked child must not end the session of its parent
            return
        if self._ask:
            self._tell(b"kill\n")  # it shares our process group
        else:
            self._signal_group()

    def close(self) -> None:
        """Kill it if it runs, and give back what is ours; a second call does nothing."""
        if os.getpid() != self._owner or self._errors.closed:
            return
        self.kill()
        self.wait()
        for fd in self.held_descriptors():
            os.close(fd)
        self._life = self.read_fd = self.write_fd = -1
        self._errors.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, words: bytes) -> None:
        if self._life >= 0:
            with contextlib.suppress(OSError):  # the shell has ended
                os.write(self._life, words)


# All that may run, for :func:`_forget_in_child`.
_processes: weakref.WeakSet[FarProcess] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Let go of every pipe in a child that the user's code has forked: they have to end with us.

    The numbers stay taken, so that nobody closes a descriptor that means something else by then.
    """
    held = [fd for process in list(_processes) for fd in process.held_descriptors()]
    if held:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in held:
            os.dup2(null, fd, inheritable=False)
        os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _find(program: str) -> str:
    """The path of a program.

    Raises:
        OSError: If there is none.
    """
    found = shutil.which(program)
    if found is None:
        number = 13 if os.path.exists(program) else 2  # EACCES, ENOENT
        raise OSError(number, os.strerror(number), program)
    return found


def _pipe(theirs: contextlib.ExitStack, ours: contextlib.ExitStack, *, reads: bool) -> tuple[int, int]:
    """Make a pipe; returns the process's end, which it reads or writes, and ours."""
    ends = os.pipe()
    theirs.callback(os.close, ends[not reads])
    ours.callback(os.close, ends[reads])
    return _high(ends[not reads], theirs), ends[reads]


def _high(fd: int, theirs: contextlib.ExitStack) -> int:
    """Duplicate a descriptor out of the way of those that the process gets."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    theirs.callback(os.close, high)
    return high
