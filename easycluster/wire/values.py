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

import collections
import importlib.util
import io
import pickle
import sys
from _thread import get_ident
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Type, Union

from easycluster.errors import EasyClusterError, SerializationError
from easycluster.wire.faults import FaultFinder, describe_code, first_words
from easycluster.wire.pickling import (
    BULK,
    FAILED,
    STACK_GLOBAL,
    CodeFound,
    CodeInside,
    Dump,
    PersistentUnpickler,
    at_load,
    be_wary,
    by_value_pickler,
    careful_pickler,
    holds_bulk,
    is_plain_dumps,
    keep,
    met,
    references_in,
    required,
    set_bulk_apart,
    take_met,
)

__all__ = ["BULK", "PeerInfo", "Values", "this_python"]


Buffers = Sequence[memoryview]
Python = Tuple[str, int, int, int]
Name = Union[str, Callable[[Any], Sequence[str]]]


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
            ``get(oid)``, ``release(oid, count)``, ``type_data(obj)``, ``is_uncopyable(obj)`` and
            ``is_native_singleton(obj)``.
        proxies: The proxies of this end for objects of the peer, with ``get(oid, type_data)`` and
            ``drop(oid, count)``.
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

    @is_plain_dumps("self")
    def dumps(self, obj: Any, name: Name = "value") -> Tuple[bytes, Buffers]:
        """Pickle a value for the peer.

        Args:
            obj: The value.
            name: What a message calls it, or a function that takes a tuple and returns a name for each of
                its elements.

        Returns:
            The pickle, and buffers of at least ``BULK`` bytes that go beside it.  The buffers are views of
            the caller's own objects: send or copy them before the caller goes on.

        Raises:
            SerializationError: If the value cannot cross, with the path to what cannot.  It is a TypeError.
            StaleProxy: If it holds a proxy of an earlier connection.
            MemoryError: If there is no memory for the pickle; the value itself is all right.
        """
        if required or holds_bulk(obj):
            return self._dumps_carefully(obj, name)
        try:
            data = _dumps(obj, 5, buffer_callback=keep)
        except Exception:  # noqa: BLE001  # whatever it is, the careful way gives the error
            data = FAILED
        except BaseException:
            dump = take_met()
            if dump is not None:
                dump.take_back()
            raise
        if STACK_GLOBAL in data or len(data) >= BULK or met:
            return self.finish_dumps(obj, name, data, take_met())
        return data, ()

    def loads(self, data: Any, buffers: Sequence[Any] = ()) -> Any:
        """Rebuild a value from the peer.

        Args:
            data: The pickle; ``bytes`` is the fastest.
            buffers: The buffers that came with it.  They become part of the value, so they must not be
                used again: a ``bytearray`` is handed out as it is.

        Raises:
            SerializationError: If the value cannot be rebuilt here; says what is missing or what failed.
            MemoryError: If there is no memory for it.
        """
        if len(data) >= BULK:
            return self._loads_large(data, buffers)
        if buffers or data.__class__ is not bytes or STACK_GLOBAL in data:
            return self._loads_with_references(data, buffers)
        try:
            return _loads(data)
        except MemoryError:
            raise
        except Exception as exc:
            raise self.not_rebuilt(exc) from exc

    @property
    def host(self) -> str:
        """The peer as messages name it."""
        return str(getattr(self.connection, "peername", None) or self.peer.host)

    # -- the slower ways ------------------------------------------------------------------------------

    def finish_dumps(self, obj: Any, name: Name, data: bytes, dump: Optional[Dump]) -> Tuple[bytes, Buffers]:
        """Look again at a pickle that has classes or references, is large, or failed."""
        # rfind, because "in" takes three times as long: 1.8 ms for a million ints.
        if data is not FAILED and data.rfind(b"__main__") < 0:
            if len(data) < BULK or set_bulk_apart(obj) is obj:
                return data, dump.buffers if dump is not None else ()
            be_wary()
        if dump is not None:
            dump.take_back()
        return self._dumps_carefully(obj, name)

    def _dumps_carefully(self, obj: Any, name: Name) -> Tuple[bytes, Buffers]:
        value = set_bulk_apart(obj)
        try:
            return self._run(careful_pickler(), value)
        except CodeFound as found:
            code = found.code
        except (EasyClusterError, MemoryError):
            raise
        except Exception as exc:
            raise self._not_sent(obj, name, exc) from exc
        self._refuse_other_python(code)
        try:
            return self._run(by_value_pickler(self._cloudpickle()), CodeInside(value))
        except (EasyClusterError, MemoryError):
            raise
        except Exception as exc:
            raise self._not_sent(obj, name, exc) from exc

    def _run(self, kind: Type[pickle.Pickler], obj: Any) -> Tuple[bytes, Buffers]:
        stream, dump = io.BytesIO(), Dump(self)
        try:
            kind(stream, dump).dump(obj)  # type: ignore[arg-type]  # our picklers take a Dump
        except BaseException:
            dump.take_back()
            raise
        if dump.persistent:
            stream.write(b"\x93")
        return stream.getvalue(), dump.buffers

    def _probe(self, obj: Any) -> None:
        dump = Dump(self)
        try:
            careful_pickler()(io.BytesIO(), dump).dump(obj)  # type: ignore[arg-type]  # our picklers take a Dump
        except CodeFound:
            pass
        finally:
            dump.take_back()

    def discard(self, data: Any) -> None:
        """Give back the references in a value that nobody wants, without building it.

        Args:
            data: The pickle of a late reply, say.
        """
        self._give_back(data, [])

    def _loads_with_references(self, data: Any, buffers: Sequence[Any]) -> Any:
        ident = get_ident()
        outer = at_load.get(ident)
        received: List[int] = []
        at_load[ident] = (self, received)
        try:
            if data[-1] == STACK_GLOBAL:
                return PersistentUnpickler(io.BytesIO(data), buffers=buffers).load()
            return _loads(data, buffers=buffers)
        except (EasyClusterError, MemoryError):
            self._give_back(data, received)
            raise
        except (Exception, SystemExit) as exc:
            self._give_back(data, received)
            raise self.not_rebuilt(exc) from exc
        except BaseException:
            self._give_back(data, received)
            raise
        finally:
            if outer is None:
                del at_load[ident]
            else:
                at_load[ident] = outer

    def _loads_large(self, data: Any, buffers: Sequence[Any]) -> Any:
        from easycluster.wire import collector

        try:
            if len(data) <= collector.MOST:
                collector.pause()
            # What refers to something is found by rebuilding it: to look for that first takes longer.
            return self._loads_with_references(data, buffers)
        finally:
            collector.resume()

    def _give_back(self, data: Any, received: Iterable[int]) -> None:
        """Let the peer release what ``data`` refers to, except what was received and so is counted already."""
        counts = collections.Counter(references_in(data))
        counts.subtract(received)
        for oid, count in counts.items():
            if count > 0:
                self.proxies.drop(oid, count)

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
            f"on {self.host}, whose byte code differs; put it into define_common, which sends its source"
        )

    def _not_sent(self, obj: Any, name: Name, exc: Exception) -> SerializationError:
        if isinstance(exc, RecursionError):
            whole = name if isinstance(name, str) else "value"
            return SerializationError(
                f"{whole}: nested too deeply to be pickled for {self.host}; flatten it, or raise sys.setrecursionlimit"
            )
        names = name if isinstance(name, str) else name(obj)
        path, cause = FaultFinder(self._probe).find(obj, names, exc)
        return SerializationError(
            f"{path}: {first_words(cause)}; send plain data instead, or make it a ServerObject where it lives"
        )

    def not_rebuilt(self, exc: BaseException) -> SerializationError:
        """Return what to raise when plain pickle could not rebuild a value."""
        text = f"a value from {self.host} cannot be rebuilt here: {first_words(exc)}"
        if isinstance(exc, (ImportError, AttributeError)):
            text += "; what it names must exist on both sides, for instance by define_common"
        return SerializationError(text)


def _import_cloudpickle() -> Any:
    import cloudpickle

    return cloudpickle


_dumps = pickle.dumps
_loads = pickle.loads
