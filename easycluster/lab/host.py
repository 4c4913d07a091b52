"""One host of the lab: a proxy for the code of its roles, and a short list of names of ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from easycluster.lab.rolecode import HOST_NAMES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from easycluster.aio import AsyncHost
    from easycluster.devices.gpu import Gpus
    from easycluster.lab.boots import Boot
    from easycluster.lab.connection import HostConnection
    from easycluster.lab.console import Console
    from easycluster.lab.faults import Link
    from easycluster.lab.inventory import HostEntry
    from easycluster.lab.lab import Lab
    from easycluster.lab.power import Action


class Host:
    """A host: ``host.f(x)`` calls ``f`` of its role's code over there.

    The names of ours are ``name``, ``address``, ``aio``, ``call``, ``run``, ``put``, ``get``, ``power``, ``reboot``,
    ``console``, ``link``, ``undo``, ``expect_loss``, ``remote``, ``gpu`` and ``san``; every other name is looked up in
    the role's code and then among everything else the far side has.  ``host.remote.x`` is always the far side's ``x``.
    The first use connects.
    """

    __slots__ = ("__weakref__", "_connection", "_entry", "_lab")

    _lab: Lab
    _entry: HostEntry
    _connection: HostConnection

    def __init__(self, lab: Lab, entry: HostEntry, connection: HostConnection) -> None:
        object.__setattr__(self, "_lab", lab)
        object.__setattr__(self, "_entry", entry)
        object.__setattr__(self, "_connection", connection)

    def __repr__(self) -> str:
        roles = f" ({', '.join(self._entry.roles)})" if self._entry.roles else ""
        state = "" if self._connection.is_open else ", not connected"
        return f"<{type(self).__name__} {self.name}{roles} at {self._entry.target}{state}>"

    def __getattr__(self, name: str) -> Any:
        # Python, pytest and debuggers probe any object for names like these; none is a reason to connect.
        if name.startswith("_"):
            raise AttributeError(f"host {self.name!r} has no attribute {name!r}; a far-side one is host.remote.{name}")
        return getattr(self.remote, name)

    def _is_device(self, name: str) -> bool:
        """Whether a name is one of the host's devices, and so is used from here."""
        return False

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name!r} cannot be set on host {self.name!r}; write host.remote.{name}.value = ...")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *HOST_NAMES})

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"host {self.name!r} cannot be pickled: it stands for a connection of this process")

    @property
    def name(self) -> str:
        """The host's name in the lab file."""
        return self._entry.name

    @property
    def address(self) -> str:
        """What is connected to: host name or address."""
        return self._entry.target.address

    @property
    def remote(self) -> Any:
        """The client: ``host.remote.os.getpid()``, ``host.remote.eval("1 + 1")``; connects.

        Raises:
            ConnectError: If the host cannot be reached.
        """
        return self._connection.client()

    @property
    def aio(self) -> AsyncHost:
        """The host for coroutines: ``await host.aio.f(x)``."""
        from easycluster.aio import AsyncHost

        return AsyncHost(self._connection)

    def call(self, target: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a far-side function by name, such as ``"os.getpid"``, or a function of this side by value."""
        if isinstance(target, str):
            return self.remote.call(target, *args, **kwargs)
        return self.remote.call("types.FunctionType.__call__", target, *args, **kwargs)

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        check: bool = False,
        input: str | bytes | None = None,  # the word of subprocess.run
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        live: bool = True,
        text: bool = True,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command on the host; the arguments are those of :func:`easycluster.remote.run`.

        Raises:
            subprocess.TimeoutExpired: With the output so far.
            subprocess.CalledProcessError: If ``check`` and the exit code is not 0.
        """
        from easycluster.remote import run

        return run(
            self.remote,
            command,
            timeout=timeout,
            check=check,
            input=input,
            cwd=cwd,
            env=env,
            live=live,
            text=text,
        )

    def put(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        progress: Callable[[int, int], None] | None = None,
        mode: int | None = None,
    ) -> None:
        """Copy a file from here to the host; see :func:`easycluster.remote.put`."""
        from easycluster.remote import put

        with self._lab.limits.transfer(self._entry, f"put({os.fspath(source)!r})"):
            put(self.remote, source, target, progress=progress, mode=mode)

    def get(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
        mode: int | None = None,
    ) -> None:
        """Copy a file from the host to here; see :func:`easycluster.remote.get`."""
        from easycluster.remote import get

        with self._lab.limits.transfer(self._entry, f"get({source!r})"):
            get(self.remote, source, target, progress=progress, mode=mode)

    def expect_loss(self, timeout: float = 30.0) -> AbstractContextManager[None]:
        """Say that the host is going to be lost: ``with host.expect_loss(): host.run("reboot -f")``.

        What the loss raises inside the block ends the block and is forgotten; the next use connects anew, trying for
        as long as a connect may take (``timeouts: connect``), and the host may have rebooted meanwhile.  Around the
        ``yield`` of a fixture it holds for the test.

        Args:
            timeout: How long the host may still answer after the block, in seconds.

        Raises:
            NotLost: If it still answers then.
        """
        return self._connection.expect_loss(timeout)

    def power(self, action: Action, *, timeout: float | None = None) -> str:
        """Switch the host's power as ``power:`` of the lab file says.

        All but ``"status"`` needs the host exclusively.  After ``"off"`` its connection is closed, and using it is a
        :class:`easycluster.lab.HostIsOff` until ``"on"``; a lease that ends meanwhile switches it on.  After ``"on"``
        and ``"cycle"`` it is as after :meth:`reboot`.

        Args:
            action: ``"on"``, ``"off"``, ``"cycle"`` or ``"status"``.
            timeout: Seconds until it has to answer again; without it what the lab file says, or 10 minutes.

        Returns:
            ``"on"`` or ``"off"``.

        Raises:
            Unsupported: If the lab file does not say how.
            PowerError: If the switch does not work.
            LeaseError: If the host is not leased exclusively.
            NeverWentDown: If the system of before still answers.
            NeverCameBack: If the host does not answer again.
        """
        from easycluster.lab.power import power

        return power(self._lab, self, action, timeout)

    def reboot(
        self,
        *,
        timeout: float | None = None,
        command: str | Sequence[str] | None = None,
        down_timeout: float | None = None,
    ) -> Boot:
        """Restart the host, wait until another boot of it answers, and go on with the lease as it was.

        The host stays locked for this run.  Definitions are there again, and what is to be undone still is; globals
        and objects are new, and proxies of before raise :class:`easycluster.errors.StaleProxy`.

        Args:
            timeout: Seconds until it has to answer again; without it what the lab file says, or 10 minutes.
            command: What restarts it, instead of ``reboot:`` of the lab file and what the system has: a text for the
                shell or a list of words.
            down_timeout: Seconds until the old system must not answer any more, 2 minutes by default.

        Returns:
            How long it took, and the new boot id.

        Raises:
            LeaseError: If the host is not leased exclusively, or something to be undone cannot be kept over a reboot.
            RebootFailed: If the command does not work.
            NeverWentDown: If the old system still answers.
            NeverCameBack: If it went down and does not answer.
        """
        from easycluster.lab.boots import DOWN_TIMEOUT
        from easycluster.lab.reboot import reboot

        down = DOWN_TIMEOUT if down_timeout is None else down_timeout
        return reboot(self, self._lab.leases, timeout=timeout, command=command, down_timeout=down)

    @property
    def console(self) -> Console:
        """The host's console as ``console:`` of the lab file has it, opened when it is first used.

        Raises:
            Unsupported: If the lab file has none for the host; a test is skipped then.
        """
        from easycluster.lab.consoles import console_of

        return console_of(self._lab, self)

    @property
    def link(self) -> Link:
        """The host's link, to be broken: ``with host.link.down():``, ``delay``, ``loss``, ``rate``."""
        return self._lab.link(self)

    def undo(self, what: Any, /, *args: Any, timeout: float = 30.0, boot: str = "keep", **kwargs: Any) -> None:
        """Have something done on the host when its lease ends, whoever dies; call it before the change.

        What was registered last is done first.  It runs in a process of its own on the host, with the role's code but
        without the test's objects, and only then the host's locks go.  See :func:`easycluster.remote.undo`.

        Args:
            what: A command, as a text for the shell or a list of words; a far-side function, such as
                ``host.set_clocks``; or a function of this side, which goes by value.
            args: Of the function; of a command, more words.
            timeout: Seconds until it is killed.
            boot: ``"forget"`` if a reboot undoes the change anyway; else it is done after one, too, even if the host
                loses power.
            kwargs: Of the function.
        """
        from easycluster.remote import undo

        undo(self.remote, what, *args, timeout=timeout, boot=boot, **kwargs)

    @property
    def gpu(self) -> Gpus:
        """The host's GPUs, as ``gpu:`` of the lab file says what is to drive them; looked at when they are first used.

        See :class:`easycluster.devices.gpu.Gpus`.
        """
        from easycluster.lab.gpus import gpus_of

        return gpus_of(self)

    @property
    def san(self) -> Any:
        """The host's storage target as ``san:`` of the lab file has it, opened when it is first used.

        Called, it runs another target on the host: ``with host.san("tgt") as san:``.

        Raises:
            Unsupported: When it is used, if the lab file has no target for the host or what its driver needs is not
                installed there; a test is skipped then.
        """
        from easycluster.lab.storage import PendingTarget

        connection = self._connection
        if connection.san is None:
            connection.san = PendingTarget(self)
        return connection.san


class GpuNode(Host):
    """A host with role ``gpu``.

    The names of its GPUs (``devices``, ``lease``, ``telemetry``, ``burn`` ...) can be asked of the host itself, unless
    its role's code defines them.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and _is_gpu_name(self, name):
            return getattr(self.gpu, name)
        return super().__getattr__(name)

    def _is_device(self, name: str) -> bool:
        return _is_gpu_name(self, name) or super()._is_device(name)


class SanTarget(Host):
    """A host with role ``san``.

    If ``san:`` of the lab file says what target it has, that target's names (``login``, ``create_lun``, ``crash`` ...)
    can be asked of the host itself, unless its role's code defines them.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and _is_san_name(self, name):
            return getattr(self.san, name)
        return super().__getattr__(name)

    def _is_device(self, name: str) -> bool:
        return _is_san_name(self, name) or super()._is_device(name)


def _is_gpu_name(host: Host, name: str) -> bool:
    from easycluster.lab.gpus import gpu_names

    return name in gpu_names() and name not in host._lab.defined_names(host._entry)


def _is_san_name(host: Host, name: str) -> bool:
    if "san" not in host._entry.settings:
        return False
    from easycluster.lab.storage import target_names

    return name in target_names() and name not in host._lab.defined_names(host._entry)


class GpuSan(GpuNode, SanTarget):
    """A host with both roles."""

    __slots__ = ()


def host_class(entry: HostEntry) -> type[Host]:
    """The class for a host with these roles."""
    gpu, san = "gpu" in entry.roles, "san" in entry.roles
    return GpuSan if gpu and san else GpuNode if gpu else SanTarget if san else Host
