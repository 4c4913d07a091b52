"""Measure one peer in this interpreter and print one JSON line; ``python -m benchmarks`` starts it.

By hand: ``python worker.py PEER MEASURE '{"seconds": 0.5, ...}'``.  It is run as a script, by the interpreter of the
peer, and finds the rest of this folder by its own path: EasyCluster 0.22.3 and we have the same import name and must
never meet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def find_ourselves() -> None:
    """Make this folder the package ``benchmarks``, without its parent on the path."""
    if "benchmarks" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "benchmarks", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def main(peer_name: str, measure_name: str, settings: dict[str, Any]) -> None:
    """Measure and print; what a peer prints goes to stderr."""
    find_ourselves()
    from benchmarks.measures import MEASURES
    from benchmarks.measures.base import Options, Taken
    from benchmarks.peers import ENTRIES

    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        options = Options.of(settings)
        taken = Taken(options)
        measure, entry = MEASURES[measure_name], ENTRIES[peer_name]
        try:
            measure.run(entry.peer(options.ssh or {}), taken)
        except Exception as exc:  # noqa: BLE001  # whatever a peer raises is what the table says
            # Not SystemExit: EasyCluster 0.22.3 forks its local far side out of this very process.
            taken.note_failure("", exc)
        result.write(json.dumps(taken.as_json()) + "\n")
        result.flush()
        # Everything is said: a peer's threads that do not end must not hold the next one up.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
