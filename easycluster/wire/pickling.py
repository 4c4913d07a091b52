"""Pickling: what stands in our pickles, and the picklers that look at more than plain pickle does.

A value is pickled by the C function ``pickle.dumps``, called by ``Values.dumps``.  An object that goes by
reference inside a session, and is an ordinary object elsewhere (``copy.copy``, a pickle of the user's own),
must know in its ``__reduce_ex__`` which of the two this is.  It looks at the Python frame that called the
pickler: :func:`at_work`.  To say it the other way round, in a variable for each thread that is set around
each ``pickle.dumps``, cost 0.2 us for every value, with or without such objects, and told a lie when a
``__reduce__`` of the user's pickles something on its own.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import pickle
import sys
import types
from _thread import get_ident  # not threading: wire starts no threads
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Set, Tuple, Type, TypeVar

from easycluster.errors import SerializationError

Function = TypeVar("Function", bound=Callable[..., Any])

__all__ = [
    "BULK",
    "BULKY",
    "FAILED",
    "OVERRIDE",
    "PERSISTENT",
    "STACK_GLOBAL",
    "Dump",
    "at_work",
    "holds_bulk",
    "require",
]

# 64 KiB.  Below it, copying a buffer into the pickle is cheaper than sending it as a piece of its own.
BULK = 64 * 1024

# The opcode of every global in protocol 5.
STACK_GLOBAL = 0x93

# Tuples and dictionaries with more are not searched.
_MOST_PARTS = 64

# Stands for the pickle where plain pickle failed, so that the one look for 0x93 finds this out too.
FAILED = b"\x93"

# What plain pickle does not do.  OVERRIDE, PERSISTENT: it would copy objects that go by reference, of types
# written in C or of exact builtin types; in here once such a thing was registered.  WARY: it copies large
# bytes; in here for a while after some were met.
OVERRIDE, PERSISTENT, WARY = "override", "persistent", "wary"
required: Set[str] = set()

# at_work looks at frames, which a pickler that is itself written in Python hides.
if pickle.Pickler is getattr(pickle, "_Pickler", None) or sys.implementation.name != "cpython":
    required.add(OVERRIDE)

# What plain pickle copies, where :data:`BULK` and more of it could go beside the pickle.
BULKY: FrozenSet[Any] = frozenset({bytes, bytearray})

# Large bytes that lie deeper than arguments and results do are noticed by the size of a pickle that has already
# copied them.  After one, this many values are searched before they are pickled; to search each would cost too much.
_WARY_SPAN = 64
_wary_left = 0

# Who rebuilds something, by thread ident: the Values, and the numbers of the references met so far.
at_load: Dict[int, Tuple[Any, List[int]]] = {}

# What each plain dumps has met that is more than plain, by the id of its frame; gone when it returns.
met: Dict[int, Dump] = {}

_getframe = sys._getframe
# Code of the functions that is_plain_dumps() decorates, and what the Values is called in them.
_plain_dumps: Dict[types.CodeType, str] = {}


def is_plain_dumps(name: str) -> Callable[[Function], Function]:
    """Decorate a function that calls ``pickle.dumps`` for a session; ``name`` is that of the Values in it."""

    def decorate(function: Function) -> Function:
        _plain_dumps[function.__code__] = name
        return function

    return decorate


def require(what: str) -> None:
    """Make every later ``dumps`` look at more objects: ``OVERRIDE`` or ``PERSISTENT``."""
    required.add(what)


def be_wary() -> None:
    """Search the next values for large bytes before they are pickled."""
    global _wary_left
    _wary_left = _WARY_SPAN
    required.add(WARY)


def holds_bulk(obj: Any) -> bool:
    """Return whether a value is, or a call has as an argument, what plain pickle would copy in vain."""
    kind = obj.__class__
    if kind is not tuple:
        return kind in BULKY and len(obj) >= BULK
    if len(obj) > _MOST_PARTS:
        return False
    for part in obj:
        kind = part.__class__
        if kind is tuple or kind is dict:
            if len(part) <= _MOST_PARTS:
                for item in part if kind is tuple else part.values():
                    if item.__class__ in BULKY and len(item) >= BULK:
                        return True
        elif kind in BULKY and len(part) >= BULK:
            return True
    return False


def set_bulk_apart(obj: Any) -> Any:
    """Return ``obj`` with large bytes in it wrapped; ``obj`` itself if there are none.

    Only the value, the elements of a tuple and those of tuples and dictionaries in it are looked at: this
    covers calls with their arguments and results, at a bounded price.
    """
    global _wary_left
    _wary_left -= 1
    if _wary_left <= 0:
        required.discard(WARY)
    return _set_apart(obj, 2)


# -- one dumps at work --------------------------------------------------------------------------------


class Dump:
    """One ``dumps`` at work: whose it is, and what it has met.

    Attributes:
        values: The Values that pickles.
        buffers: What goes beside the pickle.
        oids: Numbers of the own objects that were referred to, one for each reference.
        persistent: True if there are persistent ids in the pickle.
    """

    __slots__ = ("buffers", "oids", "persistent", "values")

    def __init__(self, values: Any) -> None:
        self.values = values
        self.buffers: List[memoryview] = []
        self.oids: List[int] = []
        self.persistent = False

    def reference(self, obj: Any, type_data: str) -> Tuple[Any, ...]:
        """Return what ``__reduce_ex__`` gives for an object of this end that goes by reference."""
        oid = self.values.exports.export(obj)
        self.oids.append(oid)
        return peer_object, (oid, type_data)

    def reference_back(self, proxy: Any) -> Tuple[Any, ...]:
        """Return what ``__reduce_ex__`` gives for a proxy: it arrives as the original object.

        Raises:
            SerializationError: If the proxy belongs to another connection.
            StaleProxy: If its connection is closed.
        """
        connection = proxy._connection
        if connection is self.values.connection:
            return own_object, (proxy._oid,)
        if proxy.proxy_connection is None:
            raise connection.stale_proxy(proxy._oid)
        raise SerializationError(
            f"{proxy!r} cannot be sent to {self.values.host}: its object lives on {connection.peername}; "
            "use it there, or fetch plain data from it first"
        )

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of band; True tells pickle to copy it into the stream."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: pickle says so itself
            return True
        if view.nbytes < BULK:
            return True
        self.buffers.append(view)
        return False

    def take_back(self) -> None:
        """Undo what was counted: the pickle will not be sent."""
        for oid in self.oids:
            self.values.exports.release(oid, 1)


def at_work() -> Optional[Dump]:
    """Return the dump of a session whose pickler called the caller's ``__reduce_ex__``, None outside of one."""
    frame = _getframe(2)
    return _dump_of(frame) if frame.f_code in _plain_dumps else None


