"""What is remembered of hosts that were lost, so that each costs a run one connect timeout and not one per test."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import (
    AuthenticationError,
    BootstrapError,
    ConnectError,
    ConnectionLost,
    EasyClusterError,
    HostKeyError,
)

if TYPE_CHECKING:
    from types import TracebackType

# Several tests on a host that does not answer cost one connect timeout; then it is given another chance.
RETRY_AFTER: Final = 60.0

# A host that was lost so often is not tried again in this run: each time costs a test, and its time.
MOST_LOSSES: Final = 3

# Read on the far side.  A file of its own for each boot: proc(5).  A simulated host is told.
_BOOT_ID: Final = (
    "__import__('os').environ.get('EASYCLUSTER_BOOT_ID') or "
    "__import__('io').open('/proc/sys/kernel/random/boot_id').read().strip()"
)
_BOOT_ID_TIMEOUT: Final = 5.0

# What the kernel said before it went: the journal has the boot before this one where it is kept, pstore a panic's end.
_KERNEL_LOG: Final = """
text=$(journalctl -k -b -1 -n 60 --no-pager -q 2>/dev/null) && [ -n "$text" ] && { echo "$text"; exit; }
text=$(cat /sys/fs/pstore/* 2>/dev/null) && [ -n "$text" ] && { echo "$text" | tail -n 60; exit; }
dmesg 2>/dev/null | tail -n 40
"""
_KERNEL_LOG_TIMEOUT: Final = 5.0


class NotLost(EasyClusterError, AssertionError):
    """A host still answers although a test said that it would be lost."""


@dataclass(frozen=True)
class Aftermath:
    """What became of a host after its connection was lost.

    Attributes:
        expected: Whether the loss happened inside ``expect_loss()``.
        answers: Whether the host could be connected to again.
        rebooted: Whether it came back with a boot id that nobody had asked for.
        kernel_log: What its kernel said before that, if it did and that was to be had.
        trouble: Why it could not be connected to.
    """

    expected: bool = False
    answers: bool = False
    rebooted: bool = False
    kernel_log: str = ""
    trouble: str = ""


class LossMemory:
    """How often a host was lost, and the error that came of the last try to reach it."""

    def __init__(self) -> None:
        self.count = 0
        # With its traceback as it was: each time it is raised, frames are added to the one it has.
        self._failure: tuple[Exception, TracebackType | None, float] | None = None

    @property
    def is_out(self) -> bool:
        """Whether the host is not tried again."""
        return self.count >= MOST_LOSSES

    def remembered(self) -> Exception | None:
        """The error to raise instead of another try, None if it is time for one."""
        if self._failure is None:
            return None
        failure, traceback, when = self._failure
        ago = time.monotonic() - when
        if not self.is_out and ago >= RETRY_AFTER:
            self._failure = None
            return None
        if not isinstance(failure, ConnectError):
            return failure.with_traceback(traceback)
        then = f"out after {self.count} losses" if self.is_out else f"not tried again within {RETRY_AFTER:.0f} s"
        return type(failure)(f"{failure.message} (tried {ago:.0f} s ago; {then})", failure.host, failure.details)

    def remember(self, failure: Exception, *, counts: bool) -> None:
        """Keep the error of a try that failed; ``counts`` says whether it is another loss."""
        self._failure = (failure, failure.__traceback__, time.monotonic())
        if counts and is_loss(failure):
            self.count += 1

    def forget(self) -> None:
        """The host answers."""
        self._failure = None


def is_loss(exc: BaseException) -> bool:
    """Whether an error says that a host does not answer; one that refuses us does."""
    if isinstance(exc, (AuthenticationError, HostKeyError, BootstrapError)):
        return False
    return isinstance(exc, (ConnectError, ConnectionLost))


def name_host(exc: Exception, name: str) -> None:
    """Let an error name a host as the lab file does; transports know its address."""
    if isinstance(exc, ConnectError) and exc.host != name:
        rest = exc.message.removeprefix(f"{exc.host}: ").removeprefix(f"{name}: ")
        where = f"{name} ({exc.host})" if exc.host else name
        exc.__init__(f"{where}: {rest}", name, exc.details)  # type: ignore[misc]  # the same error, other words


def way_out(name: str) -> str:
    """What can be done about a session of a host that has ended; ``reconnect()`` would pass the lab's locks by."""
    return f"the next test starts anew, and so does ec.only({name!r}).connect()"


def boot_id(client: Any) -> str:
    """Which boot of its host a client is connected to, ``""`` where there is no such thing."""
    from easycluster.client.observing import unobserved

    try:
        with unobserved():
            return str(client.eval(_BOOT_ID, timeout=_BOOT_ID_TIMEOUT))
    except Exception:  # noqa: BLE001  # no Linux; or it is lost already, which its next call says better
        return ""


def kernel_log(client: Any) -> str:
    """The last the kernel said before the host went down, ``""`` if that is not to be had."""
    from easycluster.client.observing import unobserved
    from easycluster.remote import run

    try:
        with unobserved():
            done = run(client, ["/bin/sh", "-c", _KERNEL_LOG], timeout=_KERNEL_LOG_TIMEOUT, live=False)
    except Exception:  # noqa: BLE001  # an ornament of a report that is made without it, too
        return ""
    return str(done.stdout).rstrip()
