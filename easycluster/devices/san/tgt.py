"""A real ``tgtd``, private to the test: its own control socket, its own ports, no root needed."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Dict, List, Optional, Tuple

from easycluster.devices.iscsi.logon import split_portal
from easycluster.devices.san.cuts import Cuts
from easycluster.devices.san.driver import Lun, Options, adopted, new_file
from easycluster.devices.san.embedded import storage_directory
from easycluster.devices.san.guard import Guarded
from easycluster.errors import EasyClusterError, Unsupported
from easycluster.objects.exports import ServerObject

__all__ = ["TgtDriver", "TgtError", "find_tgtd"]

# tgtd answers its first tgtadm after 20 ms on an idle machine.
START_LIMIT = 20.0
ADMIN_LIMIT = 20.0
# Seconds that a unit is hoped to be idle for a moment.
BUSY_LIMIT = 0.3


class TgtError(EasyClusterError, OSError):
    """tgtd or tgtadm did not do what it was asked for; says what it said."""


def find_tgtd() -> str:
    """Return the path of tgtd, "" if it is not installed."""
    # Debian has it in /usr/sbin, which is not on every path.
    return shutil.which("tgtd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin") or ""


class TgtDriver(ServerObject):
    """A tgtd; units are sparse files, so they outlive a crash.

    Args:
        options: What to set up.

    Raises:
        Unsupported: If tgtd is not installed.
        TgtError: If it does not come up.
    """

    def __init__(self, options: Options) -> None:
        program = find_tgtd()
        if not program:
            raise Unsupported("tgt", "tgtd is not installed; Debian has it in tgt")
        self.iqn = options.iqn
        self._program, self._options = program, options
        self._directory, self._temporary = storage_directory(options.directory)
        # Not in the directory of units: the path of a socket is at most 108 characters long.
        self._control = tempfile.mkdtemp(prefix="ec-tgt-")
        self._luns: Dict[int, Lun] = {}
        self._paths: Dict[int, str] = {}
        self._cuts: Optional[Cuts] = None
        self._hangs = False
        self._process: Optional[Guarded] = None
        try:
            self._luns, self._paths = adopted(options)
            self._portals = [_with_port(portal) for portal in options.portals]
            self._start()
        except BaseException:
            # Files that were there before stay.
            self._paths = {}
            self.close()
            raise

    def _start(self) -> None:
        portals = ",".join(f"portal={portal}" for portal in self._portals)
        log = os.path.join(self._control, "log")
        words = [self._program, "-f", "-C", "0", "--iscsi", portals]
        with open(log, "ab") as said:
            self._process = Guarded(words, said.fileno(), self._environment(), self._own())
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                self._admin("show", "sys")
                break
            except TgtError:
                if not self._process.alive or time.monotonic() > deadline:
                    with open(log, "rb") as said:
                        text = said.read()[-2000:].decode("utf-8", "replace")
                    raise TgtError(f"tgtd did not come up; it said:\n{text}") from None
                time.sleep(0.01)
        self._admin("new", "target", "--tid", "1", "-T", self.iqn)
        for number in sorted(self._luns):
            self._declare(number)
        chap = self._options.chap
        if chap is not None:
            self._account(chap.user, chap.password, outgoing=False)
            if chap.target_user:
                self._account(chap.target_user, chap.target_password, outgoing=True)
        self._admin("bind", "target", "--tid", "1", "-I", "ALL")

    def _account(self, user: str, password: str, outgoing: bool) -> None:
        self._admin("new", "account", "--user", user, "--password", password)
        self._admin("bind", "account", "--tid", "1", "--user", user, *(["--outgoing"] if outgoing else []))

    def _own(self) -> List[str]:
        """Directories that are of no use without us."""
        return [self._control, *([self._directory] if self._temporary else [])]

    def _environment(self) -> Dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": os.path.join(self._control, "s")}

    def _admin(self, operation: str, mode: str, *arguments: str) -> str:
        self._now()
        if self._hangs:
            raise ValueError("tgtd hangs, so it can be told nothing; resume() lets it go on")
        program = os.path.join(os.path.dirname(self._program), "tgtadm")
        words = [program, "-C", "0", "--lld", "iscsi", "--op", operation, "--mode", mode, *arguments]
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                timeout=ADMIN_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise TgtError(f"tgtadm --op {operation} --mode {mode} took longer than {ADMIN_LIMIT:g} s") from exc
        text = done.stdout.decode("utf-8", "replace").strip()
        if done.returncode:
            raise TgtError(f"tgtadm --op {operation} --mode {mode}: {text}")
        return text

    def _declare(self, number: int) -> None:
        lun = self._luns[number]
        what = ["--tid", "1", "--lun", str(number)]
        self._admin("new", "logicalunit", *what, "-b", self._paths[number], "--blocksize", str(lun.block_size))
        params = f"thin_provisioning={int(lun.thin)},vendor_id=TGT"
        self._admin("update", "logicalunit", *what, "--params", params)

    # ------------------------------------------------------------ what there is

    def portals(self) -> List[str]:
        """Addresses."""
        return list(self._portals)

    def luns(self) -> Dict[int, Lun]:
        """Units by number."""
        return dict(self._luns)

    def units(self) -> List[Tuple[Lun, str]]:
        """Units, each with its file."""
        return [(lun, self._paths[number]) for number, lun in self._luns.items()]

    def sessions(self) -> List[str]:
        """Names of initiators, one for each session."""
        return re.findall(r"^\s*Initiator: (\S+)", self._admin("show", "target"), re.MULTILINE)

    # ------------------------------------------------------------ units

    def create_lun(self, size: int, block_size: int, thin: bool) -> Lun:
        """Add a unit."""
        if size <= 0 or size % block_size:
            raise ValueError(f"a size of {size} bytes is not whole blocks of {block_size}")
        path = new_file(self._directory)
        with open(path, "xb") as file:
            file.truncate(size)
        return self._add(Lun(1, size, block_size, thin), path)

    def _add(self, lun: Lun, path: str) -> Lun:
        number = next(number for number in itertools.count(1) if number not in self._luns)
        self._luns[number], self._paths[number] = lun._replace(number=number), path
        try:
            self._declare(number)
        except BaseException:
            del self._luns[number]
            os.unlink(self._paths.pop(number))
            raise
        return self._luns[number]

    def resize_lun(self, lun: int, size: int) -> Lun:
        """Make a unit larger or smaller.  tgtd can only take it away and bring it back: reservations are gone."""
        old = self._known(lun)
        if size <= 0 or size % old.block_size:
            raise ValueError(f"a size of {size} bytes is not whole blocks of {old.block_size}")
        self._take_away(lun)
        os.truncate(self._paths[lun], size)
        self._luns[lun] = old._replace(size=size)
        self._declare(lun)
        return self._luns[lun]

    def _take_away(self, lun: int) -> None:
        """Have tgtd forget a unit.  It does not while commands are in flight, so it is taken offline if they go on."""
        what = ["--tid", "1", "--lun", str(lun)]
        begin = time.monotonic()
        offline = False
        while True:
            try:
                self._admin("delete", "logicalunit", *what)
                return
            except TgtError as exc:
                spent = time.monotonic() - begin
                if "still active" not in str(exc) or spent > ADMIN_LIMIT:
                    if offline:
                        self._admin("update", "logicalunit", *what, "--params", "online=1")
                    raise
                if spent > BUSY_LIMIT and not offline:
                    self._admin("update", "logicalunit", *what, "--params", "online=0")
                    offline = True
                time.sleep(0.005)

    def delete_lun(self, lun: int) -> None:
        """Take a unit away."""
        self._known(lun)
        self._take_away(lun)
        del self._luns[lun]
        os.unlink(self._paths.pop(lun))

    def snapshot(self, lun: int) -> Lun:
        """Add a unit with what another has now: tgtd is stopped while its file is copied."""
        old, process, hangs = self._known(lun), self._now(), self._hangs
        path = new_file(self._directory)
        process.stop()
        try:
            shutil.copyfile(self._paths[lun], path)
        finally:
            if not hangs:
                process.resume()
        return self._add(old, path)

    def _known(self, lun: int) -> Lun:
        if lun not in self._luns:
            raise ValueError(f"there is no logical unit {lun}; there are {sorted(self._luns)}")
        return self._luns[lun]

    # ------------------------------------------------------------ faults

    def fail_path(self, portal: str, how: str) -> None:
        """Make a portal fail.  tgtd cannot, so the packets of its address and port are filtered: as root, with nft."""
        if portal not in self._portals:
            raise ValueError(f"there is no portal {portal!r}; there are {', '.join(self._portals)}")
        if self._cuts is None:
            self._cuts = Cuts("fail_path")
        self._cuts.cut(portal, how)

    def restore_path(self, portal: str) -> None:
        """Make it work again."""
        if self._cuts is not None:
            self._cuts.mend(portal)

    def fail_blocks(self, lun: int, lba: int, count: int, access: str) -> None:
        """Not possible."""
        raise Unsupported("fail_blocks", "tgtd has no errors on demand; the embedded target has")

    def delay(self, lun: int, seconds: float) -> None:
        """Not possible."""
        raise Unsupported("delay", "tgtd has no delays on demand; the embedded target has")

    def hang(self) -> None:
        """Stop the process."""
        self._now().stop()
        self._hangs = True

    def resume(self) -> None:
        """Let it go on."""
        self._now().resume()
        self._hangs = False

    def crash(self) -> None:
        """Kill the process.  SIGTERM would not do: tgtd ignores it while a session is open."""
        process, self._process = self._now(), None
        self._hangs = False
        process.kill()

    def restart(self) -> None:
        """Start it again, with the same addresses and units."""
        if self._process is not None:
            self.crash()
        self._start()

    def _now(self) -> Guarded:
        if self._process is None:
            raise ValueError("tgtd has crashed or is closed; restart() brings it back after a crash")
        return self._process

    def close(self) -> None:
        """End the process and remove what it left."""
        if self._process is not None:
            self.crash()
        if self._cuts is not None:
            self._cuts.close()
            self._cuts = None
        for path in self._paths.values():
            if os.path.exists(path):
                os.unlink(path)
        self._paths.clear()
        self._luns.clear()
        shutil.rmtree(self._control, ignore_errors=True)
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)


def _with_port(portal: str) -> str:
    """Return a portal with a free port in the place of 0."""
    host, _, port = portal.rpartition(":")
    if port != "0":
        return portal
    address = split_portal(portal.replace(":0", ":1"))[0]
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return f"{host}:{probe.getsockname()[1]}"
