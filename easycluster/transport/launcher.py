"""Starts ssh our way, as the local process of an execnet gateway; run by ``python -I -S``.

execnet's own ``ssh=`` forces compression, leaves ssh's words on our standard error, takes whatever a start-up file
prints for its protocol and cannot be told from a dead host.  This program is what stands between instead:

- ssh runs in a session of its own (a Ctrl-C at the terminal never reaches it, it has no terminal to ask at);
- standard input goes straight to ssh; ssh's standard error goes to ``FOLDER/stderr``;
- standard output is searched for the marker of :mod:`easycluster.far.start`, what came before is dropped, and from
  there on it is passed on unchanged;
- when the near side is gone, ssh gets a second to finish and is killed, and FOLDER is removed.

``FOLDER/settings`` holds what to do, as strings that end in NUL: the process id of the near side, the seconds until the
marker has to be there, the marker, "ask" or "", and ssh's arguments.  ``FOLDER/status`` is what happened so far, the
``repr`` of a dictionary, replaced as a whole: see :func:`report`.

Runs on the near side without ``site``; imports little, because its start is part of every connect.  (``signal`` makes
enums, which takes a quarter as long as the start of Python.)
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # typeshed leaves it out
import os
import select
import time

# What start-up files may print before the marker.
MOST_NOISE = 64 * 1024

# How much of it an error shows.
SHOWN_NOISE = 500

# Seconds that ssh gets to end by itself once its output has ended or the near side is gone.
GRACE = 1.0

# Seconds after our start by which execnet has written its first line.
DRAINED = 0.5

OLDEST_PYTHON = (3, 8)


class Launcher:
    """One ssh process between its marker and its end."""

    def __init__(self, folder: str, near: int, deadline: float, marker: bytes) -> None:
        self.folder = folder
        self.near = near
        self.deadline = deadline
        self.marker = b"\n" + marker + b" "
        self.child = 0
        self.output = -1
        self.status: dict[str, object] = {"stage": "connecting"}

    def report(self, **facts: object) -> None:
        """Add to the status file.

        Keys: ``stage`` (connecting, running, failed or ended), ``cause`` of a failure (exec, exit, timeout, noise,
        none, near), ``error`` (why ssh could not be run), ``exit`` (ssh's exit code, negative for a signal), ``login``
        (whether ssh had logged in), ``noise`` (bytes before the marker), ``versions`` (those of interpreters that are
        too old), ``version``, ``executable`` and ``pid`` of the one that runs.
        """
        self.status.update(facts)
        path = os.path.join(self.folder, "status")
        try:
            with open(path + ".new", "w", encoding="ascii", errors="backslashreplace") as file:
                file.write(repr(self.status))
            os.replace(path + ".new", path)
        except OSError:
            pass  # the near side has removed the folder, so nobody wants to know

    def start(self, command: list[str], environment: dict[str, str]) -> bool:
        """Run ssh with our standard input, its output in a pipe of ours; False, and a failure, if it cannot be run."""
        self.output, output = os.pipe()
        errors, error = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            try:
                os.dup2(output, 1)
                os.dup2(os.open(os.path.join(self.folder, "stderr"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
                os.execvpe(command[0], command, environment)
            except OSError as exc:
                os.write(error, (exc.strerror or str(exc)).encode())
            finally:
                os._exit(127)
        os.close(output)
        os.close(error)
        problem = os.read(errors, 4096)  # the end of file comes with a successful exec
        os.close(errors)
        if problem:
            self.fail("exec", b"")
            self.report(error=problem.decode(errors="replace"))
        return not problem

    def near_is_gone(self) -> bool:
        """Whether the process that started us has ended; its pipes may live on in children of its."""
        return os.getppid() != self.near

    def near_has_left(self) -> bool:
        """Whether nobody on the near side wants to know of us any more.

        A process that is killed closes its pipes some time before its children get another parent.
        """
        poll = select.poll()
        poll.register(1, 0)
        return self.near_is_gone() or bool(poll.poll(0))

    def find_marker(self) -> bytes | None:
        """Read up to the line of a usable interpreter.

        Returns:
            What came right after it, or None after a failure, which is in the status then.
        """
        poll = select.poll()
        poll.register(self.output, select.POLLIN)
        poll.register(1, 0)
        seen = b""
        cause = ""
        while not cause:
            left = self.deadline - time.monotonic()
            events = dict(poll.poll(max(0.0, min(left, 1.0)) * 1000))
            if self.near_is_gone() or 1 in events:
                cause = "near"
            elif self.output in events:
                data = os.read(self.output, 65536)
                seen += data
                rest, cause = self.read_lines(seen)
                if rest is not None:
                    return rest
                if not cause and not data:
                    cause = "exit"
            elif left <= 0:
                cause = "timeout"
        at = seen.find(self.marker)
        self.fail(cause, seen[:at] if at >= 0 else seen)
        return None

    def read_lines(self, seen: bytes) -> tuple[bytes | None, str]:
        """Look for marker lines in everything that was printed so far.

        Returns:
            What follows the line of a usable interpreter, or None; and the cause of a failure, or "".
        """
        old: list[str] = []
        noise, *lines = seen.split(self.marker)
        for count, line in enumerate(lines, 1):
            text, newline, rest = line.partition(b"\n")
            if not newline:
                break
            words = text.decode("ascii", "replace").split(" ")
            if words[0] == "none":
                self.status["versions"] = old
                return None, "none"
            if tuple(int(part) for part in words[0].split(".")[:2]) >= OLDEST_PYTHON:
                self.report(stage="running", version=words[0], pid=int(words[1]), executable=words[2])
                return self.marker.join([rest, *lines[count:]]), ""
            old.append(words[0])
        self.status["versions"] = old
        return None, "noise" if len(noise) > MOST_NOISE else ""

    def fail(self, cause: str, noise: bytes) -> None:
        """Note a failure."""
        login = bool(noise) or cause == "none" or os.path.exists(os.path.join(self.folder, "master"))
        self.report(stage="failed", cause=cause, login=login, noise=noise[:SHOWN_NOISE])

    def pump(self, data: bytes) -> None:
        """Pass on ssh's output until it ends or nobody takes it any more."""
        splice = getattr(os, "splice", None)
        poll = select.poll()
        poll.register(self.output, select.POLLIN)
        poll.register(1, 0)
        os.set_blocking(1, False)
        room = select.poll()
        room.register(1, select.POLLOUT)
        while True:
            while data:
                if room.poll(1000):
                    data = data[os.write(1, data) :]
                if self.near_is_gone():
                    return
            events = dict(poll.poll(1000))
            if self.near_is_gone() or 1 in events:
                return
            if self.output not in events:
                continue
            if splice is None:
                data = os.read(self.output, 65536)
                if not data:
                    return
                continue
            try:
                # 1 MiB is more than a pipe holds; what is there goes at once, without passing this process.
                if not splice(self.output, 1, 1 << 20, flags=os.SPLICE_F_NONBLOCK):
                    return
            except BlockingIOError:
                room.poll(1000)

    def finish(self, grace: float) -> None:
        """Wait for ssh to end, kill it if it does not, and note how it ended."""
        end = time.monotonic() + grace
        pid, status = os.waitpid(self.child, os.WNOHANG)
        while not pid and time.monotonic() < end:
            time.sleep(0.005)
            pid, status = os.waitpid(self.child, os.WNOHANG)
        if not pid:
            os.kill(self.child, signal.SIGKILL)
            _, status = os.waitpid(self.child, 0)
        code = os.waitstatus_to_exitcode(status)
        if self.status["stage"] == "failed":
            self.report(exit=code)
        else:
            self.report(stage="ended", exit=code)


def drain(end: float) -> None:
    """Read execnet's first line until a point in time, so that it meets an end of file and not a broken pipe."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        data = os.read(0, 65536)
        if not data or b"\n" in data:
            return


def stop(number: int, frame: object) -> None:
    """End the way a failure ends: with ssh killed."""
    raise SystemExit(128 + number)


def main(folder: str) -> int:
    """Run one ssh session; returns the exit code."""
    with open(os.path.join(folder, "settings"), "rb") as file:
        near, seconds, marker, ask, *command = file.read().split(b"\0")[:-1]
    began = time.monotonic()
    launcher = Launcher(folder, int(near), began + float(seconds), marker)
    signal.signal(signal.SIGTERM, stop)
    environment = dict(os.environ)
    if ask:
        # ssh has to share the terminal's session to ask there; it inherits that Ctrl-C and a hang-up are ignored.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    else:
        os.setsid()
        # BatchMode does not reach the ssh that ssh itself starts for a jump host.
        environment["SSH_ASKPASS_REQUIRE"] = "never"
    rest = None
    grace = 0.0
    left = False
    try:
        if launcher.start([os.fsdecode(word) for word in command], environment):
            rest = launcher.find_marker()
        if rest is None:
            grace = GRACE if launcher.status["cause"] in ("exit", "none") else 0.0
            drain(began + DRAINED)
        else:
            grace = GRACE
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)  # or ssh's end would go unnoticed while we hold the pipe that it reads
            launcher.pump(rest)
            left = launcher.near_has_left()
            os.dup2(null, 1)
    except BrokenPipeError:
        left = True  # the same as pump() returning
    finally:
        if launcher.child:
            launcher.finish(grace)
        if left or launcher.near_has_left():
            remove(folder)
        if launcher.near_is_gone() and os.getpgrp() == os.getpid():
            # What ssh may have left running in our session.
            os.killpg(0, signal.SIGKILL)
    return 0 if rest is not None else 255


def remove(folder: str) -> None:
    """Remove the folder, which the near side cannot do any more, or is doing right now."""
    try:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:
        pass
