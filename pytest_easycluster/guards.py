"""What a run with a lab is guarded by: verdicts, endings and time limits.  Light: everything else waits for a lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.options import add_setting, setting

if TYPE_CHECKING:
    from easycluster.lab import Lab


def add_options(parser: pytest.Parser) -> None:
    """Add what the command line and the ini file can say."""
    add_setting(
        parser,
        "max-lost",
        "N",
        "stop the run once N hosts were lost; by default the tests of other hosts go on",
    )


def register(config: pytest.Config, lab: Lab) -> None:
    """Register what a run with a lab has; where pytest-xdist distributes tests, its controller counts."""
    from pytest_easycluster.endings import Endings
    from pytest_easycluster.tally import Tally
    from pytest_easycluster.verdicts import Judge

    plugins = config.pluginmanager
    most_lost = _number(config, "max-lost")
    plugins.register(Judge(lab), "easycluster-verdicts")
    if not hasattr(config, "workerinput"):
        plugins.register(Tally(config, most_lost), "easycluster-tally")
    endings = Endings(config, lab)
    plugins.register(endings, "easycluster-endings")
    endings.install()


def _number(config: pytest.Config, name: str) -> int:
    given = setting(config, name)
    if not given.value:
        return 0
    if not given.value.isdecimal() or not int(given.value):
        raise pytest.UsageError(f"{given.source}: {given.value!r} is not a number of 1 or more")
    return int(given.value)
