"""``easycluster doctor``: is each host of a lab what the lab file says, and if not, what is to be done about it.

Several hosts are looked at at once, each check has a time limit, and so has everything.  Nothing on the hosts is
changed: a session is opened and closed, and what it is asked only looks.
"""

from __future__ import annotations

import importlib.util
import os
import time
import traceback
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import ConnectError, EasyClusterError
from easycluster.far.locks import DIRECTORY
from easycluster.lab.approach import UnfitHost
from easycluster.lab.bounded import within
from easycluster.lab.dial import DEFAULT_CONNECT_TIMEOUT
from easycluster.lab.findings import Diagnosis
from easycluster.lab.lab import Lab
from easycluster.lab.parallel import run_all
from easycluster.lab.reach import look_at_network, look_at_shell
from easycluster.lab.rolecode import define_module
from easycluster.lab.visits import visit, without_host
from easycluster.lab.where import UnlikeTypes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.lab.inventory import HostEntry, Inventory
    from easycluster.lab.visits import Visit

__all__ = ["examine"]

# Seconds for one question to the far side, and for a role's probe.
QUESTION: Final = 10.0
PROBE: Final = 60.0
# A clock off by more breaks what compares times; by far more, certificates and tickets.
CLOCK_WARN, CLOCK_FAIL = 1.0, 300.0
MIB: Final = 1 << 20
# Below, a session can hardly work, and tests get into trouble.
SPACE_FAIL, SPACE_WARN = 16 * MIB, 256 * MIB
MEMORY_WARN: Final = 256 * MIB
FILES_WARN: Final = 256
# A session wants a second one of its connection; many workers of pytest-xdist log in at once.
SESSIONS_WANTED, STARTUPS_WANTED = 2, 10


def examine(
    inventory: Inventory,
    hosts: Sequence[HostEntry],
    *,
    timeout: float = 120.0,
    done: Callable[[Diagnosis], None] = lambda diagnosis: None,
) -> list[Diagnosis]:
    """Look at hosts, several at once.

    Args:
        inventory: The lab.
        hosts: Which of it.
        timeout: Seconds for everything.
        done: Called with each diagnosis when it is complete, from a thread of ours.
    """
    lab = Lab(inventory)
    started = {entry.name: Diagnosis(entry.name) for entry in hosts}

    def one(entry: HostEntry) -> None:
        diagnosis = started[entry.name]
        began = time.monotonic()
        try:
            _Examination(lab, entry, diagnosis).run()
        finally:
            diagnosis.seconds = time.monotonic() - began
        done(diagnosis)

    try:
        finished, errors = run_all({entry.name: partial(one, entry) for entry in hosts}, timeout)
        found = []
        for entry in hosts:
            # A thread that is late may still write to its own.
            late = started[entry.name]
            diagnosis = Diagnosis(entry.name, list(late.findings), late.seconds or timeout, late.skipped)
            if entry.name in errors:
                fix = "look at what it says; if it makes no sense, report it as a fault of EasyCluster"
                exc = errors[entry.name]
                diagnosis.add("session", "fail", f"{type(exc).__name__}: {inventory.mask(str(exc))}", fix)
            elif entry.name not in finished:
                last = diagnosis.findings[-1].check if diagnosis.findings else "the beginning"
                text = f"not finished within {timeout:g} s for all hosts; hung after {last}"
                diagnosis.add("time", "fail", text, "look at this host alone, and with a longer --timeout")
            found.append(diagnosis)
        return found
    finally:
        lab.close(0.5)


