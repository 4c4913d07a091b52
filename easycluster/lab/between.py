"""Between two tests of one lease: the host is set back, and what a test left behind is put down to it.

A lease may be there for many tests, of a module or of the whole session.  Its undo list runs when it ends, but the
``restore:`` function of the lab file runs after each test that has touched the host.  Processes and files of a wider
fixture look like leftovers of the test in which it was set up; so what is new after a test is noted with the test, and
reported only if it is still there when the lease ends.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from easycluster.errors import EasyClusterError, SessionError
from easycluster.lab.holders import LeaseError
from easycluster.lab.parallel import run_all
from easycluster.lab.releases import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easycluster.lab.host import Host
    from easycluster.lab.lease import Part
    from easycluster.lab.leases import Leases

__all__ = ["Between", "restore_of"]

# Each action has a time limit of its own.
_UNDO_TIME = 60.0


def restore_of(host: Host) -> str:
    """Name of the function that sets a host back, ``""`` if the lab file has none."""
    function = host._entry.settings.get("restore")
    return "" if not function or function == "none" else str(function)


class Between:
    """What there is to do at the beginning and end of each test.

    Args:
        leases: Those of this process.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        # How often hosts had been used when the test began.
        self._uses: dict[str, int] = {}

    def begin(self) -> None:
        """See :meth:`Leases.begin_test`."""
        self._uses = {name: host._connection.uses for name, host in self._leases._lab._every.items()}

    def end(self, test: str, hosts: Iterable[str]) -> list[Failure]:
        """See :meth:`Leases.end_test`."""
        given = set(hosts)
        parts = {}
        for name, host in self._leases._lab._every.items():
            touched = name in given or host._connection.uses != self._uses.get(name, 0)
            if touched and host._connection.refusal is None:
                # The outermost lease: its account is the longest.
                part = next((one for one in self._leases._parts_of(host) if one.begun), None)
                if part is not None and part.client.connected:
                    parts[name] = part
        results, errors = run_all({name: partial(self._set_back, part, test) for name, part in parts.items()})
        failures = [failure for found in results.values() for failure in found]
        return failures + [Failure(name, "the end of the test", str(exc)) for name, exc in errors.items()]

    def _set_back(self, part: Part, test: str) -> list[Failure]:
        try:
            failures = self._restore(part, test)
            left = self._leases._ask(part, {"op": "leaks", "baseline": part.baseline, "keep": True})["leaks"]
        except SessionError:
            return []  # it is gone, and sets itself back
        for one in left:
            part.seen.setdefault((one["kind"], one["what"]), test)
        return failures

    def _restore(self, part: Part, test: str) -> list[Failure]:
        function, host = restore_of(part.host), part.host
        if not function:
            return []
        try:
            level = self._leases._ask(part, {"op": "level"})["level"]
            host.undo(getattr(part.client, function), boot="forget")
            answer = self._leases._ask(part, {"op": "undo", "level": level}, _UNDO_TIME)
        except SessionError:
            raise
        except EasyClusterError as exc:
            failures = [Failure(host.name, f"{function}()", str(exc))]
        else:
            failures = [Failure(host.name, one["what"], one["error"], one["output"]) for one in answer["failures"]]
        self.judge(host, failures, test)
        return failures

    def judge(self, host: Host, failures: Iterable[Failure], test: str = "") -> None:
        """Have a host not used any more that could not be set back; until that works after all."""
        function = restore_of(host)
        if not function:
            return
        failed = next((one for one in failures if one.what == f"{function}()"), None)
        if failed is None:
            host._connection.refusal = None
            return
        after = f" after {test}" if test else ""
        why = f"it could not be set back{after}, so this run does not use it any more: {failed.what}: {failed.error}"
        host._connection.refusal = host._connection.refusal or LeaseError(why, host.name)
