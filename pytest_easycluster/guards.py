"""What a run with a lab is guarded by: verdicts, endings and time limits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.markers import read_marks
from pytest_easycluster.options import setting

if TYPE_CHECKING:
    from easycluster.lab import Lab


def register(config: pytest.Config, lab: Lab) -> None:
    """Register what a run with a lab has; where pytest-xdist distributes tests, its controller counts."""
    from pytest_easycluster.endings import Endings
    from pytest_easycluster.limits import Limits
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
    limits = Limits(
        lab,
        test=_span(config, "timeout"),
        teardown=_span(config, "teardown-timeout"),
        silence=_span(config, "silence") or 60.0,
        # Ours, because pytest's capturing takes the number 2 for itself.
        fd=os.dup(2),
    )
    plugins.register(limits, "easycluster-limits")
    limits.install(config)


def _number(config: pytest.Config, name: str) -> int:
    given = setting(config, name)
    if not given.value:
        return 0
    if not given.value.isdecimal() or not int(given.value):
        raise pytest.UsageError(f"{given.source}: {given.value!r} is not a number of 1 or more")
    return int(given.value)


def _span(config: pytest.Config, name: str) -> float | None:
    given = setting(config, name)
    if not given.value:
        return None
    # The marker's words, and its checks.
    value = float(given.value) if given.value.replace(".", "", 1).isdecimal() else given.value
    wishes = read_marks([pytest.mark.ec_timeout(test=value).mark])
    if wishes.faults:
        raise pytest.UsageError(f"{given.source}: {given.value!r} is no span of time; write 90, '10s', '5m' or '1h'")
    return wishes.timeouts["test"]
