"""Verdicts: whose fault a failure is.  A product fault fails; a host that is gone, or taken, is an error of the lab.

CRASHED   the far-side worker died while its host answers, or the host rebooted unasked   failed
LOST      the host does not answer                                                      error
BUSY      the host, or devices of it, were not to be had                                error

What is found here travels with the report, from workers of pytest-xdist too; :mod:`pytest_easycluster.tally` counts.
"""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from easycluster.devices.gpu import GpuBusy
from easycluster.errors import ConnectError, EasyClusterError, StaleProxy, WorkerDied
from easycluster.lab import HostBusy, is_loss
from easycluster.lab.losses import way_out

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from easycluster.lab import Aftermath, Lab

CRASHED: Final = "CRASHED"
LOST: Final = "LOST"
BUSY: Final = "BUSY"

# Where a verdict hangs on a report: plain values, which pytest-xdist can carry.
ATTRIBUTE: Final = "ec_verdict"
REBOOTS: Final = "ec_reboots"

_SEEN = pytest.StashKey[set[str]]()

# Of a host's last output; all of it is in the error.
_LAST_LINES: Final = 5

# How old a remembered error is differs from test to test, and is not what is wrong.
_AGE: Final = re.compile(r" \(tried \d+ s ago; [^)]*\)")


@dataclass(frozen=True)
class HostFault:
    """What became of one host.

    Attributes:
        host: Its name in the lab file.
        address: What was connected to.
        what: What happened, in which call, and what became of the host; one line, equal ones are folded.
        details: Last output, ssh's words, the kernel's log: lines for the summary.
    """

    host: str
    address: str
    what: str
    details: str = ""

    @property
    def line(self) -> str:
        """All but the details."""
        where = f" ({self.address})" if self.address not in ("", self.host) else ""
        return f"{self.host}{where}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one phase of a test.

    Attributes:
        word: ``CRASHED``, ``LOST`` or ``BUSY``.
        faults: The hosts it is about.
    """

    word: str
    faults: list[HostFault] = field(default_factory=list)

    @property
    def line(self) -> str:
        """One line that says it all."""
        return f"{self.word} " + "; ".join(fault.line for fault in self.faults)

    @property
    def hosts(self) -> list[str]:
        """Names of the hosts."""
        return [fault.host for fault in self.faults]


def verdict_of(report: object) -> Verdict | None:
    """The verdict that a report carries, None if it is an ordinary one."""
    data = getattr(report, ATTRIBUTE, None)
    if data is None:
        return None
    return Verdict(data["word"], [HostFault(**fault) for fault in data["faults"]])


def errors_behind(exc: BaseException) -> list[EasyClusterError]:
    """The errors about hosts that an exception comes down to; none if anything else has part in it."""
    told = getattr(exc, "easycluster_cause", None)
    if isinstance(told, BaseException):
        return errors_behind(told)
    if isinstance(exc, BaseExceptionGroup):
        parts = [errors_behind(part) for part in exc.exceptions]
        return [error for part in parts for error in part] if all(parts) else []
    # Of a host that has no name here nothing can be said.
    if is_loss(exc) or isinstance(exc, (WorkerDied, StaleProxy, HostBusy)) or (isinstance(exc, GpuBusy) and exc.host):
        assert isinstance(exc, EasyClusterError)
        return [exc]
    # Said by `raise ... from`; an error that merely came while another was handled is a fault of its own.
    return errors_behind(exc.__cause__) if exc.__cause__ is not None else []


class Judge:
    """Finds the verdicts, in the process that runs the tests."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        # Hosts whose connections were lost in this run: handles from before are stale because of that.
        self._lost: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Let each test start with connections that work, or with none."""
        self.lab.drop_lost()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hang the verdict on the report."""
        report = yield
        if call.excinfo is not None and (report.failed or hasattr(report, "wasxfail")):
            self._judge(item, call.excinfo.value, report)
        reboots = self.lab.take_reboots()
        if reboots:
            setattr(report, REBOOTS, reboots)
        return report

    def _judge(self, item: pytest.Item, exc: BaseException, report: pytest.TestReport) -> None:
        errors = [error for error in errors_behind(exc) if not self._is_plain_stale(error)]
        if not errors or len(errors) < len(errors_behind(exc)):
            return
        lost = {_host(error) for error in errors if is_loss(error) and not isinstance(error, ConnectError)}
        after = self.lab.after_losses(lost)
        self._lost |= lost
        seen = item.stash.setdefault(_SEEN, set())
        hosts = {_host(error) for error in errors}
        if all(host in after and after[host].expected for host in hosts):
            _let_pass(report, f"{', '.join(sorted(hosts))} was lost, as expected")
            return
        if report.when == "teardown" and hosts <= seen:
            _let_pass(report, f"{', '.join(sorted(hosts))} was gone already: {exc}")
            return
        seen |= hosts
        verdict = Verdict(_word(errors, after), [self._fault(error, after.get(_host(error))) for error in errors])
        self._write(item, report, verdict)
        for host, what in after.items():
            if what.rebooted:
                report.sections.append((f"Kernel log of {host} before it rebooted", self._mask(what.kernel_log)))

    def _is_plain_stale(self, error: EasyClusterError) -> bool:
        """Whether a handle is stale for another reason than that its host was lost."""
        return isinstance(error, StaleProxy) and error.host not in self._lost

    def _write(self, item: pytest.Item, report: pytest.TestReport, verdict: Verdict) -> None:
        if verdict.word != CRASHED and hasattr(report, "wasxfail"):
            # What the test says about the product was not seen.
            del report.wasxfail
            report.outcome = "failed"
        if not report.failed:
            return
        setattr(report, ATTRIBUTE, {"word": verdict.word, "faults": [asdict(fault) for fault in verdict.faults]})
        for name, value in (("ec_verdict", verdict.word), ("ec_hosts_at_fault", " ".join(verdict.hosts))):
            item.user_properties.append((name, value))
        report.user_properties = list(item.user_properties)
        item.ihook.pytest_easycluster_verdict(
            config=item.config, item=item, report=report, word=verdict.word, hosts=verdict.hosts
        )
        for fault in verdict.faults if verdict.word == LOST else ():
            item.ihook.pytest_easycluster_lost(config=item.config, host=fault.host, reason=fault.what)

    def _fault(self, error: EasyClusterError, after: Aftermath | None) -> HostFault:
        name = _host(error)
        entry = self.lab.inventory.hosts.get(name)
        address = str(entry.target) if entry is not None else ""
        what, details = _describe(error)
        if after is not None:
            what += _became(name, after)
        return HostFault(name, address, self._mask(what), self._mask(details))

    def _mask(self, text: str) -> str:
        return self.lab.inventory.mask(text)


