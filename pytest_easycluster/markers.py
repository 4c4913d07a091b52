"""What the markers of a test ask for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_easycluster.access import NEEDS_LAB, fail, find_lab

if TYPE_CHECKING:
    from easycluster.lab import Lab, Need


@dataclass(frozen=True)
class Wanted:
    """One role of one ``ec_hosts``, as the test wrote it; :meth:`checked` needs the library."""

    marker: str
    role: str
    options: dict[str, Any]

    def checked(self) -> Need:
        """The need; a malformed one is an error of the test."""
        from easycluster.lab import LabRequestError, make_need

        try:
            return make_need(self.role, **self.options)
        except LabRequestError as exc:
            message = f"{self.marker}: {exc}"
        fail(message)


@dataclass(frozen=True)
class NoHosts:
    """Stands in for the host of an ``ec_each`` item when the lab has none; the item becomes an error."""

    message: str


def needs_of(node: pytest.Item) -> list[Wanted]:
    """What the ``ec_hosts`` markers of a test ask for: those of outer scopes first, each scope's as written."""
    # iter_markers() goes outwards and, within one function or class, from the last decorator to the first.
    markers = list(node.iter_markers("ec_hosts"))[::-1]
    return [wanted for marker in markers for wanted in _wanted(marker, ("count", "where", "distinct"))]


def _wanted(marker: pytest.Mark, known: tuple[str, ...]) -> list[Wanted]:
    for name in marker.kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {' '.join(known)}"
            fail(f"{marker.name}: unknown argument {name!r}; {hint}")
    if not marker.args or not all(isinstance(role, str) and role for role in marker.args):
        fail(f"{marker.name}: the name of a role is wanted, as in {marker.name}('gpu')")
    return [Wanted(marker.name, role, dict(marker.kwargs)) for role in marker.args]


def repeat_on_each(metafunc: pytest.Metafunc) -> None:
    """Parametrize ``ec_host`` with the hosts that ``ec_each`` asks for."""
    marker = metafunc.definition.get_closest_marker("ec_each")
    name = metafunc.definition.name
    if marker is None:
        fail(f"{name} takes ec_host, so it needs a marker such as @pytest.mark.ec_each('gpu')")
    if "ec_host" not in metafunc.fixturenames:
        fail(f"{name} is marked ec_each, so it takes the host as an argument: ec_host")
    wanted = _wanted(marker, ("where",))
    if len(wanted) != 1:
        fail("ec_each: one role is wanted, as in ec_each('gpu')")
    lab = find_lab(metafunc.config)
    if lab is None:
        mark = () if metafunc.config.getini("ec_require_inventory") else pytest.mark.skip(reason=NEEDS_LAB)
        metafunc.parametrize("ec_host", [pytest.param(None, id="no-lab", marks=mark)], indirect=True)
        return
    found = _hosts_for(lab, wanted[0], name)
    if isinstance(found, NoHosts):
        metafunc.parametrize("ec_host", [pytest.param(found, id="no-host")], indirect=True)
    else:
        metafunc.parametrize("ec_host", found, ids=found, indirect=True)


def _hosts_for(lab: Lab, wanted: Wanted, test: str) -> list[str] | NoHosts:
    """Names of the hosts that fit, in the order of the lab file."""
    from easycluster.lab import LabRequestError, NoHostFits

    need = wanted.checked()
    try:
        return lab.fitting(need, test).names
    except (LabRequestError, NoHostFits) as exc:
        return NoHosts(str(exc))
