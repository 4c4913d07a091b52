"""Looks at what tests ask for while they are collected: items for each host, and faults before anything runs.

A fault of a marker is an error of the collection, with its line, and all of a file come together.  So a typo can
neither leave a test out nor let it run with less than it meant; ``--continue-on-collection-errors`` runs other files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.access import NEEDS_LAB, find_lab, why_a_lab_must_be_there
from pytest_easycluster.markers import Fault, close_to, read_marks, wishes_of
from pytest_easycluster.requests import NoHosts, fitting_hosts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.mark.structures import ParameterSet

    from easycluster.lab import Lab, Place
    from pytest_easycluster.markers import Wishes

OUR_FIXTURES = ("ec", "ec_host", "ec_inventory", "remote_hosts", "gpu_node", "san_target")


@dataclass(frozen=True)
class FaultyEach:
    """Stands in for the host of an item whose ``ec_each`` is reported as faulty."""


def make_items(metafunc: pytest.Metafunc) -> None:
    """Make one item per host of a test that takes ``ec_host``."""
    marks = [mark for mark in metafunc.definition.iter_markers() if mark.name == "ec_each"]
    wishes = read_marks(marks[:1])
    lab = find_lab(metafunc.config)
    if wishes.each is None or wishes.faults:
        values = [pytest.param(FaultyEach(), id="faulty")]
    elif lab is None:
        mark = () if why_a_lab_must_be_there(metafunc.config) else pytest.mark.skip(reason=NEEDS_LAB)
        values = [pytest.param(None, id="no-lab", marks=mark)]
    else:
        values = _values(metafunc, wishes, lab)
    metafunc.parametrize("ec_host", values, indirect=True)


def _values(metafunc: pytest.Metafunc, wishes: Wishes, lab: Lab) -> list[ParameterSet]:
    from easycluster.lab import LabRequestError, NoHostFits

    assert wishes.each is not None
    try:
        found = fitting_hosts(lab, wishes.each.need(), metafunc.definition.name)
    except LabRequestError:
        return [pytest.param(FaultyEach(), id="faulty")]
    except NoHostFits as exc:
        return [pytest.param(NoHosts(exc), id="no-host")]
    # A host in quarantine is back one day; until then its item says why it is not run.
    return [
        pytest.param(name, id=name, marks=pytest.mark.skip(reason=f"{name}: {why}") if why else ())
        for name, why in found.items()
    ]


def judge(report: pytest.CollectReport, items: list[pytest.Item]) -> None:
    """Turn the report of a file or class into a failure if markers of its tests are faulty.

    Args:
        report: Changed in place.
        items: Those of its tests that have anything to do with us.
    """
    faulty = [(item, fault) for item in items for fault in faults_of(item)]
    if faulty:
        report.outcome = "failed"
        report.longrepr = rendered(items[0].config, faulty)
        report.result = []


def faults_of(item: pytest.Item) -> Iterator[Fault]:
    """Everything that is wrong with what a test asks for."""
    yield from _unknown_fixtures(item)
    fixtures = getattr(item, "fixturenames", ())
    marks = [mark for mark in item.iter_markers() if mark.name.startswith("ec_")]
    if not marks:
        if "ec_host" in fixtures:
            text = f"{_name(item)} takes ec_host, so it needs a marker such as @pytest.mark.ec_each('gpu')"
            yield Fault(None, text, "ec_host")
        return
    yield from _unknown_markers(item, marks)
    wishes = wishes_of(item)
    yield from wishes.faults
    yield from _unfit(item, wishes, marks)
    lab = find_lab(item.config)
    if lab is not None:
        yield from _unlike_the_lab(lab, wishes)


def _unknown_markers(item: pytest.Item, marks: list[pytest.Mark]) -> Iterator[Fault]:
    known = [str(line).partition(":")[0].partition("(")[0].strip() for line in item.config.getini("markers")]
    for mark in marks:
        if mark.name not in known:
            ours = [name for name in known if name.startswith("ec_")]
            hint = close_to(mark.name, ours) or f"known: {' '.join(ours)}"
            yield Fault(mark, f"unknown marker {mark.name!r}; {hint}")


def _unknown_fixtures(item: pytest.Item) -> Iterator[Fault]:
    """Arguments that pytest would miss later, if one of our fixtures may be meant."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return
    lab = find_lab(item.config)
    ours = [*OUR_FIXTURES, *(lab.inventory.fixtures if lab is not None else ())]
    for name in item.fixturenames:  # type: ignore[attr-defined]  # it has fixtures, so it is a function
        if name != "request" and name not in info.name2fixturedefs:
            hint = close_to(name, ours, cutoff=0.75)
            if hint:
                yield Fault(None, f"{_name(item)} takes {name!r}, which is no fixture; {hint}", name)