class _Examination:
    """One host."""

    def __init__(self, lab: Lab, entry: HostEntry, diagnosis: Diagnosis) -> None:
        self.lab = lab
        self.inventory = lab.inventory
        self.entry = entry
        self.diagnosis = diagnosis
        self.directory = os.environ.get("EC_LOCK_DIRECTORY", "")
        self.timeout = entry.timeouts.get("connect", DEFAULT_CONNECT_TIMEOUT)

    def add(self, check: str, verdict: Any, text: str, fix: str = "") -> None:
        self.diagnosis.add(check, verdict, self.inventory.mask(text), self.inventory.mask(fix))

    def run(self) -> None:
        entry = self.entry
        if not entry.enabled:
            self.diagnosis.skipped = True
            why = f": {entry.reason}" if entry.reason else ""
            self.add("lab file", "note", f"disabled{why}; it was not looked at")
            return
        through = entry.settings.get("runs_on")
        target = self.inventory.hosts[through].target if through else entry.target
        if through:
            self.add("lab file", "note", f"its code runs on {through}; what follows is about that host")
        reached = target.via == "local" or look_at_network(target, self.diagnosis, self.timeout)
        if reached and target.via == "ssh":
            reached = look_at_shell(target, self.diagnosis, self.timeout)
        if reached:
            self._session()
        self._power(reached)

    # The session ------------------------------------------------------------------------------------

    def _session(self) -> None:
        roles = [self.inventory.roles[name] for name in self.entry.roles]
        try:
            self._visit([define_module(role.name, role.code) for role in roles if role.code])
            return
        except EasyClusterError as exc:
            message, details = (exc.message, exc.details) if isinstance(exc, ConnectError) else (str(exc), "")
            text, _, fix = without_host(self.entry.name, message).partition("; ")
            said = f" ({details.strip().splitlines()[-1]})" if details.strip() else ""
            self.add("session", "fail", text + said, fix or "look at what it says, and at the log of the host's server")
            return
        except Exception as exc:  # noqa: BLE001  # the role's code may raise anything
            self._role_code(exc)
        # The rest can be said without it.
        self._visit([], broken=True)

    def _role_code(self, exc: Exception) -> None:
        """Say which line of which role does not load."""
        blocks = {str(block.path): block for name in self.entry.roles for block in self.inventory.roles[name].code}
        lines = [one for one in traceback.extract_tb(exc.__traceback__) if one.filename.partition(":")[2] in blocks]
        if lines:
            block = blocks[lines[-1].filename.partition(":")[2]]
            where = f"{block.shown}:{lines[-1].lineno}"
        else:
            where = " and ".join(dict.fromkeys(block.shown for block in blocks.values()))
        fix = f"correct {where}: it has to load with the Python of the host and what is installed there"
        words = f"{type(exc).__name__}: {exc}".splitlines()[0]
        self.add("role code", "fail", f"does not load there: {words}", fix)

    def _visit(self, codes: list[str], *, broken: bool = False) -> None:
        modules = [*codes, _vitals_module()]
        began = time.monotonic()
        with visit(
            self.inventory.hosts, self.entry, definitions=modules, directory=self.directory, timeout=self.timeout
        ) as session:
            took = time.monotonic() - began
            version = ".".join(map(str, session.client.eval("__import__('sys').version_info[:3]", timeout=QUESTION)))
            self.add("session", "ok", f"Python {version} in {took:.2f} s")
            if codes:
                self.add("role code", "ok", f"loads: {' '.join(self.entry.roles)}")
            self._clock(session)
            found = session.client.raw_call(
                "easycluster_vitals.vitals", (self.directory or DIRECTORY,), timeout=QUESTION * 2
            )
            self._temp(found["temp"])
            self._limits(found)
            self._sshd(found["sshd"])
            self._locks(found["locks"], session)
            if not broken:
                self._capabilities(session)
            self._notes(found)

    def _clock(self, session: Visit) -> None:
        best = (0.0, 1e9)
        for _ in range(3):
            before = time.time()
            there = float(session.client.eval("__import__('time').time()", timeout=QUESTION))
            after = time.time()
            best = min(best, (there - (before + after) / 2, after - before), key=lambda one: one[1])
        ahead, unsure = best
        way = "ahead of" if ahead > 0 else "behind"
        text = f"{abs(ahead):.3f} s {way} this machine's, give or take {unsure / 2 * 1000:.1f} ms"
        fix = "let both machines follow a time server: timedatectl set-ntp true, or chronyd"
        if abs(ahead) > CLOCK_WARN:
            self.add("clock", "fail" if abs(ahead) > CLOCK_FAIL else "warn", text, fix)
        else:
            self.add("clock", "ok", text)

    def _temp(self, temp: dict[str, Any]) -> None:
        path, free = temp["path"], temp["free"]
        if not temp["writable"] or temp.get("readonly"):
            reason = "its file system is read-only" if temp.get("readonly") else "it may not be written to"
            if free == 0:
                reason = "its disk is full"
            self.add(
                "temp", "fail", f"{path}: {reason}", f"make room in {path} or let the user write there (chmod 1777)"
            )
            return
        if free is None:
            self.add("temp", "warn", f"{path}: {temp.get('error')}", "look at its file system")
            return
        text = f"{path}: {_size(free)} free"
        if temp["inodes"] is not None and temp["inodes"] < 100:
            self.add("temp", "fail", f"{text}, but only {temp['inodes']} more files", f"remove files from {path}")
        elif free < SPACE_WARN:
            self.add("temp", "fail" if free < SPACE_FAIL else "warn", text, f"make room in {path}")
        elif temp["noexec"]:
            fix = f"mount it without noexec, or set TMPDIR, if tests build programs in {path}"
            self.add("temp", "warn", f"{text}; programs in it cannot be run (noexec)", fix)
        else:
            self.add("temp", "ok", text)

    def _limits(self, found: dict[str, Any]) -> None:
        limits, memory = found["limits"], found["memory"]
        texts = [f"{limits['files']} open files"] if limits.get("files") else []
        texts += [f"{limits['processes']} processes"] if limits.get("processes") else []
        texts += [f"{_size(memory)} of memory"] if memory is not None else []
        text = ", ".join(texts) or "none"
        if limits.get("files") and limits["files"] < FILES_WARN:
            fix = "raise nofile in /etc/security/limits.conf, or LimitNOFILE of sshd's unit"
            self.add("limits", "warn", text, fix)
        elif memory is not None and memory < MEMORY_WARN:
            self.add("limits", "warn", text, "end what uses the memory there, or raise MemoryMax of the user's slice")
        elif limits.get("address_space"):
            fix = "take 'as' out of /etc/security/limits.conf: drivers map more than they use"
            self.add("limits", "warn", f"{text}, {_size(limits['address_space'])} of addresses", fix)
        else:
            self.add("limits", "ok", text)

    def _sshd(self, sshd: dict[str, Any]) -> None:
        if not sshd or self.entry.target.via != "ssh":
            return
        if "error" in sshd:
            self.add("sshd", "note", f"{sshd['config']} {sshd['error']}")
            return
        sessions, startups = sshd.get("maxsessions", "10"), sshd.get("maxstartups", "10:30:100")
        text = f"MaxSessions {sessions}, MaxStartups {startups}"
        if sessions.isdigit() and int(sessions) < SESSIONS_WANTED:
            fix = (
                f"set MaxSessions {SESSIONS_WANTED} or more in {sshd['config']}: data has to share the control link now"
            )
            self.add("sshd", "warn", text, fix)
        elif startups.partition(":")[0].isdigit() and int(startups.partition(":")[0]) < STARTUPS_WANTED:
            fix = f"set MaxStartups 100 in {sshd['config']}: workers that log in at the same moment are turned away"
            self.add("sshd", "warn", text, fix)
        else:
            self.add("sshd", "ok", text)

    def _locks(self, locks: dict[str, Any], session: Visit) -> None:
        path = locks["path"]
        if locks["trouble"]:
            fix = locks.get("fix") or f"mkdir -m 1777 {path}, as root; or set EC_LOCK_DIRECTORY, for everybody alike"
            self.add("locks", "fail", f"{path}: {locks['trouble']}", fix)
            return
        if locks["network"]:
            fix = "set EC_LOCK_DIRECTORY to a folder on a disk of the host's own, for everybody alike"
            self.add("locks", "warn", f"{path} lies on a network disk ({locks['kind']})", fix)
            return
        if locks["free"] is not None and locks["free"] < MIB:
            self.add("locks", "fail", f"{path}: its disk is full", f"make room on the disk of {path}")
            return
        try:
            holders = [one for one in session.occupancy.holders() if one.name == session.occupancy.lock]
        except EasyClusterError as exc:
            text, _, fix = str(exc).removeprefix(f"{self.entry.name}: ").partition("; ")
            self.add("locks", "fail", text, fix or f"see who uses it: fuser -v {path}/*")
            return
        state = "" if locks["exists"] else " (made when it is needed)"
        self.add("locks", "ok", path + state)
        waiting = sum(one.mode == "waiting" for one in holders)
        users = [str(one) for one in holders if one.mode != "waiting"]
        line = f"; {waiting} wait" if waiting else ""
        if any(one.mode == "dirty" for one in holders):
            fix = f"set it back by hand, then: easycluster release {self.entry.name} --force"
            self.add("holder", "warn", "; ".join(users) + line, fix)
        elif users:
            self.add("holder", "note", "; ".join(users) + line)
        else:
            self.add("holder", "ok", "nobody has it")

    def _capabilities(self, session: Visit) -> None:
        roles = [self.inventory.roles[name] for name in self.entry.roles]
        probes = [role.probe for role in roles if role.probe]
        if not probes:
            if self.entry.capabilities:
                self.add("capabilities", "note", "only the lab file says what it can do; no role has a probe")
            return
        text = f"{', '.join(probes)}: "
        fix = "correct the capabilities in the lab file, the host, or the role's probe"
        try:
            within(PROBE + QUESTION, partial(self.lab._approach.probe, self.entry.name, session.client))
        except UnfitHost as exc:
            self.add("capabilities", "fail", str(exc).removeprefix(f"{self.entry.name}: "), fix)
            return
        except UnlikeTypes as exc:
            self.add("capabilities", "fail", str(exc), fix)
            return
        except Exception as exc:  # noqa: BLE001  # what a probe raises
            words = str(exc).splitlines() or [""]
            self.add("capabilities", "fail", f"{text}{type(exc).__name__}: {words[0]}", fix)
            return
        real = self.lab.inventory.hosts[self.entry.name].capabilities
        unlike = {
            name: f"{name} is {real[name]!r}, the file says {said!r}"
            for name, said in self.entry.capabilities.items()
            if name in real and real[name] != said
        }
        if unlike:
            self.add("capabilities", "warn", text + "; ".join(unlike.values()), "correct the lab file, or the host")
            return
        shown = ", ".join(f"{name} {value}" for name, value in real.items())
        rules = sum(len(role.requires) for role in roles)
        self.add("capabilities", "ok", f"{text}{shown or 'nothing'}" + (f"; {rules} requirements met" if rules else ""))

    def _notes(self, found: dict[str, Any]) -> None:
        texts = [found["system"], f"user {found['user'][0]}"]
        texts += [f"cgroup {found['cgroup']}"] if found["cgroup"] else []
        if found["subreaper"] is False:
            texts.append("no subreaper: daemons that tests start may outlive them")
        self.add("system", "note", ", ".join(texts))

    # Power ------------------------------------------------------------------------------------------

    def _power(self, reached: bool) -> None:
        settings = self.entry.settings.get("power")
        if not settings or importlib.util.find_spec("easycluster.lab.power") is None:
            return
        from easycluster.errors import Unsupported
        from easycluster.lab.power import driver_for

        fix = "run the command by hand; correct 'power:' in the lab file, or its password"
        try:
            driver = driver_for(self.lab, self.lab._every[self.entry.name])
            state = within(float(settings.get("timeout", QUESTION * 2)) + QUESTION, driver.status)
        except Unsupported:
            self.add("power", "note", "the lab file has no command for its state ('status:' in 'power:')")
        except TimeoutError:
            self.add("power", "fail", "its power switch does not answer", fix)
        except Exception as exc:  # noqa: BLE001  # drivers are anybody's
            self.add("power", "fail", str(exc).removeprefix(f"{self.entry.name}: "), fix)
        else:
            if state == "on" or reached:
                self.add("power", "ok", f"is {state}")
            else:
                self.add("power", "warn", f"is {state}", "switch it on: its power is what is missing")


@lru_cache(maxsize=1)
def _vitals_module() -> str:
    """Name of the definitions module with :mod:`easycluster.lab.vitals`, which hosts get as text."""
    from easycluster.definitions import definitions_module

    name = "easycluster_vitals"
    path = Path(__file__).with_name("vitals.py")
    definitions_module(name).define(path.read_text(encoding="utf-8"), local=False, filename=str(path))
    return name


def _size(count: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
