"""A laboratory in a box: hosts with ssh, disks and power on one machine, for trying things and for tests.

Each host is a set of Linux namespaces with an address, an sshd and a boot id of its own; it can be rebooted, switched
off, cut off and frozen::

    with LabBox(["gpu[01:02]", "san1"]) as box:
        subprocess.run(["pytest", "--ec-inventory", box.inventory])
        box["gpu01"].reboot()

Needs root, iproute2 and openssh-server; no image, no daemon, no network.
"""

from __future__ import annotations

from easycluster.labbox.box import BoxHost, LabBox, Link
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.needs import missing

__all__ = ["BoxHost", "LabBox", "LabBoxError", "Link", "missing"]
