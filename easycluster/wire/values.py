"""Values: how arguments and results cross, by value or by reference.

A value is one pickle (protocol 5) and a list of *buffers* that travel beside it, uncopied.  Three kinds of
global are ours inside such a pickle; everything else is plain pickle::

    peer_object(oid, type_data)   the sender owns the object: the receiver makes, or finds, its proxy
    own_object(oid)               the sender holds a proxy: the receiver finds its own object
    obtain_cloudpickle()          code by value follows; first thing in the stream

``type_data`` is a text that says what the proxy's class is made from, see :mod:`easycluster.objects.exports`.
A pickle that holds *persistent ids* (references to native lists and the like) has one byte 0x93 after its
STOP opcode; any other pickle ends with STOP, ``.``.

How it is fast: a value of builtin types is one call of ``pickle.dumps``.  Protocol 5 writes every global
with the opcode STACK_GLOBAL, 0x93, so a pickle without this byte holds no reference, no class and no
function, and nothing needs to be looked at or prepared; with it, or above 64 KiB, the slower checks run.
A ``Pickler`` with ``reducer_override`` takes three times as long and is used only where plain pickle fails,
where code goes by value, or once a type is registered that plain pickle would copy.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import pickle
import sys
from _thread import get_ident
from typing import Any, Callable, Optional, Sequence, Tuple, Type, Union

from easycluster.errors import EasyClusterError, SerializationError
from easycluster.wire.faults import FaultFinder, describe_code, first_words
from easycluster.wire.pickling import (
    BULK,
    CodeFound,
    CodeInside,
    Notes,
    PersistentUnpickler,
    at_dump,
    at_load,
    by_value_pickler,
    careful_pickler,
    dumping,
    keep,
    note,
    notes_of,
    own_object,
    peer_object,
    required,
    set_bulk_apart,
)

__all__ = ["BULK", "PeerInfo", "Values", "dumping", "this_python"]

# STACK_GLOBAL, see the module docstring.
_GLOBAL = 0x93

# Stands for the pickle where plain pickle failed, so that the one look for 0x93 finds this out too.
_FAILED = b"\x93"

Buffers = Sequence[memoryview]
Python = Tuple[str, int, int, int]


class PeerInfo:
    """What the hello told about the other end.

    Attributes:
        host: The peer as messages name it.
        python: Its (implementation, major, minor, bytecode magic), None until the hello came.
    """

    __slots__ = ("host", "python")

    def __init__(self, host: str = "the peer", python: Optional[Python] = None) -> None:
        self.host = host
        self.python = python


def this_python() -> Python:
    """Return (implementation, major, minor, bytecode magic) of this interpreter."""
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little")
    return sys.implementation.name, sys.version_info[0], sys.version_info[1], magic


class Values:
    """Turns values into bytes and back for one end of one session.

    Args:
        exports: The objects of this end that the peer may refer to, with ``export(obj) -> oid``,
            ``get(oid)``, ``release(oid, count)``, ``type_data(obj)`` and ``is_uncopyable(obj)``.
        proxies: The proxies of this end for objects of the peer, with ``get(oid, type_data)``.
        connection: What a proxy of this session has as ``_connection``; its ``peername`` is used in messages.
        peer: What is known of the peer; assign :attr:`peer` anew after the hello.
        copies_server_objects: True on the near side: its own server objects are copied, as EasyCluster
            always did; only callbacks, generators, files and modules go by reference.

    Attributes:
        peer: See above.
        obtain_cloudpickle: Returns the module ``cloudpickle``; replaced where it must be fetched first.
    """

    def __init__(
        self,
        exports: Any,
        proxies: Any,
        connection: Any,
        *,
        peer: Optional[PeerInfo] = None,
        copies_server_objects: bool = False,
    ) -> None:
        self.exports = exports
        self.proxies = proxies
        self.connection = connection
        self.peer = peer or PeerInfo()
        self.copies_server_objects = copies_server_objects
        self.obtain_cloudpickle: Callable[[], Any] = _import_cloudpickle
        # Bulk arguments are noticed by the size of a pickle that already copied them.  After one, this many
        # values are searched for bulk before they are pickled; a search each time would cost 0.2 us a call.
        self._wary = 0

    def dumps(self, obj: Any, name: Union[str, Sequence[str]] = "value") -> Tuple[bytes, Buffers]:
        """Pickle a value for the peer.

        Args:
            obj: The value.
            name: What a message calls it; for a tuple, one name for each element.

        Returns:
            The pickle, and buffers of at least ``BULK`` bytes that go beside it.  The buffers are views of
            the caller's own objects: send or copy them before the caller goes on.

        Raises:
            SerializationError: If the value cannot cross, with the path to what cannot.  It is a TypeError.
            StaleProxy: If it holds a proxy of an earlier connection.
        """
        ident = get_ident()
        if required or self._wary or ident in at_dump:
            return self._dumps_carefully(obj, name)
        try:
            at_dump[ident] = self
            data = _dumps(obj, 5, buffer_callback=keep)
        except Exception:  # noqa: BLE001  # whatever it is, the careful way gives the error
            data = _FAILED
        except BaseException:
            self._take_back(notes_of.pop(ident, None))
            raise
        finally:
            at_dump.pop(ident, None)
        if _GLOBAL in data or len(data) >= BULK or notes_of:
            return self._dumps_more(obj, name, data, notes_of.pop(ident, None))
        return data, ()

    def loads(self, data: Any, buffers: Sequence[Any] = ()) -> Any:
        """Rebuild a value from the peer.

        Args:
            data: The pickle; ``bytes`` is the fastest.
            buffers: The buffers that came with it.  They become part of the value, so they must not be
                used again: a ``bytearray`` is handed out as it is.

        Raises:
            SerializationError: If the value cannot be rebuilt here; says what is missing or what failed.
        """
        if buffers or data.__class__ is not bytes or _GLOBAL in data:
            return self._loads_with_references(data, buffers)
        try:
            return _loads(data)
        except Exception as exc:
            raise self._not_rebuilt(exc) from exc

    # -- references, called while pickling ------------------------------------------------------------

    def reference(self, obj: Any, type_data: str) -> Tuple[Any, ...]:
        """Return what ``__reduce_ex__`` gives for an object of this end that goes by reference."""
        oid = self.exports.export(obj)
        note().oids.append(oid)
        return peer_object, (oid, type_data)

    def reference_back(self, proxy: Any) -> Tuple[Any, ...]:
        """Return what ``__reduce_ex__`` gives for a proxy: it arrives as the original object.

        Raises:
            SerializationError: If the proxy belongs to another connection.
            StaleProxy: If its connection is closed.
        """
        connection = proxy._connection
        if connection is self.connection:
            return own_object, (proxy._oid,)
        if proxy.proxy_connection is None:
            raise connection.stale_proxy(proxy._oid)
        raise SerializationError(
            f"{proxy!r} cannot be sent to {self._host}: its object lives on {connection.peername}; "
            "use it there, or fetch plain data from it first"
        )

    # -- the slower ways ------------------------------------------------------------------------------

    @property
    def _host(self) -> str:
        return str(getattr(self.connection, "peername", None) or self.peer.host)

    def _dumps_more(
        self, obj: Any, name: Union[str, Sequence[str]], data: bytes, notes: Optional[Notes]
    ) -> Tuple[bytes, Buffers]:
        """Look again at a pickle that has classes or references, is large, or failed."""
        if data is not _FAILED and b"__main__" not in data:
            if len(data) < BULK or set_bulk_apart(obj) is obj:
                return data, notes.buffers if notes is not None else ()
            self._wary = 64
        self._take_back(notes)
        return self._dumps_carefully(obj, name)

    def _dumps_carefully(self, obj: Any, name: Union[str, Sequence[str]]) -> Tuple[bytes, Buffers]:
        if self._wary:
            self._wary -= 1
        value = set_bulk_apart(obj)
        try:
            return self._run(careful_pickler(), value)
        except CodeFound as found:
            code = found.code
        except EasyClusterError:
            raise
        except Exception as exc:
            raise self._not_sent(obj, name, exc) from exc
        self._refuse_other_python(code)
        try:
            return self._run(by_value_pickler(self._cloudpickle()), CodeInside(value))
        except EasyClusterError:
            raise
        except Exception as exc:
            raise self._not_sent(obj, name, exc) from exc

    def _run(self, kind: Type[pickle.Pickler], obj: Any, probe: bool = False) -> Tuple[bytes, Buffers]:
        ident = get_ident()
        outer, outer_notes = at_dump.get(ident), notes_of.pop(ident, None)
        stream = io.BytesIO()
        done = False
        try:
            at_dump[ident] = self
            kind(stream, 5, buffer_callback=keep).dump(obj)
            done = not probe
        finally:
            notes = notes_of.pop(ident, None)
            if outer is None:
                at_dump.pop(ident, None)
            else:
                at_dump[ident] = outer
            if outer_notes is not None:
                notes_of[ident] = outer_notes
            if not done:
                self._take_back(notes)
        if notes is None:
            return stream.getvalue(), ()
        if notes.persistent:
            stream.write(b"\x93")
        return stream.getvalue(), notes.buffers

    def _probe(self, obj: Any) -> None:
        with contextlib.suppress(CodeFound):
            self._run(careful_pickler(), obj, probe=True)

    def _take_back(self, notes: Optional[Notes]) -> None:
        if notes is not None:
            for oid in notes.oids:
                self.exports.release(oid, 1)

    def _loads_with_references(self, data: Any, buffers: Sequence[Any]) -> Any:
        ident = get_ident()
        outer = at_load.get(ident)
        try:
            at_load[ident] = self
            if data[-1] == _GLOBAL:
                return PersistentUnpickler(io.BytesIO(data), buffers=buffers).load()
            return _loads(data, buffers=buffers)
        except EasyClusterError:
            raise
        except (Exception, SystemExit) as exc:
            raise self._not_rebuilt(exc) from exc
        finally:
            if outer is None:
                at_load.pop(ident, None)
            else:
                at_load[ident] = outer

    def _cloudpickle(self) -> Any:
        try:
            return self.obtain_cloudpickle()
        except ImportError as exc:
            raise SerializationError(
                f"a function or class defined in __main__ or inside another function is sent by value, "
                f"which needs cloudpickle here: {exc}; install it, or put the definition into define_common"
            ) from exc

    # -- messages -------------------------------------------------------------------------------------

    def _refuse_other_python(self, code: Any) -> None:
        here, there = this_python(), self.peer.python
        if there is not None and tuple(there) == here:
            return
        version = "an unknown Python" if there is None else f"{there[0]} {there[1]}.{there[2]}"
        raise SerializationError(
            f"{describe_code(code)} cannot be sent by value from {here[0]} {here[1]}.{here[2]} to {version} "
            f"on {self._host}, whose byte code differs; put it into define_common, which sends its source"
        )

    def _not_sent(self, obj: Any, name: Union[str, Sequence[str]], exc: Exception) -> SerializationError:
        if isinstance(exc, RecursionError):
            whole = name if isinstance(name, str) else "value"
            return SerializationError(
                f"{whole}: nested too deeply to be pickled for {self._host}; flatten it, or raise sys.setrecursionlimit"
            )
        path, cause = FaultFinder(self._probe).find(obj, name, exc)
        return SerializationError(
            f"{path}: {first_words(cause)}; send plain data instead, or make it a ServerObject where it lives"
        )

    def _not_rebuilt(self, exc: BaseException) -> SerializationError:
        text = f"a value from {self._host} cannot be rebuilt here: {first_words(exc)}"
        if isinstance(exc, (ImportError, AttributeError)):
            text += "; what it names must exist on both sides, for instance by define_common"
        return SerializationError(text)


def _import_cloudpickle() -> Any:
    import cloudpickle

    return cloudpickle


_dumps = pickle.dumps
_loads = pickle.loads
