"""One host as its supervisor sees it: power, boots, the cable and the processes inside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Literal, NoReturn

from easycluster.labbox import kernel, network, system
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.layers import Layers
from easycluster.labbox.relay import Quality

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.labbox.layers import Layer
    from easycluster.labbox.layout import Folder, Plan
    from easycluster.labbox.network import Range
    from easycluster.labbox.serial import Serial

State = Literal["off", "starting", "on", "ending"]

# Exit status of a keeper whose host did not come up; others are the number of the signal that ended it.
_BROKEN: Final = 64


class Machine:
    """A host, on or off.

    Args:
        plan: Of the box.
        folder: Of the box.
        box: Its addresses.
        number: Which host of the plan it is.
        serial: Its serial line.
    """

    def __init__(self, plan: Plan, folder: Folder, box: Range, number: int, serial: Serial) -> None:
        self._plan = plan
        self._folder = folder
        self._box = box
        self._number = number
        self.name = plan.hosts[number]
        self.state: State = "off"
        self.boots = 0
        self.boot_id = ""
        # What happens when the machine has ended, and when it starts by itself, as a monotonic time.
        self._again = False
        self.start_at: float | None = None
        self.boot_seconds = plan.boot_seconds
        # The process that waits for the first process of the system, and that first process.
        self.keeper = 0
        self._init = 0
        self._frozen = False
        self._plugged = True
        self._quality = Quality()
        self.serial = serial
        # What somebody has broken and holds so, besides the three above.
        self._layers = Layers()
        # The process that carries packets while the cable is a bad one.
        self._relay = 0
        system.prepare_disk(plan, folder, self.name)

    def status(self) -> dict[str, object]:
        """What can be said of it now."""
        return {
            # A reboot is one state: whoever asks in the middle must not think that it is over.
            "state": "starting" if self.start_at is not None else self.state,
            "boots": self.boots,
            "boot_id": self.boot_id,
            "link": "up" if self._plugged and not self._layers.down else "down",
            "quality": asdict(self._layers.quality(self._quality)),
            "room": self._layers.room,
            "frozen": self._frozen,
            "address": self._box.address(self._number),
        }

    # Power ---------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Start the system now, if it is off."""
        if self.state == "off":
            self._boot()

    def power_off(self) -> None:
        """Ask the system to end, as a short press of the button does."""
        self._end(signal.SIGTERM, again=False)

    def reboot(self) -> None:
        """Ask the system to end and to start again."""
        self._end(signal.SIGINT, again=True)

    def cut(self, again: bool = False) -> None:
        """Take the power away: nobody inside or outside is told."""
        self.start_at = None
        self._again = again
        if self.state != "off":
            # The port first: the kernel says goodbye for sockets of killed processes.
            self._unplug()
            self.state = "ending"
            _tell(self._init, signal.SIGKILL)
        elif again:
            self.start_at = time.monotonic() + self.boot_seconds

    def set_boot_seconds(self, seconds: float) -> None:
        """How long the machine is away at the reboots that come."""
        self.boot_seconds = seconds

    def _end(self, how: signal.Signals, again: bool) -> None:
        self.start_at = None
        self._again = again
        if self.state == "on":
            self.thaw()
            self.state = "ending"
            _tell(self._init, how)

    def _boot(self) -> None:
        self.start_at = None
        self._again = False
        self._frozen = False
        self.boot_id = str(uuid.uuid4())
        ours, theirs = socket.socketpair()
        with ours, theirs, self.serial.open() as line:
            self.state = "starting"
            self.keeper = os.fork()
            if self.keeper == 0:
                ours.close()
                _keep(self, theirs, line.fileno())
            theirs.close()
            self._init = int(ours.recv(32) or b"0")
            if self._init:
                network.connect(self._box, self._number, self.keeper)
                self.state = "on"
                self._plug_in()
                ours.sendall(b"go")
        self.boots += 1
        self.state = "on"

    def be(self) -> None:
        """What the first process of the system does, in a child of the keeper."""
        system.run(self._plan, self._folder, self._box, self._number, self.boot_id)

    def ended(self, status: int) -> None:
        """Note that the keeper ended, with this wait status."""
        self._unplug()
        how = os.waitstatus_to_exitcode(status)
        # What reboot(2) said, if the system decided by itself; a machine that crashed stays as it is.
        self._again = how == signal.SIGHUP or (self._again and how != signal.SIGINT)
        self.state = "off"
        self.keeper = self._init = 0
        if self._again:
            self.start_at = time.monotonic() + self.boot_seconds

    def redirect(self) -> None:
        """Let everything this process says go to the file of the host's console."""
        console = os.open(self._folder.console(self.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(console, 1)
        os.dup2(console, 2)

    # Faults that somebody holds --------------------------------------------------------------------

    def hardware(self) -> str:
        """Its MAC address."""
        return self._box.hardware(self._number)

    def break_(self, layer: Layer) -> None:
        """Begin a fault.

        Raises:
            LabBoxError: If it cannot be; nothing has changed then.
        """
        if layer.room is not None:
            system.limit_disk(self._plan, self._folder, self.name, layer.room)
        self._layers.add(layer)
        self._settle(layer)

    def mend(self, layer: Layer) -> None:
        """End a fault; what others still hold stays."""
        self._layers.remove(layer)
        if layer.room is not None:
            system.limit_disk(self._plan, self._folder, self.name, self._layers.room)
        if layer.off and not self._layers.off:
            # It may still be going down.
            self._again = self.state == "ending"
            self.power_on()
        self._settle(layer)

    def _settle(self, layer: Layer) -> None:
        """Make the machine what it is with the faults that there are, in what this one is about."""
        if layer.off and self._layers.off:
            self.cut()
        if layer.frozen and self._layers.frozen:
            self.freeze()
        elif layer.frozen:
            self.thaw()
        if not layer.quality.perfect and self.state in ("on", "ending"):
            self._plug_in()
        elif layer.down:
            self.plug(self._plugged)

    # Processes -----------------------------------------------------------------------------------

    def pidfd(self) -> int:
        """Of the first process, for whoever wants to enter the host.

        Raises:
            LabBoxError: If it is off.
        """
        if not self._init:
            raise LabBoxError("it is off")
        return os.pidfd_open(self._init)

    def freeze(self) -> None:
        """Stop every process; the kernel goes on answering pings and taking connections."""
        self._frozen = self._signal_all(signal.SIGSTOP, "T")

    def thaw(self) -> None:
        """Let them go on."""
        if self._frozen:
            self._signal_all(signal.SIGCONT, "")
            self._frozen = False

    def _signal_all(self, what: signal.Signals, until: str) -> bool:
        """Signal all processes; with ``until`` again until all are in that state, for what was forked meanwhile."""
        if not self._init:
            return False
        end = time.monotonic() + 5
        while True:
            pids = [pid for pid in self._inside() if not until or _state(pid) not in (until, "Z", "X")]
            for pid in pids:
                _tell(pid, what)
            if not until or not pids or time.monotonic() > end:
                return True
            time.sleep(0.001)

    def _inside(self) -> list[int]:
        namespace = _namespace(self._init)
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _namespace(int(entry)) == namespace]

    # The cable -----------------------------------------------------------------------------------

    def plug(self, plugged: bool) -> None:
        """Pull the cable or plug it in."""
        self._plugged = plugged
        if self.state in ("on", "ending"):
            up = plugged and not self._layers.down
            network.ip([f"link set {network.port(self._number)} {'up' if up else 'down'}"], check=False)

    def shape(self, delay: float, loss: float, rate: float, jitter: float) -> None:
        """Make the cable another one; it stays so over a reboot."""
        self._quality = Quality(delay, loss, rate, jitter)
        if self.state in ("on", "ending"):
            self._plug_in()

    def _plug_in(self) -> None:
        self._stop_relay()
        carry = network.plug_in(self._number, self._layers.quality(self._quality))
        if carry is not None:
            self._relay = os.fork()
            if self._relay == 0:
                _carry(self, carry)
        self.plug(self._plugged)

    def _stop_relay(self) -> None:
        if self._relay:
            os.kill(self._relay, signal.SIGKILL)
            os.waitpid(self._relay, 0)
            self._relay = 0

    def _unplug(self) -> None:
        network.ip([f"link del {network.port(self._number)}"], check=False)
        self._stop_relay()


def _carry(machine: Machine, carry: Callable[[], None]) -> NoReturn:
    try:
        machine.redirect()
        _forget_supervisor()
        carry()
    except BaseException:  # noqa: BLE001  # as for a keeper
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _forget_supervisor(*keep: int) -> None:
    """Let go of what a forked copy of the supervisor has of it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    begin = 3
    for fd in sorted(keep):
        os.closerange(begin, fd)
        begin = fd + 1
    os.closerange(begin, 1 << 16)


def _keep(machine: Machine, channel: socket.socket, line: int) -> NoReturn:
    """Make the namespaces of a host, start its first process and wait for it; never returns."""
    status = _BROKEN
    try:
        # Everything that it and its children say goes to the host's serial line.
        os.dup2(line, 1)
        os.dup2(line, 2)
        _forget_supervisor(channel.fileno())
        os.setsid()
        kernel.set_name(f"{machine.name}"[:15])
        kernel.unshare(
            kernel.NEW_PIDS | kernel.NEW_MOUNTS | kernel.NEW_UTS | kernel.NEW_IPC | kernel.NEW_NETWORK | kernel.NEW_TIME
        )
        kernel.start_clocks_anew()
        init = os.fork()
        if init == 0:
            kernel.die_with_parent()
            if channel.recv(2) == b"go":
                channel.close()
                machine.be()
            os._exit(1)
        channel.sendall(str(init).encode())
        channel.close()
        _, wait_status = os.waitpid(init, 0)
        # A signal tells how reboot(2) was called; it is passed on as an exit status.
        status = wait_status & 0x7F or _BROKEN
    except BaseException:  # noqa: BLE001  # whatever it is, this copy of the supervisor must not go on
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _tell(pid: int, what: signal.Signals) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
