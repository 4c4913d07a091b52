"""A box that runs, whoever started it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.lab.faults import Fault, FaultDriver, Faulty, breaker
from easycluster.labbox.control import ask
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.hosts import START_TIMEOUT, BoxHost, hosts_of
from easycluster.labbox.layout import Folder
from easycluster.labbox.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["RunningBox"]


class RunningBox(Faulty):
    """The box in a folder.

    ``with box.link("san1").down():`` and its like break something until the end of the block, or of this process.

    Args:
        folder: Where it is; None for one that is to be started.

    Attributes:
        hosts: All hosts by name.

    Raises:
        LabBoxError: If no box runs there.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder: Folder | None = None
        self.hosts: dict[str, BoxHost] = {}
        if folder is not None:
            self._folder = Folder(folder)
            if not (self.folder / "box.json").exists():
                raise LabBoxError(f"{self.folder} has no box; make one with: easycluster labbox up --dir {self.folder}")
            self.hosts = hosts_of(self._folder)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._files().path

    @property
    def inventory(self) -> Path:
        """A lab file with all hosts, for ``pytest --ec-inventory``."""
        return self._files().inventory

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``: knows the hosts by name and by address."""
        return self._files().ssh_config

    def __getitem__(self, name: str) -> BoxHost:
        """The host of that name."""
        try:
            return self.hosts[name]
        except KeyError:
            raise LabBoxError(f"the box has no host {name!r}; it has {', '.join(self.hosts)}") from None

    def __iter__(self) -> Iterator[BoxHost]:
        """All hosts, in the order they were named in."""
        return iter(self.hosts.values())

    def end(self) -> None:
        """End the box and wait until nothing is left of it."""
        files = self._files()
        ask(files, "stop")
        wait_until(lambda: not (files.path / "box.json").exists(), "the end of the box", START_TIMEOUT)

    def _break(self, name: str, what: str, begin: Callable[[FaultDriver], Callable[[], None]]) -> Fault:
        host = self[name]
        end = begin(breaker(host, {"driver": "labbox", "box": self.folder}))
        if what != "kill()":
            return Fault(f"{name}: {what}", end)

        def end_and_wait() -> None:
            end()
            # Behind a cable that is pulled nobody can be waited for.
            if host._status()["link"] == "up":
                host.wait_for_ssh()

        return Fault(f"{name}: {what}", end_and_wait)

    def _address_of(self, name: str) -> str:
        return self[name].address

    def _files(self) -> Folder:
        if self._folder is None:
            raise LabBoxError("the box has not been started; use it in a with statement")
        return self._folder
