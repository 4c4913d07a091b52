"""What it costs before anything is done: the import of a library, and our plugin in a pytest run without a lab."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.measures.connect import milliseconds
from benchmarks.peers.base import Unsupported

if TYPE_CHECKING:
    from benchmarks.measures.base import Taken
    from benchmarks.peers.base import Peer


# Neighbours of one another; their medians are compared.
TIMES = 15


def importing(peer: Peer, taken: Taken) -> dict[str, float]:
    """Start Python with the import, and without, in turn."""
    without: list[float] = []
    imported: list[float] = []
    for _ in range(min(TIMES, taken.options.connects) + 1):
        for code, times in (("pass", without), (f"import {peer.imports}", imported)):
            command = [sys.executable, "-c", code]
            times.append(milliseconds(lambda: subprocess.run(command, stdin=subprocess.DEVNULL, check=True)))  # noqa: B023
    beside, middle = statistics.median(without[1:]), statistics.median(imported[1:])
    return {"more_ms": middle - beside, "ms": middle, "floor_ms": beside}


def run_import(peer: Peer, taken: Taken) -> None:
    """Measure the import."""
    taken.part("import", lambda: importing(peer, taken))


def plugin_cost(taken: Taken) -> dict[str, float]:
    """Measure the plugin, in processor time."""
    import os

    if not hasattr(os, "wait4"):
        raise Unsupported("this system does not say what a process used")
    from benchmarks import plugin

    costs = plugin.measure(min(plugin.ROUNDS, taken.options.connects))
    return {"more_ms": costs.cost, "ms": costs.with_it, "floor_ms": costs.without, "listed_ms": costs.listed}


def run_plugin(_peer: Peer, taken: Taken) -> None:
    """Measure the plugin."""
    taken.part("plugin", lambda: plugin_cost(taken))