def _host(error: EasyClusterError) -> str:
    return str(getattr(error, "host", ""))


def _word(errors: Iterable[EasyClusterError], after: dict[str, Aftermath]) -> str:
    if any(isinstance(error, WorkerDied) for error in errors) or any(one.rebooted for one in after.values()):
        return CRASHED
    return LOST if any(is_loss(error) or isinstance(error, StaleProxy) for error in errors) else BUSY


def _describe(error: EasyClusterError) -> tuple[str, str]:
    """What happened, and what else there is to say."""
    if isinstance(error, ConnectError):
        return _without_host(_AGE.sub("", error.message), error.host), error.details.strip()
    what = str(getattr(error, "reason", error)).removesuffix(f"; {way_out(_host(error))}")
    if isinstance(error, WorkerDied) and error.signal == signal.SIGKILL:
        what += " (out of memory?)"
    call, elapsed = getattr(error, "call", ""), getattr(error, "elapsed", None)
    if call:
        what += f", {elapsed:.0f} s into {call}" if elapsed is not None else f", in {call}"
    last = str(getattr(error, "last_output", "")).strip().splitlines()[-_LAST_LINES:]
    return what, "\n".join(f"last output: {line}" for line in last)


def _without_host(words: str, host: str) -> str:
    """The words without the host's name, and perhaps its address, before them."""
    return re.sub(rf"^{re.escape(host)}( \([^)]*\))?: ", "", words)


def _became(host: str, after: Aftermath) -> str:
    if after.rebooted:
        return "; came back with another boot id, which nobody had asked for"
    if after.answers:
        return "; answers again"
    return f"; still gone: {_without_host(after.trouble.splitlines()[0], host)}" if after.trouble else ""


def _let_pass(report: pytest.TestReport, why: str) -> None:
    """A loss that is no news: expected, or told in an earlier phase."""
    if hasattr(report, "wasxfail"):
        del report.wasxfail
    report.outcome = "passed"
    report.longrepr = None
    report.sections.append(("EasyCluster", why))
