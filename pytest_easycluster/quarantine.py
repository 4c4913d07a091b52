"""The lab file's ``quarantine:`` in a run: what is known to be broken is neither a failure nor forgotten.

An entry with hosts keeps its tests off them; choosing hosts minds that.  Here is the rest: an entry without hosts takes
its tests out of the run, and one with ``how: xfail`` lets them run and expects their failure.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from easycluster.lab import Lab, Quarantine


def register(config: pytest.Config, lab: Lab) -> None:
    """Mind the lab's list in this run, if it has one."""
    if lab.inventory.quarantine:
        config.pluginmanager.register(Keeper(lab), "easycluster-quarantine")


class Keeper:
    """Marks tests that are in quarantine.

    Args:
        lab: The lab whose list it is.
    """

    def __init__(self, lab: Lab) -> None:
        today = datetime.date.today()
        self._entries = [one for one in lab.inventory.quarantine if not one.is_over(today)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark tests that are in quarantine wherever they run; the one that expects to fail may still pass."""
        for item in items:
            for entry in self._entries:
                if entry.hosts or not entry.concerns(item.name):
                    continue
                if entry.how == "xfail":
                    item.add_marker(pytest.mark.xfail(reason=str(entry), strict=False))
                else:
                    item.add_marker(pytest.mark.skip(reason=str(entry)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Expect a failure where the test got a host that is in quarantine for it; its fixtures are set up by now."""
        for entry in self._entries:
            if entry.how == "xfail" and entry.concerns(item.name) and entry.hosts and self._has(item, entry):
                item.add_marker(pytest.mark.xfail(reason=str(entry), strict=False))

    def _has(self, item: pytest.Item, entry: Quarantine) -> bool:
        given = [str(value).split() for name, value in item.user_properties if name.startswith("ec_hosts[")]
        return any(host in entry.hosts for names in given for host in names)
