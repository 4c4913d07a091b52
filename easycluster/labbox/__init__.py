"""A laboratory in a box: hosts with ssh, disks and power on one machine, for trying things and for tests.

Each host is a set of Linux namespaces with an address, an sshd and a boot id of its own; it can be rebooted, switched
off, cut off and frozen::

    with LabBox(["gpu[01:02]", "san1"]) as box:
        subprocess.run(["pytest", "--ec-inventory", box.inventory])
        box["gpu01"].reboot()

Needs root, iproute2 and openssh-server; no image, no daemon, no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from easycluster.labbox.box import LabBox
    from easycluster.labbox.errors import LabBoxError
    from easycluster.labbox.hosts import BoxHost, Link
    from easycluster.labbox.needs import missing
    from easycluster.labbox.running import RunningBox

__all__ = ["BoxHost", "LabBox", "LabBoxError", "Link", "RunningBox", "missing"]

# The supervisor and all first processes of hosts are copies of one process: it should not have what they do not use.
_LAZY: Final = {
    "BoxHost": "hosts",
    "LabBox": "box",
    "LabBoxError": "errors",
    "Link": "hosts",
    "RunningBox": "running",
    "missing": "needs",
}


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
