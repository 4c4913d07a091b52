"""Evidence of failures: collected from a test's hosts before they are set back, and one timeline of all of them.

What a test's report carries in ``ec_evidence`` is plain values, which pytest-xdist can carry::

    {"hosts": {name: {"role", "label"}}, "events": [[t, host, kind, duration, text, level], ...],
     "series": {host: {metric: {"unit", "points": [[t, value], ...]}}}, "clocks": {host: {"offset", "error"}},
     "artifacts": [{"host", "name", "path", "size", "why"}], "artifacts_dir": text}
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from easycluster.errors import SessionError
from easycluster.lab.artifacts import Folder, NoRoom
from easycluster.lab.evidence import NOTHING_NEW, Collected, Collector
from easycluster.lab.ranges import collapse
from easycluster.lab.recorder import ClockTrack, measure_clock, start_recorder
from easycluster.lab.watch import Watch
from easycluster.timeline import Event, Timeline
from pytest_easycluster.again import names_of_hosts
from pytest_easycluster.options import COLLECT, setting

if TYPE_CHECKING:
    from collections.abc import Generator

    from easycluster.lab import Host, Lab

ATTRIBUTE: Final = "ec_evidence"

# Events in a report, and in its failure's text; characters of one; points of counters.
MOST_EVENTS: Final = 3000
MOST_OF_PASSED: Final = 500
LINES: Final = 30
LONGEST: Final = 500
MOST_POINTS: Final = 50_000
# Longer lists of what was collected are cut: the folder has all.
MOST_SHOWN: Final = 40

# Seconds before the test from which kernel lines count: clocks are not that exact.
EARLIER: Final = 0.05


def register(config: pytest.Config, lab: Lab) -> None:
    """Watch the lab, and collect when the options say.

    Raises:
        pytest.UsageError: If one says nonsense.
    """
    found = setting(config, "collect")
    if found.value not in ("", *COLLECT):
        raise pytest.UsageError(f"{found.source} is {found.value!r}; write {', '.join(COLLECT)}")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(), "easycluster-evidence-summary")
    # Of hosts that are not there, it would be this machine's.
    there = lab.simulation is None and not config.getoption("ec_offline")
    if found.value != "never" and (there or found.value):
        config.pluginmanager.register(Evidence(config, lab, found.value), "easycluster-evidence")


class Evidence:
    """Hooks of the process that runs the tests.

    Args:
        config: Of pytest.
        lab: The lab.
        when: When to collect, ``""`` for what the lab file says of each host.
    """

    def __init__(self, config: pytest.Config, lab: Lab, when: str) -> None:
        self._config, self._lab, self._when = config, lab, when
        self._watch = Watch(lab)
        self._clocks: dict[str, ClockTrack] = {}
        self._began = 0.0
        self._phases: list[Event] = []
        self._collected: dict[str, Collected] = {}
        self._folder: Folder | None = None
        for host in lab._every.values():
            host._connection.on_open.append(partial(self._meet, host))
        config.add_cleanup(self._watch.close)

    def _meet(self, host: Host, client: Any) -> None:
        """A host is connected: have it record, and see what its clock says."""
        self._watch.note(host.name, "connected")
        if getattr(type(client), "_ask_keeper", None) is None:
            return
        with contextlib.suppress(SessionError, KeyError):
            self._clocks.setdefault(host.name, ClockTrack()).add(measure_clock(client, 3))
            backend = host._entry.settings.get("gpu", {}).get("backend", "nvidia" if "gpu" in host._entry.roles else "")
            start_recorder(client, nvml=backend == "nvidia")

    # pytest ------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Begin to note what happens."""
        self._began = time.time()
        self._phases, self._collected, self._folder = [], {}, None
        self._watch.begin()
        self._watch.log(True)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Collect if the phase has failed; the fixtures are still there."""
        report = yield
        self._phases.append(Event(call.start, "", "phase", f"{call.when} ({report.outcome})", call.duration))
        hosts = self._hosts(item)
        if hosts and not self._collected:
            wanted = [host for host in hosts if self._is_wanted(host, report)]
            if wanted:
                self._collect(item, report, wanted)
        if report.when == "teardown":
            self._watch.log(False)
            if hosts:
                setattr(report, ATTRIBUTE, self._plain(hosts))
        return report

    def _hosts(self, item: pytest.Item) -> list[Host]:
        """The hosts that a test has used, or was given."""
        names = {*self._watch.touched, *names_of_hosts(item)}
        return [host for name, host in self._lab._every.items() if name in names]

    def _is_wanted(self, host: Host, report: pytest.TestReport) -> bool:
        when = self._when or host._entry.settings.get("artifacts", {}).get("when", "failure")
        return when != "never" and (report.failed or (when == "always" and report.when == "call"))

    def _collect(self, item: pytest.Item, report: pytest.TestReport, hosts: list[Host]) -> None:
        folder = self._folder = Folder(artifacts_of(self._config), item.nodeid)
        mask = self._lab.inventory.mask
        collector = Collector(folder, self._clocks, self._began - EARLIER, mask)
        before = time.time()
        trouble = ""
        try:
            self._collected = collector.collect(hosts)
        except KeyboardInterrupt:
            # The report goes out with what there is, and then the run ends.
            trouble = "it was interrupted"
            item.session.shouldstop = "interrupted while evidence was collected"
            self._collected = {host.name: Collected(host.name, trouble=trouble) for host in hosts}
        timeline = self._timeline()
        try:
            folder.write("", "timeline.txt", (timeline.table(width=2000) + "\n").encode("utf-8", "backslashreplace"))
            folder.write_json("", "timeline.json", timeline.to_plain())
        except (NoRoom, OSError) as exc:
            trouble = f"the timeline could not be kept: {exc}"
        if report.failed:
            text = self._summary(folder, trouble, time.time() - before)
            report.sections.append(("Evidence", text))
            shown = timeline.last(len(timeline), before).folded().last(LINES)
            report.sections.append((self._title(shown), shown.table()))

    def _title(self, timeline: Timeline) -> str:
        title = f"Timeline, the last {len(timeline)} events"
        return f"{title}, hosts' clocks to {timeline.error * 1000:.1f} ms" if timeline.clocks else title

    def _timeline(self) -> Timeline:
        events = [*self._watch.events(self._clocks, self._lab.inventory.mask), *self._phases]
        for one in self._collected.values():
            events += one.events
            if one.artifacts:
                kept = sum(bool(artifact.path) for artifact in one.artifacts)
                events.append(Event(time.time(), one.host, "artifact", f"{kept} files collected", one.seconds))
        return Timeline(events, self._clock_values({event.host for event in events}))

    def _clock_values(self, names: set[str]) -> dict[str, dict[str, float]]:
        return {
            name: {"offset": round(track.offset, 6), "error": round(track.error, 6)}
            for name, track in self._clocks.items()
            if track.seen and name in names
        }

    def _plain(self, hosts: list[Host]) -> dict[str, Any]:
        """What the report carries; bounded, whatever the test did."""
        timeline = self._timeline()
        most = MOST_EVENTS if self._collected else MOST_OF_PASSED
        events = [event.to_plain() for event in timeline.last(most)]
        for event in events:
            event[4] = event[4] if len(event[4]) <= LONGEST else event[4][: LONGEST - 3] + "..."
        if len(timeline) > len(events):
            left_out = f"{len(timeline) - len(events)} earlier events are left out here"
            events.insert(0, [events[0][0], "", "phase", None, left_out, "warning"])
        points = 0
        series: dict[str, Any] = {}
        for name, one in self._collected.items():
            for metric, values in one.series.items():
                points += len(values["points"])
                if points <= MOST_POINTS:
                    series.setdefault(name, {})[metric] = values
        root = self._folder.root if self._folder is not None and self._folder.exists else None
        return {
            "hosts": {host.name: {"role": " ".join(host._entry.roles), "label": host.address} for host in hosts},
            "events": events,
            "series": series,
            "clocks": self._clock_values({host.name for host in hosts}),
            "artifacts": [artifact.to_plain() for one in self._collected.values() for artifact in one.all()],
            "artifacts_dir": str(root) if root is not None else "",
        }

    def _summary(self, folder: Folder, trouble: str, seconds: float) -> str:
        """What was collected and where, and what could not be and why; the same of several hosts in one line."""
        place = str(folder.path) if folder.exists else "nothing could be kept"
        lines = [f"{place} ({seconds:.1f} s)", *([trouble] if trouble else [])]
        found: dict[str, list[str]] = {}
        for name, one in self._collected.items():
            for artifact in [artifact for artifact in one.all() if artifact.why != NOTHING_NEW]:
                parts = [artifact.name, "" if artifact.path else "not kept", artifact.why]
                if artifact.name == "host":
                    parts = [f"nothing could be asked: {one.trouble}"]
                found.setdefault(": ".join(filter(None, parts)), []).append(name)
        # What is there as it should be, in one line for those that have the same.
        whole: dict[str, list[str]] = {}
        for text, names in found.items():
            whole.setdefault(collapse(names), []).append(text)
        for hosts, texts in whole.items():
            good = [text for text in texts if ": " not in text]
            lines += [f"{hosts}: {', '.join(good)}"] if good else []
            lines += [f"{hosts}: {text}" for text in texts if ": " in text]
        if len(lines) > MOST_SHOWN:
            lines[MOST_SHOWN:] = [f"... and {len(lines) - MOST_SHOWN} more"]
        return "\n".join(lines)


def artifacts_of(config: pytest.Config) -> Path:
    """The directory of all artifacts of this run; pytest-xdist's workers have the same."""
    given = setting(config, "artifacts")
    if given.value:
        folder = Path(given.value).expanduser()
        return folder if folder.is_absolute() else config.invocation_params.dir / folder
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None:  # -p no:tmpdir
        return config.rootpath / ".ec-artifacts"
    base: Path = factory.getbasetemp()
    return (base.parent if hasattr(config, "workerinput") else base) / "ec-artifacts"


class Summary:
    """Says at the end where evidence is; runs where reports arrive."""

    def __init__(self) -> None:
        self._tests: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count tests by directory."""
        place = getattr(report, ATTRIBUTE, {}).get("artifacts_dir")
        if place:
            self._tests[place] = self._tests.get(place, 0) + 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line for each directory."""
        for place, count in self._tests.items():
            tests = f"{count} test{'s' if count != 1 else ''}"
            terminalreporter.write_line(f"evidence of {tests}: {place}")
