"""Registries: which objects of this side the peer refers to, and which proxies of its objects live here.

References are counted by how often they were *sent*.  A proxy counts how often it was *received*; when it is
collected, that number goes back to the owner, who subtracts it.  So a reference that is under way while an
older one is released keeps its object alive.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple, Union

from easycluster.errors import StaleProxy
from easycluster.objects import exports as rules
from easycluster.objects.proxies import RemoteProxy, proxy_class

__all__ = ["Exports", "Proxies"]


class _Export:
    __slots__ = ("count", "obj", "oid")

    def __init__(self, oid: int, obj: Any) -> None:
        self.oid = oid
        self.obj = obj
        self.count = 0


class Exports:
    """The objects of this side that the peer may refer to; each is held until the peer lets go.

    All methods may be called from any thread.
    """

    type_data = staticmethod(rules.type_data)
    is_uncopyable = staticmethod(rules.is_uncopyable)
    is_native_singleton = staticmethod(rules.is_native_singleton)

    def __init__(self) -> None:
        # Reentrant: a collection of garbage may run __del__, and so another call, inside any of our blocks.
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._by_oid: Dict[int, _Export] = {}
        self._by_id: Dict[int, _Export] = {}

    def export(self, obj: Any) -> int:
        """Return the object's number, from 1, and count that it is sent once more."""
        with self._lock:
            found = self._by_id.get(id(obj))
            if found is None:
                found = _Export(next(self._numbers), obj)
                self._by_id[id(obj)] = self._by_oid[found.oid] = found
            found.count += 1
            return found.oid

    def get(self, oid: int) -> Any:
        """Return the object with this number.

        Raises:
            StaleProxy: If the peer has let go of it.
        """
        try:
            return self._by_oid[oid].obj
        except KeyError:
            raise StaleProxy(f"object {oid} is not held any more where it lived") from None

    def release(self, oid: int, count: int) -> None:
        """Subtract ``count`` references; with the last one the object is let go.  Unknown numbers are ignored."""
        found: Optional[_Export] = None  # outlives the lock: what it holds may run any __del__
        with self._lock:
            found = self._by_oid.get(oid)
            if found is not None:
                found.count -= count
                if found.count <= 0:
                    del self._by_oid[oid]
                    del self._by_id[id(found.obj)]

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            held, self._by_oid, self._by_id = self._by_oid, {}, {}
        held.clear()

    def __len__(self) -> int:
        return len(self._by_oid)


class _ProxyRef(weakref.ref):  # type: ignore[type-arg]  # not subscriptable in Python 3.8
    __slots__ = ("count", "oid")

    count: int
    oid: int


class _Unclaimed:
    """References that were received by nobody."""

    __slots__ = ("count", "oid")

    def __init__(self, oid: int, count: int) -> None:
        self.oid = oid
        self.count = count


class Proxies:
    """The living proxies for objects of the peer: one object, one proxy.

    Attributes:
        dropped: Dead references, oldest first.  Only appended to when a proxy is collected, which may
            happen in any thread at any moment, so that no lock is taken there.
    """

    def __init__(self, connection: Any = None) -> None:
        self.connection = connection
        self.dropped: Deque[Union[_ProxyRef, _Unclaimed]] = deque()
        self._lock = threading.RLock()
        self._by_oid: Dict[int, _ProxyRef] = {}
        # Why the objects are gone, once they are.
        self._gone = ""

    def get(self, oid: int, type_data: str) -> RemoteProxy:
        """Return the proxy for an object and count that a reference to it was received.

        One that arrived before the session ended, and is looked at afterwards, is stale at once.
        """
        with self._lock:
            ref = self._by_oid.get(oid)
            proxy: Optional[RemoteProxy] = None if ref is None else ref()
            if proxy is not None and ref is not None:
                ref.count += 1
                return proxy
            proxy = proxy_class(type_data)(self.connection, oid)
            if self._gone:
                proxy._detach(self._gone)
            ref = _ProxyRef(proxy, self.dropped.append)
            ref.oid, ref.count = oid, 1
            self._by_oid[oid] = ref
            return proxy

    def drop(self, oid: int, count: int) -> None:
        """Have references released that came in a value nobody could take."""
        self.dropped.append(_Unclaimed(oid, count))

    def take_dropped(self) -> List[Tuple[int, int]]:
        """Return (number, count) of the proxies that were collected since, for the owner to release."""
        taken: List[Tuple[int, int]] = []
        if self._gone:
            self.dropped.clear()
        while self.dropped:
            try:
                ref = self.dropped.popleft()
            except IndexError:  # another thread took it
                break
            with self._lock:
                if self._by_oid.get(ref.oid) is ref:
                    del self._by_oid[ref.oid]
            taken.append((ref.oid, ref.count))
        return taken

    def detach_all(self, reason: str = "its connection was closed") -> None:
        """Make every living proxy stale; their objects are gone with the session."""
        with self._lock:
            self._gone = self._gone or reason
            refs = list(self._by_oid.values())
        for ref in refs:
            proxy = ref()
            if proxy is not None:
                proxy._detach(reason)
        self.dropped.clear()

    def __len__(self) -> int:
        return sum(1 for ref in list(self._by_oid.values()) if ref() is not None)