def keep(buffer: pickle.PickleBuffer) -> bool:
    """Do :meth:`Dump.keep` for the plain dumps that calls this."""
    return _dump_of(_getframe(1)).keep(buffer)


def _dump_of(frame: types.FrameType) -> Dump:
    key = id(frame)
    dump = met.get(key)
    if dump is None:
        dump = met[key] = Dump(frame.f_locals[_plain_dumps[frame.f_code]])
    return dump


def take_met(depth: int = 1) -> Optional[Dump]:
    """Return what the calling plain dumps has met, and forget it."""
    return met.pop(id(_getframe(depth)), None)


# -- what stands in a pickle --------------------------------------------------------------------------


def peer_object(oid: int, type_data: str) -> Any:
    """Return the proxy for an object of the peer (stands in a pickle)."""
    values, received = loader()
    # In this order: interrupted in between, a reference is given back too late and not once too often.
    received.append(oid)
    try:
        return values.proxies.get(oid, type_data)
    except Exception:
        received.remove(oid)
        raise


def own_object(oid: int) -> Any:
    """Return our own object that the peer refers to (stands in a pickle)."""
    return loader()[0].exports.get(oid)


def obtain_cloudpickle() -> None:
    """See that the rest of the stream can import cloudpickle (stands in a pickle)."""
    loader()[0].obtain_cloudpickle()


def loader() -> Tuple[Any, List[int]]:
    """Return the Values that rebuilds something in this thread, and the numbers of the references met so far."""
    found = at_load.get(get_ident())
    if found is None:
        raise SerializationError("a reference to a far-side object makes sense only inside its session")
    return found


