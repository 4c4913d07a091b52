"""Who has a host: what its lock directory says, and the words that change it.  One keeper is asked."""

from __future__ import annotations

import getpass
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.holders import Holder, HostBusy, LeaseError, LockRule, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easycluster.lab.inventory import HostEntry

__all__ = ["Occupancy", "person", "who_we_are"]

# A host's answer takes a moment.
ANSWER_TIME: Final = 20.0
# Clocks that differ by less are shown as they are.
CLOCKS_AGREE: Final = 2.0
# Accounts below are the system's, and many people's: root is somebody else on every machine (useradd(8), UID_MIN).
FIRST_PERSON: Final = 1000


class Occupancy:
    """The locks and reservations of one host.

    Args:
        entry: The host.
        ask: Asks its keeper, with a time limit in seconds; see :mod:`easycluster.far.holdings`.
        info: Who asks, see :func:`who_we_are`.
        directory: The lock directory there, ``""`` for the usual one.

    Attributes:
        lock: The name of the host's own lock.
    """

    def __init__(
        self,
        entry: HostEntry,
        ask: Callable[[dict[str, Any], float], dict[str, Any]],
        info: Mapping[str, Any],
        directory: str = "",
    ) -> None:
        self._entry = entry
        self._ask_keeper = ask
        self._info = info
        self._directory = directory
        self.lock = LockRule.of(entry).name

    def ask(self, question: dict[str, Any], timeout: float = ANSWER_TIME) -> dict[str, Any]:
        """Have the host's keeper answer a question.

        Raises:
            LeaseError: If it cannot be done.
            SessionError: If the host is lost.
        """
        answer = self._ask_keeper({**question, "directory": self._directory}, timeout)
        if "fault" in answer:
            raise LeaseError(answer["fault"], self._entry.name)
        return answer

    def holders(self) -> list[Holder]:
        """Who holds or has reserved what, and who waits (mode ``"waiting"``), as of our clock."""
        asked = time.time()
        answer = self.ask({"op": "holders"})
        ahead = float(answer.get("now", asked)) - (asked + time.time()) / 2
        moved = ahead if abs(ahead) > CLOCKS_AGREE else 0.0
        records = [*answer["holders"], *({**one, "mode": "waiting"} for one in answer.get("waiting", ()))]
        return [Holder.from_record(self._entry.name, record, moved) for record in records]

    def reserve(
        self, seconds: float, info: Mapping[str, Any], names: Sequence[str] = (), *, force: bool = False
    ) -> None:
        """Keep the host, or some names on it, for whoever ``info`` names.

        Args:
            seconds: How long; 0 gives it back.
            info: ``owner``, or ``token`` of a run, and what others are to see.
            names: What else than the host's own lock.
            force: Whether to take it from whoever has reserved it.

        Raises:
            HostBusy: If somebody else has reserved it.
        """
        wanted = list(names) or [self.lock]
        question = {"op": "reserve", "names": wanted, "seconds": seconds, "info": {**info, "force": force}}
        answer = self.ask(question)
        if answer["in_the_way"]:
            raise HostBusy([Holder.from_record(self._entry.name, record) for record in answer["in_the_way"]])

    def force_release(self, timeout: float = 10.0) -> list[Holder]:
        """End everybody's sessions on the host, and reservations of it: changes are undone, locks go.

        Args:
            timeout: How long to wait for that, in seconds.

        Returns:
            Who had it.

        Raises:
            LeaseError: If that is not allowed, or something still holds it then.
        """
        names = [self.lock]
        info = {key: self._info[key] for key in ("user", "host")}
        ended = self.ask({"op": "force", "names": names, "info": info})["ended"]
        end = time.monotonic() + timeout
        while True:
            left = self.ask({"op": "holders", "names": names})["holders"]
            left = [one for one in left if one.get("token") != self._info["token"]]
            if not left:
                return [Holder.from_record(self._entry.name, record) for record in ended]
            if time.monotonic() > end:
                holder = Holder.from_record(self._entry.name, left[0])
                text = f"{holder}, still after {span(timeout)}; perhaps it is undoing something"
                raise LeaseError(text, self._entry.name)
            time.sleep(0.05)


def person() -> dict[str, Any]:
    """The part of :func:`who_we_are` that outlives this process."""
    return {key: value for key, value in who_we_are().items() if key in ("user", "host", "owner")}


def who_we_are() -> dict[str, Any]:
    """What others see of this run, and what reservations know it by.

    ``owner`` is a person: the login, from whichever machine, since people reserve at their desk what CI then uses.  A
    system's account such as ``root`` is many people's; it counts together with its machine.  ``EC_USER`` names the
    person behind an account, and so does sudo.
    """
    user, machine = _user(), socket.gethostname()
    person = os.environ.get("EC_USER", "")
    uid = os.getuid() if hasattr(os, "getuid") else FIRST_PERSON
    if not person and uid == 0 and os.environ.get("SUDO_USER", "root") != "root":
        person = os.environ["SUDO_USER"]
    return {
        "user": person or user,
        "host": machine,
        "owner": person or (user if uid >= FIRST_PERSON else f"{user}@{machine}"),
        "pid": os.getpid(),
        "token": os.urandom(8).hex(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        # An account without a name, as in containers.
        return str(os.getuid()) if hasattr(os, "getuid") else "?"
