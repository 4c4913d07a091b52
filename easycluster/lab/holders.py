"""Who holds what on the hosts of a lab, as values; and the errors of those who want it, too."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from easycluster.lab.inventory import HostEntry

Mode = Literal["exclusive", "shared", "none"]


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file on the host says.

    Attributes:
        host: The host of the lab that it is on.
        name: What is locked: a host's name, the UUID of a device, or a name of the suite's own.
        mode: ``"exclusive"``, ``"shared"``, ``"reserved"`` (kept for somebody who does not use it now), or
            ``"waiting"``.
        user: Who, on the machine where the run was started.
        controller: That machine.
        pid: The process there, 0 for a reservation.
        since: When, in seconds of the host's clock.
        until: When it ends by itself, or None.
        label: What it is for, in the holder's words.
        account: Whom it is as on the host.
        token: Tells runs apart.
        owner: The person; see :func:`easycluster.lab.occupancy.who_we_are`.
    """

    host: str
    name: str
    mode: str
    user: str = ""
    controller: str = ""
    pid: int = 0
    since: float = 0.0
    until: float | None = None
    label: str = ""
    account: str = ""
    token: str = ""
    owner: str = ""

    @classmethod
    def from_record(cls, host: str, record: Mapping[str, Any], ahead: float = 0.0) -> Holder:
        """Read what a lock file says; it may be of another version, or have been tampered with.

        Args:
            host: The host that it is on.
            record: What it says.
            ahead: How many seconds the host's clock is ahead of the one that the times are wanted for.
        """
        return cls(
            host,
            _text(record.get("name")) or _names(record.get("wanted")),
            _text(record.get("mode")) or "exclusive",
            _text(record.get("user")),
            _text(record.get("host")),
            int(_number(record.get("pid"))),
            _number(record.get("since")) - ahead,
            _number(record["until"]) - ahead if record.get("until") is not None else None,
            _text(record.get("label")),
            _text(record.get("account")),
            _text(record.get("token")),
            _text(record.get("owner")),
        )

    @property
    def who(self) -> str:
        """``ann@ci pid 812``."""
        name = f"{self.user or 'somebody'}@{self.controller or '?'}"
        return f"{name} pid {self.pid}" if self.pid else name

    def __str__(self) -> str:
        what = "reserved for" if self.mode == "reserved" else "in use by"
        if self.mode == "dirty":
            return f"needs restore since {clock(self.since)}: {self.label}"
        text = f"{what} {self.who} since {clock(self.since)}"
        if self.until is not None:
            text += f" until {clock(self.until)}"
        if self.label:
            text += f' "{self.label}"'
        if self.mode == "waiting":
            return f"next is {text.removeprefix('in use by ').replace(' since ', ', waiting since ', 1)}"
        return text if self.name == self.host else f"{self.name} is {text}"


class LeaseError(EasyClusterError):
    """A host cannot be leased, or not be used as it was.

    Attributes:
        host: Its name.
        reason: The message without the host.
    """

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(f"{host}: {message}" if host else message)
        self.host = host
        self.reason = message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.host)


class HostBusy(LeaseError, TimeoutError):
    """Somebody else had a host for as long as we waited.

    Attributes:
        holder: Who has it.
        holders: All who are in the way.
        since: Since when, in seconds of the host's clock.
        waited: How long we waited, in seconds.
        place: Our place in the line of the host, 0 if we did not wait in it.
    """

    def __init__(self, holders: Iterable[Holder], waited: float = 0.0, place: int = 0) -> None:
        self.holders = tuple(holders)
        self.holder = self.holders[0]
        self.since = self.holder.since
        self.waited = waited
        self.place = place
        host = self.holder.host
        others = [str(one) if one.host == host else f"{one.host}: {one}" for one in self.holders]
        line = f", {ordinal(place)} in line" if place else ""
        super().__init__(f"{'; '.join(others)} (waited {span(waited)}{line})", host)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.holders, self.waited, self.place)


@dataclass(frozen=True)
class LockRule:
    """What the lab file says about locking a host, ``lock:``.

    Attributes:
        mode: How it is used where the test says nothing, ``""`` if the file does not say.
        slots: How many may share it.
        name: The lock's name on the host.
    """

    mode: str
    slots: int | None
    name: str

    @classmethod
    def of(cls, entry: HostEntry) -> LockRule:
        """The rule for a host."""
        said = entry.settings.get("lock")
        if isinstance(said, str):
            return cls(said, None, entry.name)
        table = dict(said or {})
        mode = table.get("mode") or ("shared" if "slots" in table else "")
        return cls(mode, table.get("slots"), table.get("name") or entry.name)

    def mode_for(self, *, shared: bool = False, destructive: bool = False, usually: Mode = "exclusive") -> Mode:
        """How a test locks the host.

        Args:
            shared: Whether it is marked ``ec_shared``, or uses all hosts at once.
            destructive: Whether it is marked ``ec_destructive``; counts more.
            usually: What holds if neither the test nor the lab file says anything.
        """
        if self.mode == "none":
            return "none"
        if destructive:
            return "exclusive"
        if shared:
            return "shared"
        return self.mode if self.mode in ("exclusive", "shared") else usually  # type: ignore[return-value]


def clock(moment: float) -> str:
    """A moment as people say it: the time, with the date if that is not today's."""
    when = datetime.datetime.fromtimestamp(moment)
    today = when.date() == datetime.date.fromtimestamp(time.time())
    return when.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def span(seconds: float) -> str:
    """A span as people say it: ``40 s``, ``10 min``, ``4 h``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{round(seconds, 1):g} s"


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``11th``."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _text(value: object) -> str:
    # Another account wrote it: no escape sequences for our terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in value) if isinstance(value, str) else ""


def _names(value: object) -> str:
    wanted = value if isinstance(value, list) else []
    return ", ".join(_text(one.get("name")) or _any_of(one) for one in wanted if isinstance(one, dict))


def _any_of(wish: Mapping[str, Any]) -> str:
    names = wish.get("any")
    listed = [_text(name) for name in names] if isinstance(names, list) else []
    return f"{int(_number(wish.get('count')))} of {'/'.join(listed)}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