def apart(entries: Dict[int, Any]) -> Dict[int, Any]:
    """Return pickles that lie in another pickle (stands in a pickle), see :mod:`easycluster.wire.apart`."""
    return entries


def second(_: Any, value: Any) -> Any:
    """Return the second argument (stands in a pickle)."""
    return value


def as_bytearray(buffer: Any) -> bytearray:
    """Return the buffer as a bytearray, itself where it is one (stands in a pickle)."""
    return buffer if type(buffer) is bytearray else bytearray(buffer)


def as_memoryview(buffer: Any, format: str, shape: Tuple[int, ...]) -> memoryview:
    """Return a memoryview of the buffer (stands in a pickle)."""
    view = memoryview(buffer).cast("B")
    same: Any = view.cast
    return view if format == "B" and len(shape) == 1 else same(format, shape)


def dict_keys(items: List[Any]) -> Any:
    """Return a keys view (stands in a pickle)."""
    return dict.fromkeys(items).keys()


def dict_values(items: List[Any]) -> Any:
    """Return a values view (stands in a pickle)."""
    return dict(enumerate(items)).values()


def dict_items(items: List[Any]) -> Any:
    """Return an items view (stands in a pickle)."""
    return dict(items).items()


def _reduce_memoryview(view: memoryview) -> Tuple[Any, ...]:
    flat: Any = pickle.PickleBuffer(view) if view.c_contiguous else view.tobytes()
    if view.nbytes and len(view.format) == 1:
        return as_memoryview, (flat, view.format, view.shape)
    return as_memoryview, (flat, "B", (view.nbytes,))  # memoryview.cast knows nothing else


_REDUCERS: Dict[type, Callable[[Any], Tuple[Any, ...]]] = {
    memoryview: _reduce_memoryview,
    type({}.keys()): lambda view: (dict_keys, (list(view),)),
    type({}.values()): lambda view: (dict_values, (list(view),)),
    type({}.items()): lambda view: (dict_items, (list(view),)),
}


class _Bulk:
    """Stands for large bytes while pickling, so that they go out of band."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        rebuild = bytes if type(self.value) is bytes else as_bytearray
        return rebuild, (pickle.PickleBuffer(self.value),)


def _set_apart(obj: Any, depth: int) -> Any:
    kind = type(obj)
    if kind is bytes or kind is bytearray:
        return _Bulk(obj) if len(obj) >= BULK else obj
    if depth and kind is tuple and len(obj) <= _MOST_PARTS:
        parts = [_set_apart(item, depth - 1) for item in obj]
        if any(part is not item for part, item in zip(parts, obj)):
            return tuple(parts)
    elif depth == 1 and kind is dict and len(obj) <= _MOST_PARTS:
        items = {key: _set_apart(item, 0) for key, item in obj.items()}
        if any(items[key] is not item for key, item in obj.items()):
            return items
    return obj


class CodeInside:
    """Goes before a value with code in it, so that the receiver has cloudpickle before it is needed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return second, (_OBTAIN, self.value)


class _Obtain:
    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return obtain_cloudpickle, ()


_OBTAIN = _Obtain()


class _Inert:
    """Takes the place of everything else where a pickle is only searched for references."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    append = extend = add = __setitem__ = __setstate__ = __call__


# References are given back as decimal numbers, for which a frame has limited room.
_NO_OID = 1 << 63


class _ReferenceReader(pickle.Unpickler):
    """Finds the references in a pickle; nothing else in it is imported, made or called."""

    def __init__(self, data: Any) -> None:
        super().__init__(io.BytesIO(data), buffers=itertools.repeat(b""))
        self.oids: List[int] = []

    def find_class(self, module: str, name: str) -> Any:
        ours = {"peer_object": self._take, "apart": self._take_apart} if module == __name__ else {}
        return ours.get(name, _Inert)

    def persistent_load(self, pid: Any) -> Any:
        self._take(*pid)

    def _take(self, oid: int, type_data: str) -> None:
        # What is no number would later be given back as one.
        if type(oid) is int and 0 < oid < _NO_OID:
            self.oids.append(oid)

    def _take_apart(self, entries: Dict[int, Any]) -> None:
        for data, _buffers in entries.values():
            if STACK_GLOBAL in data:
                self.oids.extend(references_in(data))


def references_in(data: Any) -> List[int]:
    """Return the numbers of the sender's objects that a pickle refers to, one for each reference."""
    reader = _ReferenceReader(data)
    with contextlib.suppress(Exception):  # a broken pickle: what was read counts
        reader.load()
    return reader.oids


