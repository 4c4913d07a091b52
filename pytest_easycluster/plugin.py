"""Options, ini values, markers and fixtures.  Imported in every pytest run: everything heavy waits for a lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_easycluster import collecting, farside, guards, leasing, plan, pool, tracebacks
from pytest_easycluster.fixtures import ec, ec_host, ec_inventory, gpu_node, remote_hosts, san_target
from pytest_easycluster.markers import MARKERS
from pytest_easycluster.plan import pytest_cmdline_main

if TYPE_CHECKING:
    import pytest

# The fixtures are here for pytest to find.
__all__ = ["ec", "ec_host", "ec_inventory", "gpu_node", "pytest_cmdline_main", "remote_hosts", "san_target"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the command line and the ini file can say."""
    group = parser.getgroup("easycluster", "labs (EasyCluster)")
    group.addoption(
        "--ec-inventory",
        metavar="FILE",
        action="append",
        default=[],
        help="the lab file: hosts, their roles and how they are reached; without it, tests that need a lab are "
        "skipped. May be given again, later files are laid over earlier ones; hosts:gpu1,ann@gpu2 stands for a file "
        "with these hosts, ansible:FILE is an inventory of Ansible",
    )
    guards.add_options(parser)
    leasing.add_options(parser)
    parser.addini(
        "ec_inventory",
        "the lab file, as --ec-inventory, one a line; relative to this file",
        type="linelist",
        default=[],
    )
    parser.addini(
        "ec_require_inventory",
        "true: without a lab file, tests that need a lab are errors instead of skipped",
        type="bool",
        default=False,
    )
    pool.pytest_addoption(parser)
    plan.pytest_addoption(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that suites may implement."""
    from pytest_easycluster import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and what shortens tracebacks, and read the lab file if there is one."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(tracebacks, "easycluster-tracebacks")
    config.pluginmanager.register(farside, "easycluster-farside")
    config.pluginmanager.register(collecting, "easycluster-collecting")
    wanted = config.getoption("ec_inventory") or config.getini("ec_inventory")
    # `pytest --help --ec-inventory x` is a question about pytest, not about x.
    if wanted and not config.getoption("help", False):
        from pytest_easycluster.session import start

        start(config)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a test that is given a key as keys are shown everywhere: pytest writes out all that is bytes."""
    return repr(val) if type(val).__module__ == "easycluster.keys" else None
