"""``--ec-chaos``: faults come in the middle of tests, and the summary says what verdict each test had."""

from __future__ import annotations

import os
import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from easycluster.lab.chaos import Chaos, ChaosError, Firing, PlannedFault, read_chaos
from easycluster.lab.runfolder import run_folder
from pytest_easycluster.options import setting
from pytest_easycluster.verdicts import CRASHED, LOST, verdict_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from easycluster.lab import Lab

# A fault that was asked for has never come, so that the run has not shown what it was to show.
NEVER_FIRED: Final = 17

# Where what came hangs on a report: plain values, which pytest-xdist can carry.
ATTRIBUTE: Final = "ec_chaos"
_KEY: Final = "easycluster_chaos"

# What a test may come to that meets such a fault; whatever else it is, the suite takes the lab for the product.
_RIGHT: Final = {
    "drop": ("PASSED", LOST),
    "kill": ("PASSED", CRASHED),
    "crash": ("PASSED", CRASHED),
    "reboot": ("PASSED", CRASHED, LOST),
}


def begin(config: pytest.Config, lab: Lab) -> None:
    """Read the list and register what lets its faults come.

    Raises:
        pytest.UsageError: If something of it cannot be understood.
    """
    said = setting(config, "chaos")
    try:
        faults = read_chaos(said.value, lab.inventory)
    except ChaosError as exc:
        caret = f"\n  {exc.text}\n  {' ' * exc.position}{'^' * exc.width}"
        raise pytest.UsageError(f"{said.source}: {exc}{caret}") from None
    given = getattr(config, "workerinput", {}).get(_KEY)
    seed, folder = given if given is not None else (_seed(config), str(run_folder("chaos")))
    if given is None:
        config.add_cleanup(partial(_remove, folder))
    chaos = Chaos(lab, faults, seed, partial(_claim, folder))
    config.add_cleanup(chaos.close)
    config.pluginmanager.register(ChaosRun(chaos, seed, folder), "easycluster-chaos")


def _seed(config: pytest.Config) -> int:
    said = setting(config, "chaos-seed")
    if not said.value:
        return random.SystemRandom().randrange(1_000_000)
    if not said.value.isdecimal():
        raise pytest.UsageError(f"{said.source}: {said.value!r} is no number of 0 or more")
    return int(said.value)


def _claim(folder: str, number: int) -> bool:
    """Whether a fault is ours to let come: among the workers of pytest-xdist it comes once."""
    try:
        os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _remove(folder: str) -> None:
    for path in Path(folder).glob("*"):
        path.unlink()
    Path(folder).rmdir()


class ChaosRun:
    """Hooks of a run with faults on purpose.

    Args:
        chaos: Lets them come.
        seed: Of random ones.
        folder: Where processes of a run claim faults.
    """

    def __init__(self, chaos: Chaos, seed: int, folder: str) -> None:
        self._chaos = chaos
        self._seed = seed
        self._folder = folder
        self._fired: list[Firing] = []
        # The worst of each test so far.
        self._words: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker of pytest-xdist the same seed and claims."""
        node.workerinput[_KEY] = (self._seed, self._folder)

    def pytest_report_header(self) -> list[str]:
        """Say that this is no ordinary run."""
        count = len(self._chaos.faults)
        return [f"lab: CHAOS: {count} fault{'s' * (count != 1)} on purpose; --ec-chaos-seed={self._seed}"]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count the test, and know its name."""
        names = (item.name, getattr(item, "originalname", None) or item.name, item.nodeid)
        self._chaos.begin_test(item.nodeid, names)
        try:
            return (yield)
        finally:
            self._chaos.end_test()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hang what came on the report, and say it there."""
        report = yield
        fired = self._chaos.take_fired()
        if fired:
            setattr(report, ATTRIBUTE, [asdict(one) for one in fired])
            report.sections.append(("Chaos", "\n".join(map(_described, fired))))
            item.user_properties += [("ec_chaos", _described(one)) for one in fired]
            report.user_properties = list(item.user_properties)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what came, and what became of the test."""
        self._fired += [Firing(**one) for one in getattr(report, ATTRIBUTE, ())]
        verdict = verdict_of(report)
        word = verdict.word if verdict is not None else report.outcome.upper()
        if hasattr(report, "wasxfail"):
            word = "XFAILED" if report.skipped else "XPASSED"
        if word != "PASSED" or report.nodeid not in self._words:
            self._words.setdefault(report.nodeid, word)
            if self._words[report.nodeid] == "PASSED":
                self._words[report.nodeid] = word

    def _missed(self) -> list[PlannedFault]:
        """Faults that never came, though they were to come for sure."""
        came = {one.fault for one in self._fired if not one.problem}
        return [one for one in self._chaos.faults if one.chance is None and one.text not in came]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that has not broken what it was to break has shown nothing."""
        if hasattr(session.config, "workerinput"):
            return
        known = (pytest.ExitCode.OK, 16)
        if self._missed() and session.exitstatus in known and not session.config.getoption("collectonly"):
            session.exitstatus = NEVER_FIRED

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Say of each fault when it came and what came of it."""
        if exitstatus in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR):
            return
        terminalreporter.write_sep("=", "chaos")
        for one in self._fired:
            terminalreporter.write_line(_described(one), red=bool(one.problem))
            if one.problem:
                continue
            word = self._words.get(one.test, "")
            wrong = one.what in _RIGHT and word not in _RIGHT[one.what]
            blame = f": wrong, for {one.what} is no fault of the product" if wrong else ""
            terminalreporter.write_line(f"  {word or 'outside of tests'} {one.test}{blame}".rstrip(), red=wrong)
        for fault in self._missed():
            terminalreporter.write_line(f"{fault.text}: never came", red=True)
        random_ones = [one for one in self._chaos.faults if one.chance is not None]
        if random_ones:
            came = sum(one.fault in {fault.text for fault in random_ones} for one in self._fired)
            terminalreporter.write_line(f"random faults came {came} times; again with --ec-chaos-seed={self._seed}")


def _described(one: Firing) -> str:
    where = f"call {one.number}, {one.call}" if one.number else f"in {one.call}" if one.call else "between calls"
    failed = f"; could not be done: {one.problem}" if one.problem else ""
    return f"{one.fault}: {one.what} of {one.host} at {one.after:.1f} s, {where}{failed}"