# -- picklers -----------------------------------------------------------------------------------------


class CodeFound(Exception):
    """Something is in the value that can only go as code."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.code = code


class CarefulPickler(pickle.Pickler):
    """Looks at every object that is not of an exact builtin type, and finds code that must go by value."""

    def __init__(self, stream: Any, dump: Dump) -> None:
        super().__init__(stream, 5, buffer_callback=dump.keep)
        self.dump_at_work = dump

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is pickled, see :class:`pickle.Pickler`."""
        reduced = _reduce_specially(obj, self.dump_at_work)
        if reduced is NotImplemented and _is_code(obj) and not _is_importable(obj):
            raise CodeFound(obj)
        return reduced


class PersistentPickler(CarefulPickler):
    """Looks at every single object: only so is a native list or dict noticed.  Four times slower."""

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for an object that goes by reference, None for any other."""
        return _persistent_id(obj, self.dump_at_work)


class PersistentUnpickler(pickle.Unpickler):
    """Rebuilds what :class:`PersistentPickler` wrote."""

    def persistent_load(self, pid: Any) -> Any:
        """Return the proxy for what stood here."""
        return peer_object(*pid)


def _persistent_id(obj: Any, dump: Dump) -> Any:
    values = dump.values
    if values.copies_server_objects or not values.exports.is_native_singleton(obj):
        return None
    dump.persistent = True
    return dump.reference(obj, values.exports.type_data(obj))[1]


def _reduce_specially(obj: Any, dump: Dump) -> Any:
    kind = type(obj)
    own = getattr(kind, "_reduce_in_session", None)
    if own is not None:
        return own(obj, dump)
    exports = dump.values.exports
    if not dump.values.copies_server_objects or exports.is_uncopyable(obj):
        type_data = exports.type_data(obj)
        if type_data is not None:
            return dump.reference(obj, type_data)
    reducer = _REDUCERS.get(kind)
    return NotImplemented if reducer is None else reducer(obj)


CODE_KINDS = (types.FunctionType, types.CodeType, type)
_NAMELESS_TYPES = (type(None), type(...), type(NotImplemented))


def _is_code(obj: Any) -> bool:
    return isinstance(obj, CODE_KINDS) and not any(obj is named for named in _NAMELESS_TYPES)


def _is_importable(obj: Any) -> bool:
    """Return whether the name of a function or class leads to it, in a module that is not a script."""
    module, path = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not module or not path or module in ("__main__", "__mp_main__"):
        return False
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is obj


_picklers: Dict[Any, Tuple[Type[pickle.Pickler], Type[pickle.Pickler]]] = {}


def careful_pickler() -> Type[pickle.Pickler]:
    """Return the pickler that looks at as much as is required."""
    return PersistentPickler if PERSISTENT in required else CarefulPickler


def by_value_pickler(cloudpickle: Any) -> Type[pickle.Pickler]:
    """Return cloudpickle's Pickler with our references; made here because its base is obtained late."""
    if cloudpickle not in _picklers:

        class _ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # known only at run time
            def __init__(self, stream: Any, dump: Dump) -> None:
                super().__init__(stream, 5, buffer_callback=dump.keep)
                self.dump_at_work = dump

            def reducer_override(self, obj: Any) -> Any:
                # A module met here is most often a global of the function: the far side has its own.
                known = not isinstance(obj, types.ModuleType)
                reduced = _reduce_specially(obj, self.dump_at_work) if known else NotImplemented
                return super().reducer_override(obj) if reduced is NotImplemented else reduced

        class _PersistentByValuePickler(_ByValuePickler):
            def persistent_id(self, obj: Any) -> Any:
                return _persistent_id(obj, self.dump_at_work)

        _picklers[cloudpickle] = _ByValuePickler, _PersistentByValuePickler
    return _picklers[cloudpickle][PERSISTENT in required]