def _unfit(item: pytest.Item, wishes: Wishes, marks: list[pytest.Mark]) -> Iterator[Fault]:
    """Markers without the fixture they are for, and the other way round."""
    fixtures = getattr(item, "fixturenames", ())
    own = getattr(item, "own_markers", ())
    for mark in marks:
        if mark.name == "ec_each" and "ec_host" not in fixtures:
            yield Fault(mark, f"{_name(item)} is marked ec_each, so it takes the host as an argument: ec_host")
        # A class may be marked for those of its tests that use the hosts, and a test may ask for fixtures as it runs.
        if mark.name == "ec_hosts" and mark in own and not {"remote_hosts", "request"}.intersection(fixtures):
            yield Fault(mark, f"{_name(item)} is marked ec_hosts, so it takes the hosts as an argument: remote_hosts")
    if "ec_host" in fixtures and not any(mark.name == "ec_each" for mark in marks):
        text = f"{_name(item)} takes ec_host, so it needs a marker such as @pytest.mark.ec_each('gpu')"
        yield Fault(None, text, "ec_host")


def _unlike_the_lab(lab: Lab, wishes: Wishes) -> Iterator[Fault]:
    """What names something that the lab does not have, or is no condition, number or name."""
    from easycluster.lab import LabRequestError, check_need, make_need

    for wanted in [*wishes.hosts, *([wishes.each] if wishes.each else [])]:
        name = wanted.mark.name
        label = wanted.options.get("label", "")
        if label in lab.inventory.hosts:
            text = f"{name}: {label!r} is the name of a host of lab {lab.inventory.name!r}; call it something else"
            yield Fault(wanted.mark, text, f"{label}=")
        # One after the other, so that all of them are known.
        parts: list[tuple[int | str, dict[str, object]]] = [(wanted.at, {})]
        parts += [(key, {key: wanted.options[key]}) for key in ("count", "where", "distinct") if key in wanted.options]
        for at, options in parts:
            try:
                check_need(lab.inventory, make_need(wanted.role, **options))  # type: ignore[arg-type]  # it checks them
            except LabRequestError as exc:
                yield Fault(wanted.mark, f"{name}: {exc}{_option_for(label) if at == wanted.at else ''}", at)
                if at == wanted.at:
                    break  # without its role nothing else can be looked at


def _option_for(label: str) -> str:
    """A hint if the name of a host looks like an option: ``ec_hosts(wher="gpus > 1")``."""
    hint = close_to(label, ("count", "where", "distinct"), 0.75)
    return f"; or {hint}" if hint else ""


def _name(item: pytest.Item) -> str:
    return getattr(item, "originalname", None) or item.name


def rendered(config: pytest.Config, faulty: list[tuple[pytest.Item, Fault]]) -> str:
    """All faults as people read them: place, sentence, and the line with a caret."""
    from easycluster.lab import Problem
    from pytest_easycluster.places import Sources

    sources = Sources(str(config.rootpath))
    problems: dict[tuple[Place, str], Problem] = {}
    for item, fault in faulty:
        argument = fault.at if fault.mark is None and isinstance(fault.at, str) else ""
        place = sources.place(item, fault, argument)
        problems.setdefault((place, fault.text), Problem(place, fault.text))
    ordered = sorted(problems.values(), key=lambda one: one.place)
    texts = [one.render(sources.lines) for one in ordered]
    count = f"{len(texts)} problem{'s' * (len(texts) != 1)}"
    return "\n".join([*texts, f"{count}; no test from here is run and nothing was connected"])
