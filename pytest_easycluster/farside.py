"""What this run of pytest wishes of far sides: asserts that explain themselves, logs, local variables, debuggers.

A plugin of its own, which costs nothing before something imports EasyCluster's clients; with
``-p no:easycluster-farside`` far sides are left as they are without pytest.
"""

from __future__ import annotations

from functools import partial

import pytest

ENABLED = pytest.StashKey[bool]()

# Characters of a local variable's repr: with --showlocals, and with -vv as well.
SHORT, LONG = 240, 10_000


def hosts_of(exc: BaseException) -> list[str]:
    """Names of the hosts that an exception, or any of a group, was raised on."""
    found: list[str] = []
    for each in (exc, *getattr(exc, "exceptions", ())):
        traceback = each.__traceback__
        while traceback is not None:
            host = traceback.tb_frame.f_globals.get("__easycluster_host__")
            if isinstance(host, str) and host not in found:
                found.append(host)
            traceback = traceback.tb_next
    return found


def enable(config: pytest.Config) -> None:
    """Tell this process's far sides what this run wishes of them."""
    if config.stash.get(ENABLED, False):
        return
    config.stash[ENABLED] = True
    from easycluster.client.debugger import open_debuggers
    from easycluster.client.logs import bring_logs
    from easycluster.client.wishes import wish
    from easycluster.definitions import rewrite_with
    from easycluster.far.asserts import set_explainer
    from pytest_easycluster.asserts import explain, longest_repr, make_rewriting
    from pytest_easycluster.debugging import FarDebugging, PytestConsole

    if config.getoption("assertmode", "plain") == "rewrite":
        rewrite_with(make_rewriting())
        set_explainer(explain(config))
        config.add_cleanup(partial(rewrite_with, None))
        config.add_cleanup(partial(set_explainer, None))
        wish("longest_repr", longest_repr(config))
    if config.getoption("showlocals", False):
        wish("locals", LONG if config.get_verbosity() >= 2 else SHORT)
    if config.pluginmanager.hasplugin("logging-plugin"):
        bring_logs()
    console = PytestConsole(config)
    debugging = FarDebugging(console)
    config.pluginmanager.register(debugging, "easycluster-debugging")
    if config.getoption("usepdb", False):
        debugging.take_over(config)
    open_debuggers(console, keep_failures=bool(config.getoption("usepdb", False)))
