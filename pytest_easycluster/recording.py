"""``--ec-record`` and ``--ec-replay``: calls with their answers, written down and held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from easycluster.lab.recording import Recorder, Recording, RecordingError, Replayer, header
from easycluster.lab.runfolder import run_folder
from pytest_easycluster.options import setting

if TYPE_CHECKING:
    from collections.abc import Generator

    from easycluster.lab import Inventory, Lab

# What was different, as plain values that pytest-xdist can carry; and how many answers there were.
ATTRIBUTE: Final = "ec_changed"
COMPARED: Final = "ec_compared"
_KEY: Final = "easycluster_recordings"
MOST_SHOWN: Final = 20


def offline(config: pytest.Config, inventory: Inventory) -> Lab:
    """A lab that a recording answers for.

    Raises:
        pytest.UsageError: Without a recording.
    """
    from easycluster.lab.offline import offline_lab

    if not setting(config, "replay").value:
        raise pytest.UsageError("--ec-offline needs a recording: give --ec-replay FILE")
    for word in ("simulate", "chaos", "record"):
        if config.getoption(f"ec_{word}"):
            raise pytest.UsageError(f"--ec-offline reaches no host, so it does not go with --ec-{word}")
    return offline_lab(inventory)


def begin(config: pytest.Config, lab: Lab) -> None:
    """Have calls written down, or held against what was.

    Raises:
        pytest.UsageError: If a file cannot be used.
    """
    record, replay = setting(config, "record"), setting(config, "replay")
    if replay.value:
        try:
            recording = Recording.read(replay.value)
        except RecordingError as exc:
            raise pytest.UsageError(f"{replay.source}: {exc}") from None
        globs = [one.strip() for one in setting(config, "replay-ignore").value.split(",") if one.strip()]
        is_offline = bool(config.getoption("ec_offline"))
        replayer = Replayer(
            recording, lab.inventory.mask, tolerance=_tolerance(config), ignore=globs, offline=is_offline
        )
        config.pluginmanager.register(Replay(lab, replayer, is_offline), "easycluster-replay")
    # After the other was read: it may be the same file.
    if record.value:
        config.pluginmanager.register(Record(config, lab, record.value), "easycluster-record")


def _tolerance(config: pytest.Config) -> float:
    said = setting(config, "replay-tolerance")
    if not said.value:
        return 0.0
    try:
        share = float(said.value.removesuffix("%")) / (100.0 if said.value.endswith("%") else 1.0)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 1.0:
        raise pytest.UsageError(f"{said.source}: {said.value!r} is no share; write 5% or 0.05")
    return share


class Record:
    """Hooks of a run that is recorded.  Workers of pytest-xdist write parts, which their controller joins.

    Args:
        config: Of pytest.
        lab: Whose calls.
        path: The file.

    Raises:
        pytest.UsageError: If it cannot be written.
    """

    def __init__(self, config: pytest.Config, lab: Lab, path: str) -> None:
        self._path = Path(path)
        self._lab = lab
        self._parts: Path | None = None
        folder = getattr(config, "workerinput", {}).get(_KEY)
        worker = getattr(config, "workerinput", {}).get("workerid", "")
        try:
            where = Path(folder, worker) if folder is not None else self._path
            self._file = where.open("w", encoding="utf-8")  # until the run ends
        except OSError as exc:
            raise pytest.UsageError(f"--ec-record: {path} cannot be written: {exc.strerror}") from None
        config.add_cleanup(self._file.close)
        if folder is None:
            self._file.write(header(lab.inventory.name))
        self._recorder = Recorder(self._file, lab.inventory.mask)
        self._leave = lab.observe(self._recorder)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist where its part goes."""
        if self._parts is None:
            self._parts = run_folder("record")
        node.workerinput[_KEY] = str(self._parts)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know the test."""
        self._recorder.test = item.nodeid
        try:
            return (yield)
        finally:
            self._recorder.test = ""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write down what is left."""
        self._leave()
        self._recorder.finish()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Join the parts of workers."""
        for part in sorted(self._parts.iterdir()) if self._parts is not None else ():
            self._file.write(part.read_text(encoding="utf-8"))
            part.unlink()
        self._file.flush()
        if self._parts is not None:
            self._parts.rmdir()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where it is."""
        what = f"{self._recorder.count} calls" if self._parts is None else "the calls of all workers"
        terminalreporter.write_line(f"lab: recorded {what} in {self._path}; hold a run against it with --ec-replay")


class Replay:
    """Hooks of a run that is held against a recording.

    Args:
        lab: Whose calls.
        replayer: Holds them against it.
        is_offline: Whether it answers them.
    """

    def __init__(self, lab: Lab, replayer: Replayer, is_offline: bool) -> None:
        self._replayer = replayer
        self._is_offline = is_offline
        self._leave = lab.observe(replayer)
        # The first of each test, and how many there were.
        self._changes: dict[str, tuple[str, int]] = {}
        self._compared = 0
        self._seen = 0

    def pytest_report_header(self) -> list[str]:
        """Say what it is held against."""
        recording = self._replayer.recording
        when = f"{recording.name} of {recording.at}"
        if self._is_offline:
            return [f"lab: OFFLINE: the answers come from {when}; no host is reached"]
        return [f"lab: answers are held against {when}"]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know the test."""
        self._replayer.test = item.nodeid
        try:
            return (yield)
        finally:
            self._replayer.test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show the first answer that changed in the test."""
        report = yield
        changes = self._replayer.take_changes()
        compared, self._seen = self._replayer.compared - self._seen, self._replayer.compared
        setattr(report, COMPARED, compared)
        if changes:
            first = changes[0]
            name = self._replayer.recording.name
            where = f", {name}:{first.line}" if first.line else ""
            lines = [f"{first.host}: {first.call}{where}", *(f"  {line}" for line in first.lines)]
            more = len(changes) - 1
            lines += [f"({more} more answer{'s' * (more != 1)} of this test changed)"] if more else []
            report.sections.append(("Changed since the recording", "\n".join(lines)))
            setattr(report, ATTRIBUTE, ["\n".join(lines), len(changes)])
            item.user_properties.append(("ec_changed", "; ".join(lines)))
            report.user_properties = list(item.user_properties)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect; in the controller of pytest-xdist, too."""
        self._compared += getattr(report, COMPARED, 0)
        text, count = getattr(report, ATTRIBUTE, ("", 0))
        if text:
            before = self._changes.get(report.nodeid)
            self._changes[report.nodeid] = (text, count) if before is None else (before[0], before[1] + count)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show what changed first in each test."""
        if self._is_offline:
            terminalreporter.write_line(f"lab: OFFLINE: all answers came from {self._replayer.recording.name}")
            return
        changed = sum(count for _text, count in self._changes.values())
        terminalreporter.write_sep("=", "changed since the recording", yellow=bool(changed))
        for number, (test, (text, _count)) in enumerate(self._changes.items()):
            if number == MOST_SHOWN:
                terminalreporter.write_line(f"... and {len(self._changes) - number} more tests")
                break
            terminalreporter.write_line(test)
            for line in text.splitlines():
                terminalreporter.write_line(f"  {line}")
        terminalreporter.write_line(f"{self._compared} answers were compared, {changed} changed")

    def pytest_sessionfinish(self) -> None:
        """Ask no more."""
        self._leave()
