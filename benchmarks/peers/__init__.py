"""Every peer by name: where its adapter is, which environment runs it, which group it belongs to.

``raw`` and ``floor`` are what no library can do without, ``near`` what is compared in every run, ``main`` libraries of
the same kind, ``more`` other ways of these, ``heavy`` frameworks that bring a cluster, ``commands`` what runs commands
over ssh.  A new peer is a small file here and a line below.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer


@dataclass(frozen=True)
class Entry:
    """A peer.

    Attributes:
        name: What options and results call it.
        label: What tables call it.
        adapter: Module in this folder and class in it.
        environment: A name of :mod:`benchmarks.environment`; ``"here"`` is the Python that runs the command.
        group: See above.
    """

    name: str
    label: str
    adapter: str
    environment: str
    group: str

    @property
    def ours(self) -> bool:
        """Whether it is this library."""
        return self.name.startswith("ours")

    @property
    def over_ssh(self) -> bool:
        """Whether it needs an sshd."""
        return "ssh" in self.name or self.group == "commands"

    def peer(self, settings: dict[str, str]) -> Peer:
        """Return the adapter; only in a child that runs the peer's own environment."""
        module, _, name = self.adapter.partition(".")
        adapter: type[Peer] = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)
        return adapter(settings)


_ROWS = (
    Entry("raw tcp", "raw TCP, bytes", "raw.RawTcp", "here", "raw"),
    Entry("raw pipes", "raw pipes, bytes", "raw.RawPipes", "here", "raw"),
    Entry("raw ssh", "raw bytes through ssh", "raw.RawSsh", "here", "raw"),
    Entry("plain pickle", "plain pickle and a socket", "raw.Plain", "here", "floor"),
    Entry("ours tcp", "this EasyCluster, TCP", "ours.OursTcp", "here", "ours"),
    Entry("ours threaded", "this EasyCluster, ThreadedClient", "ours.OursThreaded", "here", "ours"),
    Entry("ours spawned", "this EasyCluster, spawned", "ours.OursSpawned", "here", "ours"),
    Entry("ours ssh", "this EasyCluster, ssh", "ours.OursSsh", "here", "ours"),
    Entry("original tcp", "EasyCluster 0.22.3, TCP", "original.OriginalTcp", "original", "near"),
    Entry("original threaded", "EasyCluster 0.22.3, ThreadedClient", "original.OriginalThreaded", "original", "main"),
    Entry("original spawned", "EasyCluster 0.22.3, spawned", "original.OriginalSpawned", "original", "near"),
    Entry("original ssh", "EasyCluster 0.22.3, ssh", "original.OriginalSsh", "original", "near"),
    Entry("execnet popen", "execnet channel, popen", "execnet_channel.ExecnetPopen", "here", "near"),
    Entry("execnet ssh", "execnet channel, ssh", "execnet_channel.ExecnetSsh", "here", "near"),
    Entry("manager", "multiprocessing manager", "standard.StandardManager", "here", "main"),
    Entry("connection", "multiprocessing connection", "standard.StandardConnection", "here", "main"),
    Entry("rpyc tcp", "RPyC classic, TCP", "rpyc_classic.RpycTcp", "main", "main"),
    Entry("pyro", "Pyro5, msgpack", "pyro.PyroMsgpack", "main", "main"),
    Entry("mitogen local", "mitogen, local child", "mitogen_context.MitogenLocal", "main", "main"),
    Entry("mitogen ssh", "mitogen, ssh", "mitogen_context.MitogenSsh", "main", "main"),
    Entry("rpyc ssh", "RPyC deployed over ssh", "rpyc_classic.RpycSsh", "main", "more"),
    Entry("pyro serpent", "Pyro5, serpent", "pyro.PyroSerpent", "main", "more"),
    Entry("execnet each", "execnet, remote_exec each", "execnet_channel.ExecnetEach", "here", "more"),
    Entry("zerorpc", "zerorpc", "zerorpc_client.Zerorpc", "zerorpc", "heavy"),
    Entry("ipyparallel", "ipyparallel", "frameworks.Ipyparallel", "cluster", "heavy"),
    Entry("dask actor", "Dask, actor", "frameworks.DaskActor", "cluster", "heavy"),
    Entry("dask task", "Dask, task", "frameworks.DaskTask", "cluster", "heavy"),
    Entry("ray", "Ray, actor", "frameworks.Ray", "ray", "heavy"),
    Entry("ssh", "ssh, one each", "commands.Ssh", "here", "commands"),
    Entry("ssh master", "ssh, ControlMaster", "commands.SshMaster", "here", "commands"),
    Entry("paramiko", "paramiko", "commands.Paramiko", "ssh", "commands"),
    Entry("fabric", "fabric", "commands.Fabric", "ssh", "commands"),
    Entry("asyncssh", "asyncssh", "commands.Asyncssh", "ssh", "commands"),
    Entry("testinfra", "testinfra, ssh", "commands.Testinfra", "ssh", "commands"),
)

ENTRIES = {entry.name: entry for entry in _ROWS}

NEAR = ("raw", "ours", "near")
GROUPS = {
    "near": NEAR,
    "main": (*NEAR, "floor", "main"),
    "heavy": ("heavy",),
    "commands": ("commands",),
    "all": (*NEAR, "floor", "main", "more", "heavy", "commands"),
}


def chosen(text: str) -> list[Entry]:
    """Return the peers that a list of names and groups means, in the order of the table.

    Raises:
        KeyError: For a name that is neither.
    """
    names: set[str] = set()
    for word in (part.strip() for part in text.split(",")):
        if word in GROUPS:
            names |= {entry.name for entry in _ROWS if entry.group in GROUPS[word]}
        else:
            names.add(ENTRIES[word].name)
    return [entry for entry in _ROWS if entry.name in names]
