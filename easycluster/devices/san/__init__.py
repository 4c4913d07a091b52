"""A storage target in a test: one live object, whatever stands behind it.

::

    target        what a test uses, and what a driver must do
    embedded      our own target in a process of its own: no root, no packages
    tgt           a real tgtd
    child, guard  processes that end with us
    external      an array that is only logged in to
    conformance   iscsi-test-cu, its table read
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from easycluster.devices.san.driver import Lun
    from easycluster.devices.san.target import SanTarget, open_san

__all__ = ["Lun", "SanTarget", "open_san"]

# Loaded on first use: the process of a target needs none of it.
_HOMES = {"Lun": "driver", "SanTarget": "target", "open_san": "target"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
