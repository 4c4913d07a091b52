"""The fixtures.  They exist in every run, so that tests which need a lab can say so without one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Literal

    from easycluster.lab import GpuNode, Host, Hosts, Inventory, Lab, SanTarget

    ScopeName = Literal["session", "package", "module", "class", "function"]


def scope_of(fixture_name: str, config: pytest.Config) -> ScopeName:
    """The scope that the lab file gives to a fixture that also exists without one."""
    if "easycluster.lab" not in sys.modules:
        return "function"  # nobody has read a lab file
    from pytest_easycluster.access import find_lab

    lab = find_lab(config)
    scope: ScopeName = "function" if lab is None else lab.inventory.fixtures[fixture_name].scope  # type: ignore[assignment]  # checked when read
    return scope


def _lab_of(request: pytest.FixtureRequest) -> Lab:
    """The lab; without one the test ends here, see :func:`pytest_easycluster.access.need_lab`."""
    from pytest_easycluster.access import need_lab

    return need_lab(request.config)


@pytest.fixture(scope="session")
def ec(request: pytest.FixtureRequest) -> Lab:
    """The lab, for fixtures of one's own.

    `with ec.lease("gpu", count=2) as hosts:` picks hosts, locks them, and sets them back in the end; `ec.hosts` has
    all hosts that this run may use.
    """
    return _lab_of(request)


@pytest.fixture(scope="session")
def ec_inventory(request: pytest.FixtureRequest) -> Inventory:
    """What the lab file says; nothing is connected."""
    return _lab_of(request).inventory


@pytest.fixture
def remote_hosts(request: pytest.FixtureRequest) -> Hosts:
    """The hosts that `@pytest.mark.ec_hosts(...)` asks for, in its order; all hosts without that marker.

    `remote_hosts[0]`, `remote_hosts["gpu01"]` and, for named ones, `remote_hosts["sender"]` are hosts; they can also
    be unpacked and iterated. All hosts of an unmarked test are shared with others, each from its first use on.
    """
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_marked

    return give_marked(request, lab)


@pytest.fixture
def ec_host(request: pytest.FixtureRequest) -> Host:
    """The host of this item of a test marked `@pytest.mark.ec_each("gpu")`, which runs once for each host."""
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_each

    return give_each(request, lab)


@pytest.fixture(scope=scope_of)
def gpu_node(request: pytest.FixtureRequest) -> GpuNode:
    """A host with role `gpu`; its attributes are the functions of the role's code.

    It is shared with others unless the test is marked `ec_destructive`, or the lab file says otherwise. The entry
    `gpu_node:` of `fixtures:` in the lab file can ask for more than the role.
    """
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_one

    host: GpuNode = give_one(request, lab, "gpu_node")  # type: ignore[assignment]  # the role makes the class
    return host


@pytest.fixture(scope=scope_of)
def san_target(request: pytest.FixtureRequest) -> SanTarget:
    """A host with role `san`; its attributes are the functions of the role's code. Nobody else has it meanwhile."""
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_one

    host: SanTarget = give_one(request, lab, "san_target")  # type: ignore[assignment]  # the role makes the class
    return host
