"""Pickling: what stands in our pickles, and the picklers that look at more than plain pickle does.

Which :class:`~easycluster.wire.values.Values` is at work in a thread is known here, so that an object can ask
for it while it is pickled (:func:`dumping`) and a reference while it is rebuilt.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import pickle
import sys
import types

# Not threading: wire starts no threads.  Which Values is at work in this thread is kept in dicts by thread
# ident; three touches of a threading.local cost 220 ns here, of a dict 100 ns.
from _thread import get_ident
from typing import Any, Callable, Dict, List, Set, Tuple, Type

from easycluster.errors import SerializationError, StaleProxy

__all__ = ["BULK", "OVERRIDE", "PERSISTENT", "dumping", "require"]

# 64 KiB.  Below it, copying a buffer into the pickle is cheaper than sending it as a piece of its own.
BULK = 64 * 1024

# What plain pickle would copy although it goes by reference: objects that are not of an exact builtin type,
# and objects that are.  Empty as long as nothing of the kind was registered.
OVERRIDE, PERSISTENT = "override", "persistent"
required: Set[str] = set()

# The Values at work, by thread ident.  Two dicts: while a value is rebuilt, copying an object must not
# make a reference of it.
at_dump: Dict[int, Any] = {}
at_load: Dict[int, Any] = {}


def dumping() -> Any:
    """Return the Values that is pickling in this thread right now, or None."""
    return at_dump.get(get_ident())


def require(what: str) -> None:
    """Make every later ``dumps`` look at more objects: ``OVERRIDE`` or ``PERSISTENT``."""
    required.add(what)


# -- what stands in a pickle --------------------------------------------------------------------------


def peer_object(oid: int, type_data: str) -> Any:
    """Return the proxy for an object of the peer (stands in a pickle)."""
    return _loader().proxies.get(oid, type_data)


def own_object(oid: int) -> Any:
    """Return our own object that the peer refers to (stands in a pickle)."""
    values = _loader()
    try:
        return values.exports.get(oid)
    except KeyError:
        raise StaleProxy(f"object {oid} is not held here any more", host=values._host) from None


def obtain_cloudpickle() -> None:
    """See that the rest of the stream can import cloudpickle (stands in a pickle)."""
    _loader().obtain_cloudpickle()


def _loader() -> Any:
    values = at_load.get(get_ident())
    if values is None:
        raise SerializationError("a reference to a far-side object makes sense only inside its session")
    return values


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


def set_bulk_apart(obj: Any, depth: int = 2) -> Any:
    """Return ``obj`` with large bytes in it wrapped; ``obj`` itself if there are none.

    Only the value, the elements of a tuple and those of tuples and dictionaries in it are looked at: this
    covers calls with their arguments and results, at a bounded price.
    """
    kind = type(obj)
    if kind is bytes or kind is bytearray:
        return _Bulk(obj) if len(obj) >= BULK else obj
    if depth and kind is tuple and len(obj) <= 64:
        parts = [set_bulk_apart(item, depth - 1) for item in obj]
        if any(part is not item for part, item in zip(parts, obj)):
            return tuple(parts)
    elif depth == 1 and kind is dict and len(obj) <= 64:
        items = {key: set_bulk_apart(item, 0) for key, item in obj.items()}
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


# -- while pickling -----------------------------------------------------------------------------------


class Notes:
    """What one ``dumps`` in this thread has met so far."""

    __slots__ = ("buffers", "oids", "persistent")

    def __init__(self) -> None:
        self.buffers: List[memoryview] = []
        self.oids: List[int] = []
        self.persistent = False


notes_of: Dict[int, Notes] = {}


def note() -> Notes:
    """Return the notes of the ``dumps`` at work in this thread."""
    ident = get_ident()
    notes = notes_of.get(ident)
    if notes is None:
        notes = notes_of[ident] = Notes()
    return notes


def keep(buffer: pickle.PickleBuffer) -> bool:
    """Take a buffer out of band; True tells pickle to copy it into the stream."""
    try:
        view = buffer.raw()
    except BufferError:  # not contiguous: pickle says so itself
        return True
    if view.nbytes < BULK:
        return True
    note().buffers.append(view)
    return False


class CodeFound(Exception):
    """Something is in the value that can only go as code."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.code = code


class CarefulPickler(pickle.Pickler):
    """Looks at every object that is not of an exact builtin type, and finds code that must go by value."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is pickled, see :class:`pickle.Pickler`."""
        reduced = _reduce_specially(obj)
        if reduced is NotImplemented and _is_code(obj) and not _is_importable(obj):
            raise CodeFound(obj)
        return reduced


class PersistentPickler(CarefulPickler):
    """Looks at every single object: only so is a native list or dict noticed.  Four times slower."""

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for an object that goes by reference, None for any other."""
        return _persistent_id(obj)


class PersistentUnpickler(pickle.Unpickler):
    """Rebuilds what :class:`PersistentPickler` wrote."""

    def persistent_load(self, pid: Any) -> Any:
        """Return the proxy for what stood here."""
        return peer_object(*pid)


def _persistent_id(obj: Any) -> Any:
    values = at_dump[get_ident()]
    if values.copies_server_objects or not values.exports.is_native_singleton(obj):
        return None
    notes = note()
    notes.persistent = True
    type_data = values.exports.type_data(obj)
    oid = values.exports.export(obj)
    notes.oids.append(oid)
    return oid, type_data


def _reduce_specially(obj: Any) -> Any:
    values = at_dump[get_ident()]
    exports = values.exports
    if not values.copies_server_objects or exports.is_uncopyable(obj):
        type_data = exports.type_data(obj)
        if type_data is not None:
            return values.reference(obj, type_data)
    reducer = _REDUCERS.get(type(obj))
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
            def reducer_override(self, obj: Any) -> Any:
                # A module met here is most often a global of the function: the far side has its own.
                reduced = NotImplemented if isinstance(obj, types.ModuleType) else _reduce_specially(obj)
                return super().reducer_override(obj) if reduced is NotImplemented else reduced

        class _PersistentByValuePickler(_ByValuePickler):
            def persistent_id(self, obj: Any) -> Any:
                return _persistent_id(obj)

        _picklers[cloudpickle] = _ByValuePickler, _PersistentByValuePickler
    return _picklers[cloudpickle][PERSISTENT in required]
