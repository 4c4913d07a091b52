"""Fixtures get leases: their hosts are locked, and set back and let go when the fixture ends."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_easycluster.access import connect, fail, select
from pytest_easycluster.again import names_of_hosts
from pytest_easycluster.options import LEAKS, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from easycluster.lab import Host, Hosts, Lab, Need
    from easycluster.lab.holders import Mode
    from easycluster.lab.lease import Lease
    from easycluster.lab.releases import Failure, Release

# What user_properties, which pytest-xdist carries and JUnit shows, call a leftover.
LEFT = "ec_left_behind"
# The same on a report, each with the test that left it.
ATTRIBUTE = "ec_left"
FOUND = pytest.StashKey[list[tuple[str, str]]]()

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def register(config: pytest.Config, lab: Lab) -> None:
    """Tell the lab's leases what the options say.

    Raises:
        pytest.UsageError: If one says nonsense.
    """
    leases = lab.leases
    leases.wait = _span(config, leases.wait)
    leases.label = setting(config, "lock-owner").value
    leases.enabled = not config.getoption("ec_no_lock")
    leases.tell = partial(_tell, config)
    found = setting(config, "leaks")
    if found.value not in ("", *LEAKS):
        raise pytest.UsageError(f"{found.source} is {found.value!r}; write {', '.join(LEAKS)}")
    config.pluginmanager.register(Leases(lab), "easycluster-leases")


def _span(config: pytest.Config, default: float) -> float:
    given = setting(config, "wait")
    if not given.value:
        return default
    match = _SPAN.match(given.value.strip())
    if match is None:
        raise pytest.UsageError(f"{given.source}: {given.value!r} is no span; write 90s, 20m or 0")
    return float(match.group(1)) * _UNITS[match.group(2)]


def _tell(config: pytest.Config, line: str) -> None:
    """Write a line to the terminal at once, past what captures output."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        sys.stderr.write(f"\nlab: {line}\n")
        return
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"\nlab: {line}\n")
        sys.stderr.flush()


def leased(
    request: pytest.FixtureRequest, lab: Lab, hosts: Hosts, *, usually: Mode = "exclusive", shared: bool = False
) -> Hosts:
    """Connect to hosts and lease them for a fixture's scope, as the test's markers and the lab file say.

    Args:
        request: Of the fixture.
        lab: The lab.
        hosts: Which.
        usually: How they are locked if neither says anything.
        shared: Whether the fixture shares them as if the test were marked ``ec_shared``.
    """
    connect(lab, hosts)
    return _take(request.node, request.addfinalizer, lab, hosts, usually, shared)


def lease_chosen(
    request: pytest.FixtureRequest, lab: Lab, needs: list[Need], test: str, *, usually: Mode = "exclusive"
) -> Hosts:
    """Choose hosts and lease them: those leased already first, then free ones; if none is free, whichever is next.

    Whether a host is free is seen by asking for it, so no more hosts are connected than are needed to find out.
    """

    def pick(busy: list[str]) -> Hosts:
        return connect(lab, select(request.config, lab, needs, test, avoid=busy))

    return _take(request.node, request.addfinalizer, lab, pick([]), usually, False, instead=pick)


def lease_when_used(request: pytest.FixtureRequest, lab: Lab, hosts: Hosts) -> Hosts:
    """Lease each host, shared, when the test first uses it: it may have all of the lab and need two."""

    def before(host: Host) -> None:
        try:
            _take(request.node, request.addfinalizer, lab, lab.only(host.name), "shared", True)
        except BaseException:
            # The next use is none with a lease, either.
            host._connection.before_use = partial(before, host)
            raise

    def forget() -> None:
        for host in hosts:
            host._connection.before_use = None

    request.addfinalizer(forget)
    for host in hosts:
        host._connection.before_use = partial(before, host)
    return hosts


def _locks_of(node: Any) -> list[str]:
    return [str(name) for mark in node.iter_markers("ec_lock") for name in mark.args]


def _devices_of(node: Any) -> dict[str, int | None]:
    """How many devices of which kind the test's markers ask for; of two markers the inner one counts."""
    from pytest_easycluster.markers import read_marks

    marks = list(node.iter_markers("ec_devices"))
    return dict(read_marks(reversed(marks)).devices)


