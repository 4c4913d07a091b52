"""The process a box lives in: ``python -m easycluster.labbox.supervisor FOLDER``.

It is two.  The outer one stays in the namespaces it was started in.  The inner one is the first process of a pid
namespace with mounts and a network of its own, and every host is below it: when it ends, however it ends, the kernel
kills all processes of the box, and mounts and interfaces go with their namespaces.  Each dies with the other, and both
end with the owner, whom they watch through a pidfd: that needs no word from somebody who was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, NoReturn

from easycluster.labbox import kernel, network
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.holding import Held, read_faults
from easycluster.labbox.layout import Folder
from easycluster.labbox.machine import Machine
from easycluster.labbox.serial import Serial

if TYPE_CHECKING:
    from easycluster.labbox.layout import Plan


def main() -> int:
    """Run a box until it is told to end or its owner has ended; the outer process."""
    folder = Folder(sys.argv[1])
    plan = folder.read_plan()
    outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    owner = _watch(plan.owner)
    reader, writer = os.pipe()
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    kernel.unshare(kernel.NEW_PIDS)
    inner = os.fork()
    if inner == 0:
        os.close(reader)
        _be_inner(plan, folder, outside, owner, writer)
    os.close(writer)
    # Nothing can be started in a pid namespace whose first process has ended.
    kernel.enter(own_pids)

    # Ctrl-C in the owner's terminal, or a polite end, is the inner one's to carry out.
    def end(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(inner, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    with os.fdopen(reader) as said:
        first = said.readline()
        sys.stdout.write(first)
        sys.stdout.flush()
        _silence(folder)
    os.waitpid(inner, 0)
    device = json.loads(first or "{}").get("device", "")
    if device:
        network.ip([f"link del {device}"], check=False)
    folder.remove()
    return 0


def _watch(owner: int) -> int:
    """Return a pidfd of the owner, -1 if there is none."""
    if not owner:
        return -1
    try:
        watched = os.pidfd_open(owner)
    except ProcessLookupError:
        sys.exit("the owner is gone")
    if os.getppid() != owner:
        sys.exit("the owner is gone")
    return watched


def _silence(folder: Folder) -> None:
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _be_inner(plan: Plan, folder: Folder, outside: int, owner: int, writer: int) -> NoReturn:
    """Be the first process of the box; never returns."""
    try:
        kernel.die_with_parent()
        kernel.set_name("labbox")
        _silence(folder)
        with os.fdopen(writer, "w") as say:
            try:
                box = Supervisor(plan, folder, outside, owner)
            except (OSError, LabBoxError, ValueError) as exc:
                traceback.print_exc()
                say.write(json.dumps({"error": str(exc)}) + "\n")
                say.flush()
                os._exit(1)
            say.write(json.dumps({"device": box.device}) + "\n")
        box.run()
    except BaseException:  # noqa: BLE001  # this copy of the process must not go on
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


class Supervisor:
    """Starts the hosts and does what it is asked to through the control socket.

    Args:
        plan: Of the box.
        folder: Of the box.
        outside: The network namespace of the box's user.
        owner: Pidfd of the owner, or -1.
    """

    def __init__(self, plan: Plan, folder: Folder, outside: int, owner: int) -> None:
        kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_NETWORK)
        kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
        kernel.mount("proc", "/proc", "proc")
        box = network.lay(outside, plan.network, len(plan.hosts))
        self.device = box.device
        folder.write_machines(plan, box)
        folder.disks.mkdir()
        kernel.mount("tmpfs", folder.disks, "tmpfs", options="size=1m,mode=700")
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._machines = {
            name: Machine(plan, folder, box, number, Serial(folder.console(name), self._selector))
            for number, name in enumerate(plan.hosts)
        }
        self._watch_signals()
        if owner >= 0:
            self._selector.register(owner, selectors.EVENT_READ, self._stop)
        for machine in self._machines.values():
            machine.power_on()
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(folder.control))
        folder.control.chmod(0o600)
        control.listen(64)
        self._selector.register(control, selectors.EVENT_READ, lambda: self._accept(control))

    def _watch_signals(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        self._selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 4096))

    def run(self) -> None:
        """Serve until the end."""
        while not self._ended:
            self._bury()
            self._start_due()
            starts = [machine.start_at for machine in self._machines.values() if machine.start_at is not None]
            wait = max(0.0, min(starts) - time.monotonic()) if starts else None
            for key, _ in self._selector.select(wait):
                key.data()
        # All at once, and first, so that nobody outside hears hosts die one after the other; the rest the kernel does.
        network.ip(["link del uplink"], check=False)

    def _stop(self) -> None:
        self._ended = True

    def _bury(self) -> None:
        keepers = {machine.keeper: machine for machine in self._machines.values() if machine.keeper}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in keepers:
                keepers[pid].ended(status)

    def _start_due(self) -> None:
        now = time.monotonic()
        for machine in self._machines.values():
            if machine.start_at is not None and machine.start_at <= now:
                machine.power_on()

    # Requests ------------------------------------------------------------------------------------

    def _accept(self, control: socket.socket) -> None:
        """Take one request, a line of JSON, and answer it with another."""
        connection, _ = control.accept()
        # Whoever connects is root and ours; the limit is for one that stops in the middle.
        connection.settimeout(5)
        request: dict[str, Any] = {}
        fds: list[int] = []
        given: list[int] = []
        kept = False
        try:
            try:
                request, given = _read_request(connection)
                answer: dict[str, Any] = {"value": self._answer(request, fds)}
                kept = request["do"] in ("fault", "console")
            except Exception as exc:  # noqa: BLE001  # the box goes on; whoever asked is told
                traceback.print_exc()
                sys.stderr.flush()
                answer = {"error": str(exc) or repr(exc)}
            with contextlib.suppress(OSError):
                socket.send_fds(connection, [json.dumps(answer).encode() + b"\n"], fds)
            if kept:
                self._keep(request, connection, given)
        finally:
            for fd in fds if kept else [*fds, *given]:
                os.close(fd)
            if not kept:
                connection.close()

    def _keep(self, request: dict[str, Any], connection: socket.socket, given: list[int]) -> None:
        """Go on with whoever asked for something that lasts as long as he does."""
        if request["do"] == "fault":
            Held(request["layers"], connection, given, self._selector)
            return
        for fd in given:
            os.close(fd)
        self._machines[request["host"]].serial.attach(connection)

    def _answer(self, request: dict[str, Any], fds: list[int]) -> object:
        self._bury()
        what = request["do"]
        if what == "status":
            return {name: machine.status() for name, machine in self._machines.items()}
        if what == "stop":
            self._stop()
            return None
        if what == "fault":
            request["layers"] = read_faults(request["faults"], self._machines)
            return None
        if what == "console":
            # Names a host that there is.
            return self._machines[request["host"]].boots
        machine = self._machines[request["host"]]
        if what == "enter":
            fds.append(machine.pidfd())
            return None
        arguments = {key: value for key, value in request.items() if key not in ("do", "host")}
        return getattr(machine, _REQUESTS[what])(**arguments)


def _read_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A line of JSON, and descriptors that came with it."""
    text, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
    try:
        while not text.endswith(b"\n"):
            more = connection.recv(1 << 16)
            if not more:
                break
            text += more
        return json.loads(text), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


# What may be asked of a host, and which method does it.
_REQUESTS: Final = {
    "on": "power_on",
    "soft": "power_off",
    "reboot": "reboot",
    "cut": "cut",
    "freeze": "freeze",
    "thaw": "thaw",
    "plug": "plug",
    "shape": "shape",
    "boot_seconds": "set_boot_seconds",
}

if __name__ == "__main__":
    sys.exit(main())
