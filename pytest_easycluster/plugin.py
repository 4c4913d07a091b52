"""The entry of the plugin.  Imported in every pytest run, so it says what there is and leaves the rest for later.

Each module that a run without a lab imports costs it as much as all options do, so hooks that every run has are here.
They look whether there is anything to do, and import only then.  They are three plugins, so that each can be left out:
``-p no:easycluster-collecting``, ``-tracebacks``, ``-farside``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_easycluster.fixtures import ec, ec_host, ec_inventory, gpu_node, remote_hosts, san_target
from pytest_easycluster.options import add_options

if TYPE_CHECKING:
    from collections.abc import Generator

# The fixtures are here for pytest to find.
__all__ = ["ec", "ec_host", "ec_inventory", "gpu_node", "remote_hosts", "san_target"]

MARKERS = (
    (
        "ec_hosts(*roles, count=1, where=None, distinct=(), **named): the hosts that remote_hosts gives the test, such "
        "as ec_hosts('gpu', count=2, where='gpus >= 4', distinct='rack') or, named, ec_hosts(sender='video', "
        "receiver='video') for remote_hosts['sender']; several markers add up, in the order written."
    ),
    "ec_each(role, where=None): run the test once for each host of the role; the test takes ec_host.",
    "ec_shared: the test shares its hosts with others; it must not change them.",
    "ec_destructive: the test needs its hosts to itself, as reboot() and power() do.",
    (
        "ec_devices(gpu=1, ...): the test has so many devices of each of its hosts to itself, any that are free; it "
        "shares the hosts, and ec.devices(host) says which devices these are."
    ),
    "ec_emulated: the test accepts a processor in the place of a GPU; ec_emulated(False): it does not.",
    "ec_lock(*names): hold locks of the whole lab by these names during the test, such as ec_lock('fabric-A').",
    (
        "ec_timeout(test=None, call=None, silence=None, transfer=None, teardown=None, reboot=None): limits for this "
        "test, in seconds or such as '5m'; the words of timeouts: in the lab file."
    ),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the command line and the ini file can say."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that suites may implement."""
    from pytest_easycluster import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Make a plan in one process, where one is asked for."""
    if config.getoption("ec_plan"):
        from pytest_easycluster.plan import prepare

        prepare(config)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and what every run has, and read the lab file if there is one."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(Tracebacks(), "easycluster-tracebacks")
    config.pluginmanager.register(FarSides(), "easycluster-farside")
    config.pluginmanager.register(Collecting(), "easycluster-collecting")
    wanted = config.getoption("ec_inventory") or os.environ.get("EC_INVENTORY") or config.getini("ec_inventory")
    # `pytest --help --ec-inventory x` is a question about pytest, not about x.
    if wanted and not config.getoption("help", False):
        from pytest_easycluster.session import start

        start(config)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a test that is given a key as keys are shown everywhere: pytest writes out all that is bytes."""
    return repr(val) if type(val).__module__ == "easycluster.keys" else None


class Collecting:
    """Looks at what tests ask for; see :mod:`pytest_easycluster.collecting`."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item per host of tests marked ``ec_each``."""
        if "ec_host" in metafunc.fixturenames:
            from pytest_easycluster.collecting import make_items

            make_items(metafunc)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Turn the report of a file or class into a failure if markers of its tests are faulty."""
        report = yield
        if report.passed:
            items = [one for one in report.result or () if isinstance(one, pytest.Item) and _concerns_us(one)]
            if items:
                from pytest_easycluster.collecting import judge

                judge(report, items)
        return report


def _concerns_us(item: pytest.Item) -> bool:
    """Whether a test has a marker of ours, or takes what is no fixture but may be meant to be one of ours."""
    if any(mark.name.startswith("ec_") for mark in item.iter_markers()):
        return True
    names = getattr(item, "fixturenames", ())
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", names)
    return "ec_host" in names or any(name not in known and name != "request" for name in names)


class Tracebacks:
    """Keeps our own frames out of tracebacks; see :mod:`pytest_easycluster.tracebacks`."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Leave our own frames out of what the report shows."""
        # Not imported, it has no part in the failure.
        if call.excinfo is not None and "easycluster" in sys.modules and not item.config.getoption("fulltrace"):
            from pytest_easycluster.tracebacks import leave_out_our_own

            leave_out_our_own(call.excinfo.value)


class FarSides:
    """Tells far sides what this run wishes of them; see :mod:`pytest_easycluster.farside`."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begin, if there is a lab, or test modules have imported EasyCluster."""
        _enable_if_used(session.config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin, if the test before has imported EasyCluster."""
        _enable_if_used(item.config)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Name in the title of a failure the hosts that it happened on."""
        report = yield
        if report.failed and call.excinfo is not None and "easycluster" in sys.modules:
            from pytest_easycluster.farside import hosts_of

            hosts = hosts_of(call.excinfo.value)
            if hosts:
                path, line, title = report.location
                report.location = (path, line, f"{title} on {', '.join(hosts)}")
        return report


def _enable_if_used(config: pytest.Config) -> None:
    # Who reads a lab file has imported the second.
    if "easycluster.client.client" in sys.modules or "easycluster.lab" in sys.modules:
        from pytest_easycluster.farside import enable

        enable(config)
