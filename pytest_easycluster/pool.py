"""Which hosts of the lab this run may use, and what it changes about them.

``--ec-limit``, ``--ec-exclude``, ``--ec-set`` and ``--ec-missing``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.options import MISSING, setting

if TYPE_CHECKING:
    from easycluster.lab import Inventory


def changes(config: pytest.Config) -> list[str]:
    """What ``--ec-set`` says, after the environment (separated by ``;``) and the ini file, which it overrides."""
    given = [one.strip() for one in os.environ.get("EC_SET", "").split(";") if one.strip()]
    return [*config.getini("ec_set"), *given, *(config.getoption("ec_set") or [])]


def narrow(config: pytest.Config, inventory: Inventory) -> Inventory:
    """The lab with the hosts left out that this run is not to use.

    Raises:
        pytest.UsageError: If a pattern names something that the lab does not have, or leaves no host.
    """
    limit, exclude = setting(config, "limit"), setting(config, "exclude")
    if not limit.value and not exclude.value:
        return inventory
    from easycluster.lab import PatternError, narrowed

    try:
        return narrowed(inventory, limit.value, exclude.value, (limit.source, exclude.source))
    except PatternError as exc:
        source = (limit if exc.is_limit else exclude).source
        caret = f"\n  {exc.pattern}\n  {' ' * exc.position}^" if exc.position else ""
        raise pytest.UsageError(f"{source} {exc.pattern!r}: {exc}{caret}") from None


def header(inventory: Inventory) -> str:
    """How much of the lab is left, for the top of the run; ``""`` if all is."""
    reasons = dict.fromkeys(host.left_out for host in inventory.hosts.values() if host.left_out)
    if not reasons:
        return ""
    enabled = [host for host in inventory.hosts.values() if host.enabled]
    left = [host for host in enabled if not host.left_out]
    return f"lab: {len(left)} of {len(enabled)} hosts are used (others: {'; '.join(reasons)})"


def missing(config: pytest.Config) -> str:
    """``skip``, ``error`` or, if nobody says anything, ``""``.

    Raises:
        pytest.UsageError: If the environment or the ini file says something else.
    """
    found = setting(config, "missing")
    if found.value not in ("", *MISSING):
        raise pytest.UsageError(f"{found.source} is {found.value!r}; write skip or error")
    return found.value
