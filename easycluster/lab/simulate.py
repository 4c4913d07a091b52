"""A lab on one machine: the hosts of an inventory as sessions here, with fakes for what this machine lacks.

Every host is a session of its own, started when it is first used.  Its role's code is the real one, with the fakes of
``simulate:`` laid over it in the same module, so that real code that calls a function with a fake calls the fake.
Nothing else of the inventory is reached: no ssh, no server, no power switch, no console.

What a host is besides its sessions stands in a folder that all processes of one run share::

    FOLDER/locks/           who has which host: of this run only
    FOLDER/gpu01/boot       the boot id, empty while it is switched off
    FOLDER/gpu01/machine.json, disk/

A reboot is another boot id and the end of every process of the host, which are known by their environment (Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from easycluster.devices.simulated import MACHINE_MODULE
from easycluster.errors import ConnectError, EasyClusterError, Unsupported
from easycluster.lab.dial import DEFAULT_CONNECT_TIMEOUT, dial
from easycluster.lab.fakes import Fakes, faked_names, imported_modules, without
from easycluster.lab.rolecode import CodeBlock
from easycluster.lab.runfolder import run_folder
from easycluster.lab.target import SIMULATED, Target
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from easycluster.lab.dial import Client, TakeOutput
    from easycluster.lab.inventory import HostEntry, Inventory, Role

__all__ = ["SimulatedPower", "Simulation"]

# A laptop that starts many sessions at once takes its time.
CONNECT_TIMEOUT: Final = 60.0
# Seconds for sessions to end by themselves.
LET_GO: Final = 5.0
MOST_NAMED: Final = 4
ADDRESS: Final = "127.0.0.1"
MODULE: Final = "easycluster_simulated"

# An expression, so that the module it stands in gets no names of its own.
_BEGIN: Final = (
    "__import__('os').environ.get('EASYCLUSTER_SIMULATED') and "
    "__import__('easycluster.devices.simulated', fromlist=['begin']).begin({modules!r})\n"
)

_SEES_PROCESSES: Final = os.path.exists("/proc/self/environ")

_lock = threading.Lock()
_defined: list[str] = []


class Simulation:
    """The hosts of an inventory on this machine.

    Args:
        real: The inventory.
        folder: Of another process of the same run; without one it is made, and goes with :meth:`close`.

    Attributes:
        inventory: The same lab, of simulated hosts.
        folder: See the module.
    """

    def __init__(self, real: Inventory, folder: str | os.PathLike[str] = "") -> None:
        self._is_ours = not folder
        self.folder = Path(folder or run_folder("simulated"))
        self._real_roles = real.roles
        self._fakes: dict[str, Fakes] = dict(real.simulate)
        # Fakes ask it who they are.  On this side it is only there to be imported, for classes that tests name.
        here = ModuleType(MACHINE_MODULE)
        here.__dict__["machine"] = SimpleNamespace()
        sys.modules.setdefault(MACHINE_MODULE, here)
        roles = {name: self._role(role) for name, role in real.roles.items()}
        hosts = {name: self._host(entry) for name, entry in real.hosts.items()}
        # Whatever shows the lab's name says it.
        self.inventory = replace(real, name=f"{real.name} (simulated)", roles=roles, hosts=hosts)
        try:
            for entry in hosts.values():
                self._prepare(entry)
        except BaseException:
            self.close()
            raise

    @property
    def locks(self) -> str:
        """The lock directory of its hosts."""
        return str(self.folder / "locks")

    def close(self) -> None:
        """End what is left of the hosts and remove the folder, if it is ours."""
        if not self._is_ours or not self.folder.is_dir():
            return
        end = time.monotonic() + LET_GO
        # Sessions that were closed may still be undoing something.
        while _processes(self.folder) and time.monotonic() < end:
            time.sleep(0.05)
        _kill(_processes(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def describe(self) -> str:
        """One line for people: what is fake, and what is not."""
        parts = []
        for name, role in self._real_roles.items():
            if any(name in host.roles for host in self.inventory.hosts.values()):
                parts.append(f"{name} {_named(self._fakes.get(name, Fakes()), role)}")
        return f"its hosts are sessions on this machine; {'; '.join(parts)}" if parts else "sessions on this machine"

    # The inventory ---------------------------------------------------------------------------------

    def _role(self, role: Role) -> Role:
        """The role with its fakes laid over its code."""
        fakes = self._fakes.get(role.name, Fakes())
        # A fake may stand in for a line that does not work here: a library that is loaded, a decorator.
        given = faked_names(fakes.blocks)
        real = [without(block, given) for block in role.code]
        known = set(sys.stdlib_module_names) | {"easycluster", "easycluster_machine"}
        missing = sorted(set(imported_modules([*real, *fakes.blocks])) - known)
        begin = CodeBlock(_BEGIN.format(modules=tuple(missing)), Path("<simulated>"), "<simulated>")
        # What it finds out is of this machine, unless it is a fake, too; the lab file says what the host can do.
        probe = role.probe if role.probe in _names(fakes.blocks) else ""
        return replace(role, code=(begin, *real, *fakes.blocks), probe=probe)

    def _host(self, entry: HostEntry) -> HostEntry:
        capabilities = dict(entry.capabilities)
        for role in entry.roles:
            capabilities.update(self._fakes.get(role, Fakes()).capabilities or {})
        settings: dict[str, Any] = {**entry.settings, "gpu": {"backend": "cpu", "emulated": True}}
        if "san" in settings:
            settings["san"] = self._san(entry.name, settings["san"])
        # What lies there is this machine's.
        settings.pop("artifacts", None)
        connect = max(CONNECT_TIMEOUT, entry.timeouts.get("connect", DEFAULT_CONNECT_TIMEOUT))
        return replace(
            entry,
            target=Target(SIMULATED, ADDRESS, stands_for=f"{entry.name} ({entry.target})"),
            capabilities=capabilities,
            variables={key: _without_secrets(value) for key, value in entry.variables.items()},
            timeouts={**entry.timeouts, "connect": connect},
            settings=settings,
        )

    def _san(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A target of our own in the place of whatever there is."""
        found = {key: value for key, value in settings.items() if key not in ("portals", "directory")}
        if found.get("driver") == "external":
            # They are numbers of units of somebody else.
            found["luns"] = tuple("8M" for _ in settings.get("luns", ()))
        found.update(driver="embedded", portals=(f"{ADDRESS}:0", f"{ADDRESS}:0"))
        if "directory" in settings:
            found["directory"] = str(self.folder / name / "disk")
        return found

    # The hosts -------------------------------------------------------------------------------------

    def _prepare(self, entry: HostEntry) -> None:
        folder = self.folder / entry.name
        if folder.is_dir():
            return
        made = self.folder / f"{entry.name}.{os.getpid()}"
        (made / "disk").mkdir(parents=True)
        facts = {
            "name": entry.name,
            "address": ADDRESS,
            "port": None,
            "user": None,
            "vars": dict(entry.variables),
            "capabilities": dict(entry.capabilities),
            "tags": list(entry.tags),
        }
        (made / "machine.json").write_text(json.dumps(facts, default=str))
        (made / "boot").write_text(str(uuid.uuid4()))
        try:
            made.rename(folder)
        except OSError:
            # Another process of this run was quicker.
            shutil.rmtree(made, ignore_errors=True)

    def boot_of(self, name: str) -> str:
        """The boot id that a host has now, ``""`` while it is off."""
        return (self.folder / name / "boot").read_text()

    def dial(self, entry: HostEntry, definitions: Sequence[str], take_output: TakeOutput) -> Client:
        """Start a session of a host; see :class:`easycluster.lab.dial.Dialer`.

        Raises:
            ConnectError: If it is switched off.
        """
        folder, boot = self.folder / entry.name, self.boot_of(entry.name)
        if not boot:
            raise ConnectError(f"{entry.name}: does not answer: it is simulated, and switched off", host=entry.name)
        words = ["env", f"EASYCLUSTER_SIMULATED={folder}", f"EASYCLUSTER_BOOT_ID={boot}", sys.executable]
        here = replace(entry, target=replace(entry.target, python=(shlex.join(words),)))
        try:
            return dial(here, [*definitions, _module()], take_output)
        except EasyClusterError:
            raise
        except Exception as exc:
            hint = (
                f"{entry.name} is simulated: if its role's code does not work on this machine, give what fails a fake"
            )
            # As add_note() of Python 3.11 has it.
            exc.__notes__ = [*getattr(exc, "__notes__", ()), hint]  # type: ignore[attr-defined]  # before 3.11
            raise

    def power_of(self, name: str) -> SimulatedPower:
        """The power switch of a host."""
        return SimulatedPower(self, name)

    def restart(self, name: str) -> None:
        """Let a host boot: its sessions end at once."""
        self._become(name, str(uuid.uuid4()))

    def switch_off(self, name: str) -> None:
        """Take the power of a host away."""
        self._become(name, "")

    def _become(self, name: str, boot: str) -> None:
        if not _SEES_PROCESSES:
            raise Unsupported("a simulated boot", "it needs Linux, where processes can be known by their environment")
        folder, before = self.folder / name, self.boot_of(name)
        fresh = folder / f"boot.{os.getpid()}"
        fresh.write_text(boot)
        fresh.replace(folder / "boot")
        if before:
            _kill(_processes(folder, before))


