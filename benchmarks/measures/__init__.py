"""Every measure by name: what it is, who is measured by it, and which figures must come.

A measure is a function of a peer that leaves figures in a :class:`benchmarks.measures.base.Taken`.  It runs in a child
process of its own for each peer and round.  A new one is a function and a line below.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers import ENTRIES, Entry

if TYPE_CHECKING:
    from benchmarks.measures.base import Taken
    from benchmarks.peers.base import Peer

# Who can be asked for what.
RPC = tuple(entry.name for entry in ENTRIES.values() if entry.group != "commands")
EVERYBODY = tuple(ENTRIES)
NO_RAW = tuple(entry.name for entry in ENTRIES.values() if entry.group not in ("raw", "floor"))
OURS = tuple(entry.name for entry in ENTRIES.values() if entry.ours)
SPEAKING = tuple(name for name in RPC if not name.startswith("raw"))


@dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
        name: What ``--only`` and results call it.
        title: What tables call it.
        function: Module in this folder and function in it.
        peers: Who can be asked.
        rounds: How often at most; what is repeated within itself is measured less often.
        parts: What our own rows must have: a part without a figure is an error, unless it says why.
        core: Whether it is measured if nobody says what.
        alone: Whether only we are asked then.
    """

    name: str
    title: str
    function: str
    peers: tuple[str, ...]
    rounds: int
    parts: tuple[str, ...]
    core: bool = False
    alone: bool = True

    def run(self, peer: Peer, taken: Taken) -> None:
        """Measure a peer; only in a child that runs the peer's own environment."""
        module, _, name = self.function.partition(".")
        getattr(importlib.import_module(f"benchmarks.measures.{module}"), name)(peer, taken)

    def asks(self, entry: Entry) -> bool:
        """Whether a peer is measured by it."""
        return entry.name in self.peers


SCALE_SIZES = ("ours tcp", "ours spawned", "ours ssh", "plain pickle", "raw tcp", "execnet popen", "manager", "pyro")
SCALE_THREADS = ("ours tcp", "ours threaded", "execnet popen", "manager", "original threaded", "rpyc tcp")
SSH_SESSIONS = ("raw ssh", "ours ssh", "execnet ssh")
IMPORTED = (
    *("ours tcp", "original tcp", "execnet popen", "manager", "rpyc tcp", "pyro", "mitogen local", "zerorpc"),
    *("ipyparallel", "dask actor", "ray", "paramiko", "fabric", "asyncssh", "testinfra"),
)
STREAMING = ("ours tcp", "ours spawned", "ours ssh", "original tcp", "rpyc tcp")

_STEPS = tuple(f"up{count}" for count in (1, 2, 4, 8, 16, 32))

_ROWS = (
    Measure(
        "calls", "Synchronous calls", "calls.run", EVERYBODY, 9, ("one", "two", "attribute"), core=True, alone=False
    ),
    Measure(
        "many", "Many calls", "many.run", SPEAKING, 5, ("nonblocking", "batch", "shared", "own", "floor"), core=True
    ),
    Measure(
        "floors",
        "Below a call",
        "floors.run",
        ("ours tcp",),
        9,
        ("bytes", "pickle", "tags", "frames", "client", "turns", "ownpickle", "owntags"),
    ),
    Measure("connect", "Connecting", "connect.run", NO_RAW, 1, ("cold",), core=True),
    Measure("memory", "Memory of the far side", "held.run_memory", SPEAKING, 1, ("memory",), core=True),
    Measure("import", "Importing", "start.run_import", IMPORTED, 1, ("import",), core=True),
    Measure("plugin", "The plugin without a lab", "start.run_plugin", ("ours tcp",), 1, ("plugin",), core=True),
    Measure("bulk", "64 MiB", "bulk.run", RPC, 2, ("send_bytes", "fetch_bytes", "send_array", "fetch_array")),
    Measure(
        "values",
        "Values of many objects",
        "values.run",
        SPEAKING,
        2,
        tuple(f"{way}_{kind}" for kind in ("ints", "records", "objects") for way in ("send", "fetch")),
    ),
    Measure("gathered", "One call to eight hosts", "fleet.run_gathered", SPEAKING, 1, ("gathered",)),
    Measure("up", "Many ssh hosts at once", "fleet.run_up", SSH_SESSIONS, 1, _STEPS),
    Measure("files", "Files over ssh", "flows.run_files", ("ours ssh",), 1, ("put", "get")),
    Measure("output", "A million lines of output", "flows.run_output", ("raw pipes", *OURS), 1, ("output",)),
    Measure("stream", "A stream of 100,000 items", "flows.run_stream", STREAMING, 1, ("stream",)),
    Measure(
        "sizes",
        "Size of a value",
        "flows.run_sizes",
        SCALE_SIZES,
        1,
        ("size100", "size1000", "size10000", "size100000"),
    ),
    Measure(
        "threads", "Number of threads", "flows.run_threads", SCALE_THREADS, 1, ("threads1", "threads2", "threads4")
    ),
    Measure("held", "Number of sessions", "held.run_held", ("ours spawned",), 1, ("held1", "held4")),
)

MEASURES = {measure.name: measure for measure in _ROWS}


def chosen(text: str) -> list[Measure]:
    """Return the measures that a list of names, ``core`` or ``all`` means, in the order of the table.

    Raises:
        KeyError: For a name that is none.
    """
    names: set[str] = set()
    for word in (part.strip() for part in text.split(",")):
        if word in ("all", "core"):
            names |= {measure.name for measure in _ROWS if measure.core or word == "all"}
        else:
            names.add(MEASURES[word].name)
    return [measure for measure in _ROWS if measure.name in names]
