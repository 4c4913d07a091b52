"""What the near side wishes of this worker beyond calls, and may change at any time.

A near side without wishes costs nothing: no module is imported for them and nothing is hooked in.  The wishes are one
dictionary, told before the call that follows (:mod:`easycluster.client.wishes`)::

    "locals"          characters of each local variable's repr that failures bring along, 0 for no locals
    "longest_repr"    characters that asserts show of each value, None for all
    "log_levels"      levels of the near side's loggers by name, see easycluster.far.logs; None to leave logging alone
    "debugger"        True if breakpoint() may open on the near side's terminal
    "keep_failures"   True to keep what failures refer to, for a debugger that comes later

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

if TYPE_CHECKING:
    from types import ModuleType

    from easycluster.far.worker import Worker

__all__ = ["after_import", "fulfil"]


def fulfil(worker: Worker, wishes: Dict[str, Any]) -> None:
    """Do from now on what the near side wishes."""
    from easycluster.far import asserts
    from easycluster.wire import tracebacks

    length = int(wishes.get("locals") or 0)
    if length:
        from easycluster.far.variables import LocalVariables

        tracebacks.show_locals(lambda: LocalVariables(length))
    else:
        tracebacks.show_locals(None)
    asserts.configure(wishes.get("longest_repr", 240))
    levels = wishes.get("log_levels")
    if levels is not None:
        from easycluster.far import logs

        logs.follow(worker, levels)
    if wishes.get("debugger"):
        from easycluster.far import debugger

        debugger.install(worker, keep_failures=bool(wishes.get("keep_failures")))


def after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """Change a module of the standard library: now if it is there, else as soon as somebody imports it."""
    present = sys.modules.get(name)
    if present is not None:
        change(present)
    else:
        sys.meta_path.insert(0, _Once(name, change))


class _Once:
    """A finder that waits for one module, and is gone afterwards."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._change = change

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        """Return how to load the module, which is changed once it has run."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            loader, run = spec.loader, spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self._change(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