class SimulatedPower:
    """The power switch of a simulated host; see :class:`easycluster.lab.power.PowerDriver`.

    Args:
        simulation: Whose host it is.
        name: The host's name.
    """

    def __init__(self, simulation: Simulation, name: str) -> None:
        self._simulation = simulation
        self._name = name

    def on(self) -> None:
        """See PowerDriver."""
        if self.status() == "off":
            self._simulation.restart(self._name)

    def off(self) -> None:
        """See PowerDriver."""
        self._simulation.switch_off(self._name)

    def cycle(self) -> None:
        """See PowerDriver."""
        self._simulation.restart(self._name)

    def status(self) -> str:
        """See PowerDriver."""
        return "on" if self._simulation.boot_of(self._name) else "off"


def _module() -> str:
    """Name of a definitions module for hosts whose roles have no code."""
    from easycluster.definitions import definitions_module

    with _lock:
        if not _defined:
            _defined.append(MODULE)
            source = _BEGIN.format(modules=())
            definitions_module(MODULE).define(source, local="lazy", filename="<simulated>", first_line=1)
    return MODULE


def _named(fakes: Fakes, role: Role) -> str:
    """What is fake of a role, in few words."""
    if not fakes.blocks:
        return "without fakes"
    given = set(_names(fakes.blocks))
    names = [name for name in _names(role.code) if name in given and not name.startswith("_")]
    shown = ", ".join([*names[:MOST_NAMED], *(["..."] if len(names) > MOST_NAMED else [])])
    return f"with {len(names)} fake{'s' * (len(names) != 1)}{f' ({shown})' if shown else ''}"


def _names(blocks: Sequence[CodeBlock]) -> list[str]:
    from easycluster.lab.rolecode import names_of

    return sorted(names_of(tuple(blocks)))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Secret):
        return "simulated"
    if isinstance(value, dict):
        return {key: _without_secrets(one) for key, one in value.items()}
    return [_without_secrets(one) for one in value] if isinstance(value, (list, tuple)) else value


def _processes(folder: Path, boot: str = "") -> list[int]:
    """The processes of a host, or below a folder of hosts; if a boot is given, those of that boot.

    Its sessions have a tree of processes each, and a keeper that waits for a reboot outlives its parent.
    """
    wanted = f"\0EASYCLUSTER_SIMULATED={folder}{os.sep if not boot else chr(0)}".encode()
    booted = f"\0EASYCLUSTER_BOOT_ID={boot}".encode()
    found = []
    for name in os.listdir("/proc") if _SEES_PROCESSES else ():
        if name.isdecimal():
            with contextlib.suppress(OSError):
                environ = b"\0" + Path("/proc", name, "environ").read_bytes()
                if wanted in environ and booted in environ:
                    found.append(int(name))
    return found


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
