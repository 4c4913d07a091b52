"""The entry of the plugin.  Imported in every pytest run, so it says what there is and leaves the rest for later.

A run without a lab pays for each module, hook, option and plugin that pytest is given.  So the hooks that such a run
needs are here, few of them, and look whether there is anything to do; what does it is imported only then.
Parts of it can be left out by name, as plugins of pytest can: ``-p no:easycluster-collecting``, ``-tracebacks``,
``-farside``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.options import add_options, setting

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Literal

    from easycluster.lab import GpuNode, Host, Hosts, Inventory, Lab, SanTarget
    from pytest_easycluster.subtests import HostChecks

    ScopeName = Literal["session", "package", "module", "class", "function"]

__all__ = ["ec", "ec_host", "ec_inventory", "ec_subtests", "gpu_node", "remote_hosts", "san_target"]

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


# What suites may implement, see `hookspecs`.
HOOKS = tuple(f"pytest_easycluster_{word}" for word in ("lab", "leased", "release", "verdict", "lost"))

COLLECTING, TRACEBACKS, FARSIDE = "easycluster-collecting", "easycluster-tracebacks", "easycluster-farside"
KEYS, REPORT = "easycluster-keys", "easycluster-report"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the command line and the ini file can say."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and read the lab file if there is one."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    # `pytest --help --ec-inventory x` is a question about pytest, not about x.
    if config.getoption("help", False):
        return
    wanted = config.getoption("ec_inventory") or os.environ.get("EC_INVENTORY") or config.getini("ec_inventory")
    if config.getoption("ec_plan"):
        from pytest_easycluster.plan import prepare

        prepare(config, bool(wanted))
    if wanted:
        from pytest_easycluster.session import start

        start(config)
    else:
        for word in ("simulate", "chaos", "record", "replay", "offline"):
            if config.getoption(f"ec_{word}"):
                raise pytest.UsageError(f"--ec-{word} needs a lab file: give --ec-inventory FILE")
    if _is_to_be_reported(config, bool(wanted)):
        from pytest_easycluster.reporting.recorder import start as start_recording

        start_recording(config)


def _is_to_be_reported(config: pytest.Config, has_lab: bool) -> bool:
    """Whether anything is to be written about the run."""
    if config.getoption("collectonly", False) or config.getoption("ec_plan") or _is_left_out(config, REPORT):
        return False
    if setting(config, "report").value or setting(config, "trace").value:
        return True
    return has_lab and bool(os.environ.get("GITHUB_STEP_SUMMARY") or config.getoption("htmlpath", None))


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one item per host of tests marked ``ec_each``, and have keys named as keys are shown everywhere."""
    if "ec_host" in metafunc.fixturenames and not _is_left_out(metafunc.config, COLLECTING):
        from pytest_easycluster.collecting import make_items

        make_items(metafunc)
    if "easycluster.keys" in sys.modules and not metafunc.config.pluginmanager.has_plugin(KEYS):
        from pytest_easycluster.secrets import KeyNames

        metafunc.config.pluginmanager.register(KeyNames(), KEYS)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the report of a file or class into a failure if markers of its tests are faulty."""
    report = yield
    manager = collector.config.pluginmanager
    if any(_is_unknown(manager, name) for name in HOOKS):
        # In a run without a lab, a suite that has a hook for it: pytest would say that there is no such hook.
        from pytest_easycluster import hookspecs

        manager.add_hookspecs(hookspecs)
    if report.passed and not _is_left_out(collector.config, COLLECTING):
        items = [one for one in report.result or () if isinstance(one, pytest.Item) and _concerns_us(one)]
        if items:
            from pytest_easycluster.collecting import judge

            judge(report, items)
    return report


def _is_unknown(manager: pytest.PytestPluginManager, name: str) -> bool:
    """Whether somebody has a hook by this name, and nobody has said that there is one."""
    caller = getattr(manager.hook, name, None)
    return caller is not None and not caller.has_spec()


def _concerns_us(item: pytest.Item) -> bool:
    """Whether a test has a marker of ours, or takes what is no fixture but may be meant to be one of ours."""
    if any(mark.name.startswith("ec_") for mark in item.iter_markers()):
        return True
    names = getattr(item, "fixturenames", ())
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", names)
    return "ec_host" in names or any(name not in known and name != "request" for name in names)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell far sides what this run wishes of them, if anything has imported EasyCluster; see `farside`."""
    if "easycluster.client.client" in sys.modules and not _is_left_out(item.config, FARSIDE):
        from pytest_easycluster.farside import enable

        enable(item.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep our own frames out of what a failure shows, and name in its title the hosts that it happened on."""
    # Not imported, it has no part in the failure.
    if call.excinfo is None or "easycluster" not in sys.modules:
        return (yield)
    if not item.config.getoption("fulltrace") and not _is_left_out(item.config, TRACEBACKS):
        from pytest_easycluster.tracebacks import leave_out_our_own

        leave_out_our_own(call.excinfo.value)
    report = yield
    if report.failed and not _is_left_out(item.config, FARSIDE):
        from pytest_easycluster.farside import hosts_of

        hosts = hosts_of(call.excinfo.value)
        if hosts:
            path, line, title = report.location
            report.location = (path, line, f"{title} on {', '.join(hosts)}")
            report.ec_on = hosts  # type: ignore[attr-defined]  # ours
    return report


def _is_left_out(config: pytest.Config, part: str) -> bool:
    return config.pluginmanager.is_blocked(part)


# Fixtures.  They exist in every run, so that tests which need a lab can say so without one. ---------


def scope_of(fixture_name: str, config: pytest.Config) -> ScopeName:
    """The scope that the lab file gives to a fixture that also exists without one."""
    if "easycluster.lab" not in sys.modules:
        return "function"  # nobody has read a lab file
    from pytest_easycluster.access import find_lab

    lab = find_lab(config)
    scope: ScopeName = "function" if lab is None else lab.inventory.fixtures[fixture_name].scope  # type: ignore[assignment]  # checked when read
    return scope


def _lab_of(request: pytest.FixtureRequest) -> Lab:
    """The lab; without one the test ends here, see :func:`pytest_easycluster.access.need_lab`."""
    from pytest_easycluster.access import need_lab

    return need_lab(request.config)


@pytest.fixture(scope="session")
def ec(request: pytest.FixtureRequest) -> Lab:
    """The lab, for fixtures of one's own.

    `with ec.lease("gpu", count=2) as hosts:` picks hosts, locks them, and sets them back in the end; `ec.hosts` has
    all hosts that this run may use.
    """
    return _lab_of(request)


@pytest.fixture(scope="session")
def ec_inventory(request: pytest.FixtureRequest) -> Inventory:
    """What the lab file says; nothing is connected."""
    return _lab_of(request).inventory


@pytest.fixture
def remote_hosts(request: pytest.FixtureRequest) -> Hosts:
    """The hosts that `@pytest.mark.ec_hosts(...)` asks for, in its order; all hosts without that marker.

    `remote_hosts[0]`, `remote_hosts["gpu01"]` and, for named ones, `remote_hosts["sender"]` are hosts; they can also
    be unpacked and iterated. All hosts of an unmarked test are shared with others, each from its first use on.
    """
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_marked

    return give_marked(request, lab)


@pytest.fixture
def ec_host(request: pytest.FixtureRequest) -> Host:
    """The host of this item of a test marked `@pytest.mark.ec_each("gpu")`, which runs once for each host."""
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_each

    return give_each(request, lab)


@pytest.fixture
def ec_subtests(request: pytest.FixtureRequest) -> HostChecks:
    """Checks what a call on several hosts came to, host by host: each is a subtest from pytest 9 on.

    `ec_subtests(remote_hosts.attempt.driver_version(), check)` fails for each host whose call failed or whose result
    `check` does not accept; `with ec_subtests.host(host):` is for one host.
    """
    from pytest_easycluster.subtests import checks_of

    return checks_of(request)


@pytest.fixture(scope=scope_of)
def gpu_node(request: pytest.FixtureRequest) -> GpuNode:
    """A host with role `gpu`; its attributes are the functions of the role's code.

    It is shared with others unless the test is marked `ec_destructive`, or the lab file says otherwise. The entry
    `gpu_node:` of `fixtures:` in the lab file can ask for more than the role.
    """
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_one

    host: GpuNode = give_one(request, lab, "gpu_node")  # type: ignore[assignment]  # the role makes the class
    return host


@pytest.fixture(scope=scope_of)
def san_target(request: pytest.FixtureRequest) -> SanTarget:
    """A host with role `san`; its attributes are the functions of the role's code, and its target as `san:` has it.

    Nobody else has the host meanwhile; the target is set up when it is first used, and ends with the lease.
    """
    lab = _lab_of(request)
    from pytest_easycluster.giving import give_one

    host: SanTarget = give_one(request, lab, "san_target")  # type: ignore[assignment]  # the role makes the class
    return host


_FOR_PYTEST = [*__all__, *(name for name in globals() if name.startswith("pytest_"))]


def __dir__() -> list[str]:
    """What pytest looks through, more than once, for hooks and fixtures."""
    return _FOR_PYTEST
