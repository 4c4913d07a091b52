"""What the fixtures do once there is a lab: pick hosts, connect to them, lease them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.access import end_without_hosts, fail, need_lab
from pytest_easycluster.again import remember
from pytest_easycluster.leasing import lease_chosen, lease_when_used, leased
from pytest_easycluster.markers import wishes_of
from pytest_easycluster.requests import NoHosts, is_unavailable, need_of

if TYPE_CHECKING:
    from types import ModuleType

    from easycluster.lab import FixtureEntry, Host, Hosts, Lab, Need
    from easycluster.lab.holders import Mode


# Hosts by fixture that a test is to have, whatever it would get otherwise: it is repeated on them, see `twin`.
SWAPPED = pytest.StashKey[dict[str, list[str]]]()


def _swapped(request: pytest.FixtureRequest, lab: Lab, needs: list[Need], usually: Mode = "exclusive") -> Hosts | None:
    """The hosts that a repetition is to have, leased; None if it has a choice."""
    names = request.node.stash.get(SWAPPED, {}).get(str(request.fixturename))
    if names is None:
        return None
    from easycluster.lab import Hosts

    labels = [need.label for need in needs for _ in range(need.count)]
    hosts = Hosts(lab.only(*names), labels if len(labels) == len(names) else ())
    return noted(request, leased(request, lab, hosts, usually=usually))


def give_marked(request: pytest.FixtureRequest, lab: Lab) -> Hosts:
    """The hosts that ``ec_hosts`` asks for; without it all, each leased when the test first uses it."""
    wishes = wishes_of(request.node)
    if wishes.faults:  # of a marker that was added after the collection
        fail("\n".join(fault.text for fault in wishes.faults))
    if not wishes.hosts:
        return lease_when_used(request, lab, lab.hosts)
    needs = [wanted.need() for wanted in wishes.hosts]
    swapped = _swapped(request, lab, needs)
    if swapped is not None:
        return swapped
    return noted(request, lease_chosen(request, lab, needs, name_of_test(request)))


def give_each(request: pytest.FixtureRequest, lab: Lab) -> Host:
    """The host of one item of a test marked ``ec_each``."""
    name = getattr(request, "param", None)
    if isinstance(name, NoHosts):
        end_without_hosts(request.config, name.error)
    if not isinstance(name, str):
        fail("ec_host is only there for tests marked ec_each")
    swapped = _swapped(request, lab, [])
    return (swapped if swapped is not None else noted(request, leased(request, lab, lab.only(name))))[0]


def give_one(request: pytest.FixtureRequest, lab: Lab, name: str) -> Host:
    """The host of ``gpu_node`` or ``san_target``."""
    return lab_fixture(request, lab, name)[0]


def lab_fixture(request: pytest.FixtureRequest, lab: Lab, name: str) -> Hosts:
    """The hosts of one entry of the lab file's ``fixtures:``, connected."""
    entry = lab.inventory.fixtures[name]
    if is_unavailable(lab, entry):
        pytest.skip(f"{name}: lab {lab.inventory.name!r} has no role {entry.role!r}")
    usually: Mode = "shared" if name == "gpu_node" else "exclusive"
    swapped = _swapped(request, lab, [need_of(entry)], usually)
    if swapped is not None:
        return swapped
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
        hosts = lab_fixture(request, need_lab(request.config), entry.name)
        return hosts if entry.count > 1 else hosts[0]

    what = f"{entry.count} hosts" if entry.count > 1 else "A host"
    condition = f" where {entry.where}" if entry.where is not None else ""
    fixture.__name__ = entry.name
    if entry.place is not None:
        # So `pytest --fixtures` says where it comes from.
        fixture.__module__ = entry.place.file
        fixture.__code__ = fixture.__code__.replace(
            co_filename=os.path.abspath(entry.place.file), co_firstlineno=entry.place.line
        )
    fixture.__doc__ = entry.description or f"{what} with role `{entry.role}`{condition}."
    return pytest.fixture(scope=entry.scope, name=entry.name)(fixture)  # type: ignore[call-overload]  # checked when read
