"""The lab: which hosts there are, what they can do and how they are reached; with or without pytest.

lab = Lab.load("lab.yaml")
with lab.lease("gpu", count=2) as hosts:
first, second = hosts
first.some_function_of_the_role()
"""

from __future__ import annotations

from easycluster.client.inprogress import CallInProgress
from easycluster.lab.approach import UnfitHost
from easycluster.lab.boots import Boot, HostIsOff, NeverCameBack, NeverWentDown, RebootFailed
from easycluster.lab.choose import LabRequestError, Need, NoHostFits, candidates, check_need, make_need
from easycluster.lab.console import Console, ConsoleEnded, ConsoleError, ConsoleTimeout
from easycluster.lab.faults import Fault
from easycluster.lab.holders import Holder, HostBusy, LeaseError, LockRule
from easycluster.lab.host import GpuNode, Host, SanTarget
from easycluster.lab.hosts import Hosts
from easycluster.lab.inventory import DEFAULT_FIXTURES, FixtureEntry, HostEntry, Inventory, Quarantine, Role
from easycluster.lab.lab import Lab
from easycluster.lab.lease import Lease, LeasedHosts
from easycluster.lab.leases import Leases
from easycluster.lab.losses import Aftermath, NotLost, is_loss
from easycluster.lab.parallel import HostErrors
from easycluster.lab.patterns import PatternError, matching, narrowed
from easycluster.lab.positions import InventoryError, Place, Problem
from easycluster.lab.power import PowerDriver, PowerError
from easycluster.lab.reader import read_inventory
from easycluster.lab.releases import Failure, Leftover, Release
from easycluster.lab.results import HostResults
from easycluster.lab.variables import Secret
from easycluster.lab.where import Where, WhereError

__all__ = [
    "DEFAULT_FIXTURES",
    "Aftermath",
    "Boot",
    "CallInProgress",
    "Console",
    "ConsoleEnded",
    "ConsoleError",
    "ConsoleTimeout",
    "Failure",
    "Fault",
    "FixtureEntry",
    "GpuNode",
    "Holder",
    "Host",
    "HostBusy",
    "HostEntry",
    "HostErrors",
    "HostIsOff",
    "HostResults",
    "Hosts",
    "Inventory",
    "InventoryError",
    "Lab",
    "LabRequestError",
    "Lease",
    "LeaseError",
    "LeasedHosts",
    "Leases",
    "Leftover",
    "LockRule",
    "Need",
    "NeverCameBack",
    "NeverWentDown",
    "NoHostFits",
    "NotLost",
    "PatternError",
    "Place",
    "PowerDriver",
    "PowerError",
    "Problem",
    "Quarantine",
    "RebootFailed",
    "Release",
    "Role",
    "SanTarget",
    "Secret",
    "UnfitHost",
    "Where",
    "WhereError",
    "candidates",
    "check_need",
    "is_loss",
    "make_need",
    "matching",
    "narrowed",
    "read_inventory",
]
