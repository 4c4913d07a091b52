"""The fixtures.  They exist in every run, so that tests which need a lab can say so without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.access import end_without_hosts, fail, find_lab, need_lab
from pytest_easycluster.again import remember
from pytest_easycluster.leasing import lease_chosen, lease_when_used, leased

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Literal

    from easycluster.lab import FixtureEntry, GpuNode, Host, Hosts, Inventory, Lab, SanTarget
    from easycluster.lab.holders import Mode

    ScopeName = Literal["session", "package", "module", "class", "function"]


def scope_of(fixture_name: str, config: pytest.Config) -> ScopeName:
    """The scope that the lab file gives to a fixture that also exists without one."""
    lab = find_lab(config)
    scope: ScopeName = "function" if lab is None else lab.inventory.fixtures[fixture_name].scope  # type: ignore[assignment]  # checked when read
    return scope


@pytest.fixture(scope="session")
def ec(request: pytest.FixtureRequest) -> Lab:
    """The lab: `ec.lease("gpu", count=2)` for wider fixtures of one's own, `ec.hosts`."""
    return need_lab(request.config)


@pytest.fixture(scope="session")
def ec_inventory(request: pytest.FixtureRequest) -> Inventory:
    """What the lab file says; nothing is connected."""
    return need_lab(request.config).inventory


@pytest.fixture
def remote_hosts(request: pytest.FixtureRequest) -> Hosts:
    """The hosts that `ec_hosts` asks for, in its order; all hosts without that marker."""
    from pytest_easycluster.markers import wishes_of

    wishes = wishes_of(request.node)
    if wishes.faults:  # of a marker that was added after the collection
        fail("\n".join(fault.text for fault in wishes.faults))
    lab = need_lab(request.config)
    if not wishes.hosts:
        return lease_when_used(request, lab, lab.hosts)
    needs = [wanted.need() for wanted in wishes.hosts]
    return noted(request, lease_chosen(request, lab, needs, name_of_test(request)))


@pytest.fixture
def ec_host(request: pytest.FixtureRequest) -> Host:
    """The one host of this item of a test marked `ec_each`."""
    from pytest_easycluster.requests import NoHosts

    lab = need_lab(request.config)
    name = getattr(request, "param", None)
    if isinstance(name, NoHosts):
        end_without_hosts(request.config, name.error)
    if not isinstance(name, str):
        fail("ec_host is only there for tests marked ec_each")
    return noted(request, leased(request, lab, lab.only(name)))[0]


@pytest.fixture(scope=scope_of)
def gpu_node(request: pytest.FixtureRequest) -> GpuNode:
    """A host with role `gpu`; its attributes are the functions of the role's code."""
    host: GpuNode = lab_fixture(request, "gpu_node")[0]  # type: ignore[assignment]  # the role makes the class
    return host


@pytest.fixture(scope=scope_of)
def san_target(request: pytest.FixtureRequest) -> SanTarget:
    """A host with role `san`; its attributes are the functions of the role's code."""
    host: SanTarget = lab_fixture(request, "san_target")[0]  # type: ignore[assignment]  # the role makes the class
    return host


def lab_fixture(request: pytest.FixtureRequest, name: str) -> Hosts:
    """The hosts of one entry of the lab file's ``fixtures:``, connected."""
    from pytest_easycluster.requests import is_unavailable, need_of

    lab = need_lab(request.config)
    entry = lab.inventory.fixtures[name]
    if is_unavailable(lab, entry):
        pytest.skip(f"{name}: lab {lab.inventory.name!r} has no role {entry.role!r}")
    usually: Mode = "shared" if name == "gpu_node" else "exclusive"
    return noted(request, lease_chosen(request, lab, [need_of(entry)], name_of_test(request), usually=usually))


def name_of_test(request: pytest.FixtureRequest) -> str:
    """What the quarantine list knows the test by; a fixture for several tests has none."""
    return request.node.name if request.scope == "function" else ""


def noted(request: pytest.FixtureRequest, hosts: Hosts) -> Hosts:
    """Put the hosts' names where reports find them."""
    if request.scope == "function":
        request.node.user_properties.append((f"ec_hosts[{request.fixturename}]", " ".join(hosts.names)))
    remember(request.node, str(request.fixturename), hosts.names)
    return hosts


def make_fixtures(entries: list[FixtureEntry], module: ModuleType) -> None:
    """Add a fixture for each entry to ``module``, which pytest then takes as a plugin."""
    for entry in entries:
        setattr(module, entry.name, _make_fixture(entry))


def _make_fixture(entry: FixtureEntry) -> object:
    def fixture(request: pytest.FixtureRequest) -> Host | Hosts:
        hosts = lab_fixture(request, entry.name)
        return hosts if entry.count > 1 else hosts[0]

    what = f"{entry.count} hosts" if entry.count > 1 else "A host"
    condition = f" where {entry.where}" if entry.where is not None else ""
    fixture.__name__ = entry.name
    fixture.__doc__ = entry.description or f"{what} with role `{entry.role}`{condition} ({entry.place})."
    return pytest.fixture(scope=entry.scope, name=entry.name)(fixture)  # type: ignore[call-overload]  # checked when read