def _take(
    node: Any,
    add_finalizer: Callable[[Callable[[], object]], None],
    lab: Lab,
    hosts: Hosts,
    usually: Mode,
    shared: bool,
    instead: Callable[[list[str]], Hosts] | None = None,
) -> Hosts:
    """Take a lease of hosts, or of those that ``instead`` gives where others have them; it ends with the fixture."""
    from easycluster.errors import EasyClusterError

    label = lab.leases.label or str(getattr(node, "nodeid", "")) or "a test session"
    devices = _devices_of(node)
    is_shared = shared or node.get_closest_marker("ec_shared") is not None
    if devices:
        is_shared = True
    elif usually == "shared" and not is_shared:
        # A gpu_node is shared, its GPUs are not.
        devices = {"gpu": None}
    try:
        lease = lab.leases.take(
            hosts,
            instead=instead,
            shared=is_shared,
            destructive=node.get_closest_marker("ec_destructive") is not None,
            usually=usually,
            locks=_locks_of(node),
            label=label,
            devices=devices,
        )
    except EasyClusterError as exc:
        cause = exc
    else:
        add_finalizer(partial(_release, node, lease))
        if len(lease.hosts):
            node.ihook.pytest_easycluster_leased(config=node.config, node=node, hosts=lease.hosts)
        return lease.hosts
    fail(lab.inventory.mask(str(cause)), cause)


def _release(node: Any, lease: Lease) -> None:
    try:
        if len(lease.hosts):
            node.ihook.pytest_easycluster_release(config=node.config, node=node, hosts=lease.hosts)
    finally:
        release = lease.release()
        report(node, release)
    if release.failures:
        fail(_lines(release.failures))
    if release.leftovers and setting(node.config, "leaks").value == "error":
        fail("left behind:\n" + "\n".join(f"  {one}" for one in release.leftovers))


def _lines(failures: list[Failure]) -> str:
    return "\n".join(f"{one}{_indented(one.output)}" for one in failures)


def report(node: Any, release: Release) -> None:
    """Have the reports say what was left, and by which test."""
    if setting(node.config, "leaks").value == "off":
        return
    item = getattr(node.session, "_easycluster_item", node)
    for one in release.leftovers:
        item.user_properties.append((LEFT, str(one)))
        item.stash.setdefault(FOUND, []).append((one.since or item.nodeid, f"{one.host}: {one.kind} {one.what}"))


def _indented(text: str) -> str:
    return "".join(f"\n    {line}" for line in text.rstrip().splitlines())


class Leases:
    """Collects what tests left behind, and names the tests in the summary.

    Args:
        lab: The lab.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        # By test.
        self._found: dict[str, list[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """See what a test finds: which of its hosts it must not use; and take its ``ec_lock`` if nothing else did."""
        self._lab.leases.begin_test()
        result = yield
        for name in names_of_hosts(item):
            refusal = self._lab.only(name)[0]._connection.refusal
            if refusal is not None:
                fail(self._lab.inventory.mask(str(refusal)), refusal)
        # A test that leases no hosts itself has those of wider fixtures, or none.
        locks = _locks_of(item)
        if locks and not self._lab.leases.has(locks):
            _take(item, item.addfinalizer, self._lab, self._lab.only(), "shared", True)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Note whose reports get what is found now, and set back the hosts that stay leased for other tests."""
        item.session._easycluster_item = item  # type: ignore[attr-defined]  # ours
        failures: list[Failure] = []
        try:
            result = yield
        finally:
            failures = self._lab.leases.end_test(item.nodeid, names_of_hosts(item))
        if failures:
            fail(self._lab.inventory.mask(_lines(failures)))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hang what was found on the report."""
        report = yield
        found = item.stash.get(FOUND, [])
        if found and report.when == "teardown":
            setattr(report, ATTRIBUTE, [list(one) for one in found])
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what tests left; in the controller of pytest-xdist, too."""
        for test, text in getattr(report, ATTRIBUTE, ()):
            self._found.setdefault(test, []).append(text)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the tests."""
        if self._found:
            terminalreporter.section("left behind on hosts", yellow=True)
            for test, left in self._found.items():
                terminalreporter.write_line(test)
                for one in left:
                    terminalreporter.write_line(f"  {one}")
