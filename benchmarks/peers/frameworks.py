"""The frameworks that bring a cluster with them: ipyparallel, Dask and Ray.  One engine, worker or actor each."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FAR, Peer, Session, home

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("add", "size", "process_id", "keep", "kept", "forget", "nap", "resident", "peak")


def known_everywhere() -> None:
    """Let this process and all it starts import the functions."""
    os.environ["PYTHONPATH"] = home()
    sys.path.insert(0, str(FAR))


def actor_class() -> type:
    """Return a class whose methods are the far-side functions; its code travels, so it stands alone."""

    def method(name: str) -> Any:
        return lambda self, *args: getattr(importlib.import_module("bench_far"), name)(*args)

    return type("Far", (), {"value": 42, **{name: method(name) for name in NAMES}})


class IpySession(Session):
    """A view of the first engine."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.view = client[0]
        self.module = importlib.import_module("bench_far")

    def call(self, name: str, *args: Any) -> Any:
        return self.view.apply_sync(getattr(self.module, name), *args)

    def start(self, name: str, *args: Any) -> Any:
        return self.view.apply_async(getattr(self.module, name), *args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [each.get() for each in started]

    def close(self) -> None:
        self.client.close()


class Ipyparallel(Peer):
    """A controller and an engine; to connect is to start a client of the running cluster."""

    imports = "ipyparallel"

    def serve(self) -> None:
        known_everywhere()
        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=1, log_level=40)
        self.cluster.start_cluster_sync()
        self.stack.callback(self.cluster.stop_cluster_sync)

    def open(self) -> IpySession:
        client = self.cluster.connect_client_sync()
        client.wait_for_engines(1, timeout=20)
        return IpySession(client)


class DaskSession(Session):
    """An actor on the worker."""

    def __init__(self, address: str) -> None:
        from dask.distributed import Client

        self.client = Client(address)
        self.actor = self.client.submit(actor_class(), actor=True, pure=False).result()

    def call(self, name: str, *args: Any) -> Any:
        return self.start(name, *args).result()

    def start(self, name: str, *args: Any) -> Any:
        return getattr(self.actor, name)(*args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [each.result() for each in started]

    def attribute(self) -> int:
        result: int = self.actor.value
        return result

    def close(self) -> None:
        self.client.close()


class TaskSession(Session):
    """Tasks through the scheduler."""

    def __init__(self, address: str) -> None:
        from dask.distributed import Client

        self.client = Client(address, set_as_default=False)
        self.module = importlib.import_module("bench_far")

    def call(self, name: str, *args: Any) -> Any:
        return self.start(name, *args).result()

    def start(self, name: str, *args: Any) -> Any:
        return self.client.submit(getattr(self.module, name), *args, pure=False)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return list(self.client.gather(started))

    def close(self) -> None:
        self.client.close()


class DaskActor(Peer):
    """A cluster of one worker process."""

    imports = "distributed"
    session: type[Session] = DaskSession

    def serve(self) -> None:
        known_everywhere()
        from dask.distributed import LocalCluster

        self.cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
        self.stack.callback(self.cluster.close)

    def open(self) -> Session:
        return self.session(self.cluster.scheduler_address)  # type: ignore[call-arg]  # each of ours takes an address


class DaskTask(DaskActor):
    """The same, a task for each call."""

    imports = ""
    session = TaskSession


class RaySession(Session):
    """An actor."""

    def __init__(self) -> None:
        import ray

        self.ray = ray
        self.actor = ray.remote(actor_class()).options(num_cpus=0).remote()

    def call(self, name: str, *args: Any) -> Any:
        return self.ray.get(self.start(name, *args))

    def start(self, name: str, *args: Any) -> Any:
        return getattr(self.actor, name).remote(*args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return list(self.ray.get(list(started)))

    def close(self) -> None:
        self.ray.kill(self.actor)


class Ray(Peer):
    """An actor a session; large values lie in memory that is shared, not on a link."""

    imports = "ray"

    def serve(self) -> None:
        known_everywhere()
        import ray

        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=1 << 30, log_to_driver=False)
        self.stack.callback(ray.shutdown)

    def open(self) -> RaySession:
        return RaySession()
