"""A box as its owner sees it: :class:`LabBox` and its hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from easycluster.lab.ranges import RangeError, expand
from easycluster.labbox.control import ask
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.hosts import START_TIMEOUT, hosts_of
from easycluster.labbox.layout import Folder, Plan, temporary_folder
from easycluster.labbox.needs import missing
from easycluster.labbox.network import MAX_HOSTS
from easycluster.labbox.running import RunningBox

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

__all__ = ["LabBox"]


class LabBox(RunningBox):
    """Several hosts on this machine, each with a network, a disk, processes, an sshd and a boot id of its own.

    Entering starts them and waits until each answers ssh; leaving ends them, and nothing of them is left, also if this
    process is killed.

    Args:
        hosts: Their names; ranges such as ``gpu[01:04]`` are expanded.
        folder: Where inventory, keys and logs go; it must be empty.  By default a folder for temporary files that goes
            with the box.
        users: Accounts to make on the hosts, besides root's; the same key opens all.
        network: A /24 in CIDR notation; by default one that this machine has no route to.
        disk: Most bytes on each host's disk, which lies in memory.
        boot_seconds: How long a host is away at a reboot, besides what its system takes.
        share: Folders of this machine that hosts see, read-only, although they lie in /root, /home or /tmp; the
            running Python is always shared.

    Raises:
        LabBoxError: If the box cannot be made: on entering.
    """

    def __init__(
        self,
        hosts: Iterable[str] = ("gpu[01:02]", "san1", "bench"),
        *,
        folder: str | Path | None = None,
        users: Sequence[str] = (),
        network: str = "",
        disk: int = 256 << 20,
        boot_seconds: float = 0.1,
        share: Sequence[str | Path] = (),
    ) -> None:
        self._names = _expand(hosts)
        self._options = {"users": tuple(users), "network": network, "disk": disk, "boot_seconds": boot_seconds}
        self._share = share
        self._wanted = folder
        self._process: subprocess.Popen[str] | None = None
        super().__init__(None)

    def __enter__(self) -> LabBox:  # noqa: PYI034  # typing.Self needs 3.11
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, where: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def start(self, detached: bool = False) -> None:
        """Start all hosts and wait until they answer.

        Args:
            detached: Let the box outlive this process.
        """
        lacking = missing()
        if lacking:
            raise LabBoxError(lacking)
        self._folder = temporary_folder() if self._wanted is None else Folder(self._wanted)
        self._folder.check()
        taken = self._folder.lock()
        plan = Plan(
            hosts=tuple(self._names),
            share=tuple(_shared(self._share)),
            owner=0 if detached else os.getpid(),
            **self._options,  # type: ignore[arg-type]  # each has its type above
        )
        try:
            self._folder.write_plan(plan)
            try:
                self._launch(self._folder, taken)
            finally:
                os.close(taken)
            self.hosts = hosts_of(self._folder)
            for host in self:
                host.wait_for_ssh()
        except BaseException:
            self.close()
            self._folder.remove()
            raise

    def _launch(self, folder: Folder, taken: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "easycluster.labbox.supervisor", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[taken],
            env={**os.environ, "PYTHONPATH": _import_path()},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        first = self._process.stdout.readline()
        said = json.loads(first or "{}")
        if "device" not in said:
            complaint = said.get("error") or self._process.stderr.read().strip().rpartition("\n")[2]
            raise LabBoxError(f"the box did not start: {complaint or 'it ended without a word'}")

    def close(self) -> None:
        """End all hosts and wait until nothing is left of them; more than once does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            ask(self._files(), "stop")
        except LabBoxError:
            process.terminate()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        try:
            process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _expand(hosts: Iterable[str]) -> list[str]:
    try:
        names = [name.name for text in hosts for name in expand(text)]
    except RangeError as exc:
        raise LabBoxError(str(exc)) from exc
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise LabBoxError(f"{sorted(double)[0]!r} is named twice")
    if not 0 < len(names) <= MAX_HOSTS:
        raise LabBoxError(f"a box has from 1 to {MAX_HOSTS} hosts, not {len(names)}")
    return names


def _shared(extra: Sequence[str | Path]) -> list[str]:
    """Folders to show: those asked for, and the running Python if hosts would not see it."""
    pythons = [prefix for prefix in {sys.prefix, sys.base_prefix} if prefix.startswith(("/root/", "/home/", "/tmp/"))]
    return sorted({str(Path(path).absolute()) for path in (*pythons, *extra)})


def _import_path() -> str:
    """Where this package is imported from, for a Python that would not find it, before what there was."""
    ours = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH", ""))))
