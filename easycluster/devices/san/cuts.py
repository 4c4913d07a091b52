"""Cuts portals of a target that cannot do it itself: packets are dropped or refused by the system's filter.

The rules are in a table that belongs to one ``nft`` process; the system removes it when that process ends, and it ends
with us, for it reads commands from a pipe of ours (nft(8), ``flags owner``, Linux 5.12).
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from typing import Dict, List, Optional

from easycluster.devices.iscsi.logon import split_portal
from easycluster.errors import EasyClusterError, Unsupported

__all__ = ["CutError", "Cuts"]

LIMIT = 20.0

# What happens to packets to a portal and from it.  A reset in both directions: who only waits is told, too; and resets
# pass, for on one machine they come by here as well.
VERDICTS = {"silent": "drop", "refuse": "tcp flags & rst == 0 reject with tcp reset"}


class CutError(EasyClusterError, OSError):
    """The system's filter did not do what it was asked for; says what it said."""


class Cuts:
    """The portals that are cut.

    Args:
        operation: What needs this, for messages.

    Raises:
        Unsupported: If packets cannot be filtered here.
    """

    def __init__(self, operation: str) -> None:
        program = shutil.which("nft", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin")
        if program is None:
            raise Unsupported(operation, "it takes nft, which is not installed there; Debian has it in nftables")
        if hasattr(os, "geteuid") and os.geteuid() != 0:
            raise Unsupported(operation, "packets are filtered by root only; log in to the host as root")
        self._cut: Dict[str, str] = {}
        self._table = f"easycluster_san_{os.getpid()}_{id(self):x}"
        self._process = subprocess.Popen(
            [program, "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self._program = program
        chains = {"to": "input", "from": "output"}
        try:
            self._tell([f"add table inet {self._table} {{ flags owner; }}"])
            self._tell(
                [
                    f"add chain inet {self._table} {name} {{ type filter hook {hook} priority 0; }}"
                    for name, hook in chains.items()
                ]
            )
            self._wait_for(0, operation)
        except BaseException:
            self.close()
            raise

    def cut(self, portal: str, how: str) -> None:
        """Cut a portal, ``"silent"`` or ``"refuse"``.

        Raises:
            ValueError: If it is to be cut in another way.
        """
        if how not in VERDICTS:
            raise ValueError(f"{how!r} is neither 'silent' nor 'refuse'")
        self._cut[portal] = how
        self._write()

    def mend(self, portal: str) -> None:
        """Let packets through again."""
        if self._cut.pop(portal, None) is not None:
            self._write()

    def _write(self) -> None:
        rules = []
        for portal, how in self._cut.items():
            address, port = split_portal(portal)
            family = "ip6" if ":" in address else "ip"
            rules += [
                f"add rule inet {self._table} to {family} daddr {address} tcp dport {port} {VERDICTS[how]}",
                f"add rule inet {self._table} from {family} saddr {address} tcp sport {port} {VERDICTS[how]}",
            ]
        # One step: no packet passes between the old rules and the new ones.
        self._tell([f"flush table inet {self._table}", *rules])
        self._wait_for(len(rules), "fail_path")

    def _tell(self, commands: List[str]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(("; ".join(commands) + "\n").encode())
        except OSError as exc:
            raise CutError(f"nft has ended{self._said()}") from exc

    def _wait_for(self, rules: int, operation: str) -> None:
        """Wait until the rules are there; of what it has done, nft says nothing."""
        deadline = time.monotonic() + LIMIT
        found: Optional[int] = None
        while found != rules:
            if time.monotonic() > deadline or self._process.poll() is not None:
                said = self._said()
                if found is None:
                    raise Unsupported(operation, f"the system's filter cannot be used{said}")
                raise CutError(f"nft did not do it{said}")
            found = self._count()
            if found != rules:
                time.sleep(0.005)

    def _count(self) -> Optional[int]:
        """How many rules there are, None if there is no table."""
        # Not as JSON: nft 1.0.6 prints a table with flags wrongly.
        done = subprocess.run(
            [self._program, "-n", "list", "table", "inet", self._table],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )
        # Chains come after their table.
        if done.returncode or done.stdout.count(b"type filter hook") < 2:
            return None
        return done.stdout.count(b" tcp dport ") + done.stdout.count(b" tcp sport ")

    def _said(self) -> str:
        """What nft complained of."""
        assert self._process.stdout is not None
        fd, text = self._process.stdout.fileno(), b""
        while select.select([fd], [], [], 0.0)[0]:
            data = os.read(fd, 4096)
            if not data:
                break
            text += data
        return f": {text.decode('utf-8', 'replace').strip()}" if text.strip() else ""

    def close(self) -> None:
        """Mend everything."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
