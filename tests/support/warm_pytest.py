"""Inner pytest runs, forked from a process that has imported pytest and the product.

A run in an interpreter of its own spends half of its time importing what the run before has imported too.  Here one
process imports it once and is forked for each run, one after the other.  A fork is as fresh as an interpreter that was
started: it has its own environment, folder, arguments, ``sys.path`` and standard files, and nothing of the run around
it was ever imported there.  The plugin is not imported beforehand: that is for pytest, which rewrites its asserts.
"""

from __future__ import annotations

import array
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

__all__ = ["WarmPytest", "warm_pytest"]

# As pytester says it.
COMMAND = [sys.executable, "-mpytest"]


class WarmPytest:
    """The process that is forked; ``popen`` is for one run at a time.

    Args:
        root: Folder of the packages that are tested.
    """

    def __init__(self, root):
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # What it means to a run is for each run to say.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with far:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(far.fileno()), root],
                stdin=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                env=environment,
            )
        assert self._socket.recv(10) == b"ready"
        self._run = None

    def popen(
        self, command, *, stdout, stderr, cwd=None, env=None, start_new_session=False, stdin=None, close_fds=True
    ):
        """Start a run, as ``subprocess.Popen`` and pytester do; it has no input, whatever ``stdin`` is."""
        assert close_fds, "pytester of pytest 8 says so"
        words = [os.fspath(word) for word in command]
        assert words[:2] == COMMAND, "it runs nothing else"
        self.end_run()
        if env is None:
            path = os.environ.get("PYTHONPATH", "")
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), path]))}
        request = {"argv": words[2:], "env": env, "cwd": str(cwd or os.getcwd()), "session": start_new_session}
        with tempfile.TemporaryFile("w") as text:
            json.dump(request, text)
            text.flush()
            fds = array.array("i", [text.fileno(), stdout.fileno(), stderr.fileno()])
            self._socket.sendmsg([b"run"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self._run = WarmRun(self._socket)
        return self._run

    def end_run(self):
        """Kill the run if a test has left it."""
        if self._run is not None:
            self._run.kill()
            self._run.wait()

    def close(self):
        """End the process."""
        self.end_run()
        self._socket.close()
        self._process.wait()


class WarmRun:
    """A run; used like ``subprocess.Popen``.

    Attributes:
        pid: Its process.
        stdin: None.
        returncode: What ``Popen`` would have, None while it runs.
    """

    stdin = None

    def __init__(self, sock):
        self._socket = sock
        self.returncode = None
        self.pid = int(self._receive(None))

    def _receive(self, timeout):
        self._socket.settimeout(timeout)
        data = self._socket.recv(100)
        assert data, "the process that is forked has ended"
        return data

    def poll(self):
        """Return the exit code, None while it runs."""
        try:
            return self.wait(1e-4)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        """Wait for the end and return the exit code."""
        if self.returncode is None:
            try:
                status = int(self._receive(timeout))
            except TimeoutError:
                raise subprocess.TimeoutExpired(COMMAND, timeout) from None
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Kill it unless it has ended."""
        self.send_signal(signal.SIGKILL)


@pytest.fixture(scope="session")
def warm_pytest():
    """The process that inner runs are forked from; None where they are started as usual."""
    if not sys.platform.startswith("linux"):
        yield None
        return
    import pytest_easycluster

    warm = WarmPytest(os.path.dirname(os.path.dirname(pytest_easycluster.__file__)))
    yield warm
    warm.close()


# ------------------------------------------------------------ the process that is forked


def import_much(root):
    """Import what every run imports."""
    sys.path[0] = root
    import execnet.multi  # noqa: F401
    import yaml  # noqa: F401
    from _pytest.config import default_plugins

    import easycluster.far.fdpass
    import easycluster.lab
    import easycluster.link.streams
    import easycluster.server
    import easycluster.transport.carriers
    from easycluster.transport.bundle import bundle_source

    for name in default_plugins:
        __import__(f"_pytest.{name}")
    for name in easycluster.__all__:
        getattr(easycluster, name)
    # What goes to far sides is made once in each process.
    bundle_source(with_code=True)
    del sys.path[0]


def serve(control):
    """Fork for each request; returns in forked processes only, with the request."""
    control.send(b"ready")
    while True:
        data, ancillary, _, _ = control.recvmsg(10, socket.CMSG_SPACE(3 * 4))
        if not data:
            sys.exit()
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        pid = os.fork()
        if pid == 0:
            control.close()
            return fds
        for fd in fds:
            os.close(fd)
        control.send(str(pid).encode())
        control.send(str(os.waitpid(pid, 0)[1]).encode())


def become(request, stdout, stderr):
    """Be what ``python -m pytest`` is when it begins."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    with open(request) as file:
        file.seek(0)
        wanted = json.load(file)
    os.close(stdout)
    os.close(stderr)
    if wanted["session"]:
        os.setsid()
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.path[:0] = [wanted["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[1:] = wanted["argv"]


if __name__ == "__main__":
    import_much(sys.argv[2])
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)
