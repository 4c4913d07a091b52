"""The entry of the plugin.  Imported in every pytest run, so it says what there is and leaves the rest for later."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_easycluster.always import PLUGINS
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
    for name, plugin in PLUGINS.items():
        config.pluginmanager.register(plugin(), name)
    wanted = config.getoption("ec_inventory") or os.environ.get("EC_INVENTORY") or config.getini("ec_inventory")
    # `pytest --help --ec-inventory x` is a question about pytest, not about x.
    if wanted and not config.getoption("help", False):
        from pytest_easycluster.session import start

        start(config)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a test that is given a key as keys are shown everywhere: pytest writes out all that is bytes."""
    return repr(val) if type(val).__module__ == "easycluster.keys" else None
