"""Exports: which objects go by reference, and what their proxies look like.

A class says so by deriving from :class:`ServerObject`; an existing class, or a single object, is registered
with :func:`make_server_class` or :func:`make_singleton`.  What the proxy's class is made from crosses the
wire as a text, the *type data*::

    =module:Class            that class, imported by the receiver
    methods|attrs|cached     a class made of these names, each list separated by commas;
                             ``@auto`` among attrs: unknown attributes are asked for

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import types
import weakref
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, TypeVar, Union

from easycluster.objects.proxies import DefaultRemoteProxy, FileProxy, GeneratorProxy, RemoteProxy
from easycluster.wire.pickling import OVERRIDE, PERSISTENT, Dump, at_work, require

__all__ = [
    "Callback",
    "ServerObject",
    "callback",
    "get_method",
    "is_method",
    "is_native_singleton",
    "is_uncopyable",
    "iterate",
    "make_server_class",
    "make_singleton",
    "type_data",
]

Names = Union[str, Iterable[str]]
T = TypeVar("T")

_AUTO = ("@auto",)

# Dunders that make, break, describe or copy the object itself; a proxy has its own.
_LIFE_CYCLE = frozenset(
    (
        *("__new__", "__init__", "__del__", "__repr__", "__dir__", "__sizeof__", "__class__"),
        *("__getattribute__", "__getattr__", "__setattr__", "__delattr__"),
        *("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__"),
        *("__init_subclass__", "__subclasshook__", "__class_getitem__", "__set_name__", "__mro_entries__"),
        *("__get__", "__set__", "__delete__", "__buffer__", "__release_buffer__"),
        *("__annotate__", "__annotate_func__"),
    )
)

# The proxy's own interface wins over names of the far-side class.
_OWN_NAMES = frozenset(name for name in vars(RemoteProxy) if not name.startswith("__")) | {"_known_methods"}

_METHOD_TYPES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodWrapperType,
    type(functools.lru_cache(maxsize=None)(len)),
)
_METHOD_DESCRIPTORS = (classmethod, staticmethod, functools.partialmethod, functools.singledispatchmethod)

_EXPORT_NAMES = ("export_methods", "export_attrs", "export_attrs_cache", "proxy_class")


class ServerObject:
    """Base class of objects that stay where they are and are used through proxies.

    Attributes:
        export_methods: Names of methods that the proxy has; ``"@auto"`` stands for all of the class.
        export_attrs: Names of attributes; with ``"@auto"`` the proxy asks for every unknown name.
        export_attrs_cache: Names of attributes that never change, which the proxy asks for once.
        proxy_class: The class of the proxy; the lists do not count then.

    The most derived class that sets any of them decides.
    """

    export_methods: Names = _AUTO
    export_attrs: Names = _AUTO
    export_attrs_cache: Names = ()
    proxy_class: Optional[type] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Another base, or the class itself, may say how it is pickled: inside a session we come first.
        _go_by_reference(cls)

    def __reduce_ex__(self, protocol: Any) -> Any:
        dump = at_work()
        reduced = NotImplemented if dump is None else self._reduce_in_session(dump)
        return super().__reduce_ex__(protocol) if reduced is NotImplemented else reduced

    __reduce_ex__._is_by_reference = True  # type: ignore[attr-defined]

    def _reduce_in_session(self, dump: Dump) -> Any:
        text = None if dump.values.copies_server_objects else type_data(self)
        return NotImplemented if text is None else dump.reference(self, text)


def make_server_class(
    typ: type,
    export_methods: Names = _AUTO,
    export_attrs: Names = _AUTO,
    export_attrs_cache: Names = (),
    proxy_class: Optional[type] = None,
) -> type:
    """Mark an existing class: its instances, and those of its subclasses, go by reference.

    Args:
        typ: The class.
        export_methods: As in :class:`ServerObject`.
        export_attrs: As in :class:`ServerObject`.
        export_attrs_cache: As in :class:`ServerObject`.
        proxy_class: As in :class:`ServerObject`; must be importable where the proxy is made.

    Returns:
        ``typ``, so that it can decorate a class.
    """
    if not isinstance(typ, type):
        raise TypeError(f"make_server_class takes a class, not {typ!r}; make_singleton takes a single object")
    _registered[typ] = _Rules(export_methods, export_attrs, export_attrs_cache, proxy_class)
    _by_type.clear()
    if not _go_by_reference(typ):
        require(OVERRIDE)
    return typ


def make_singleton(
    obj: T,
    export_methods: Names = _AUTO,
    export_attrs: Names = _AUTO,
    export_attrs_cache: Names = (),
    proxy_class: Optional[type] = None,
) -> T:
    """Mark one object: it goes by reference, others of its class do not.

    Args:
        obj: Any object.
        export_methods: As in :class:`ServerObject`.
        export_attrs: As in :class:`ServerObject`.
        export_attrs_cache: As in :class:`ServerObject`.
        proxy_class: As in :class:`ServerObject`; must be importable where the proxy is made.

    Returns:
        ``obj``.
    """
    key = id(obj)
    held: Any = obj
    with contextlib.suppress(TypeError):  # a list, for instance: not weakly referable, so it is kept for good
        held = weakref.ref(obj, lambda _: _singletons.pop(key, None))
    text = _Rules(export_methods, export_attrs, export_attrs_cache, proxy_class).describe(type(obj))
    _singletons[key] = (text, held)
    if type(obj) in _NATIVE_TYPES:
        require(PERSISTENT)
    elif isinstance(obj, (type, types.FunctionType)) or not _go_by_reference(type(obj)):
        require(OVERRIDE)
    return obj


class Callback:
    """A callable of this side that the other side may call; see :func:`callback`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, on this side."""
        return self.function(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        dump = at_work()
        if dump is None:
            raise TypeError(f"the callback {self.function!r} can only be sent in a call; it cannot be pickled")
        return self._reduce_in_session(dump)

    def _reduce_in_session(self, dump: Dump) -> Any:
        # The function itself is exported, so that two callbacks of one function are one object over there.
        return dump.reference(self.function, _CALLABLE)

    def __repr__(self) -> str:
        return f"callback({self.function!r})"


_CALLABLE = "__call__||"


def callback(function: Callable[..., Any]) -> Callback:
    """Wrap a callable so that the far side can call it: there it is a proxy, and calls of it run here.

    Args:
        function: Any callable, also a bound method or a lambda.
    """
    if not callable(function):
        raise TypeError(f"callback takes something callable, not {function!r}")
    return Callback(function)


def type_data(obj: Any) -> Optional[str]:
    """Return what the proxy of ``obj`` is made from, None if it goes by value."""
    if _singletons:
        text = _single(obj)
        if text is not None:
            return text
    typ = type(obj)
    try:
        return _by_type[typ]
    except KeyError:
        text = _by_type[typ] = _describe_by_class(typ)
        return text


def is_uncopyable(obj: Any) -> bool:
    """Return whether the object goes by reference from the near side too, because it cannot be copied."""
    return isinstance(obj, _UNCOPYABLE)


def is_native_singleton(obj: Any) -> bool:
    """Return whether the object is of a builtin type and was given to :func:`make_singleton`."""
    return type(obj) in _NATIVE_TYPES and _single(obj) is not None


def is_method(value: Any) -> bool:
    """Return whether an attribute is one that a proxy calls rather than fetches."""
    return isinstance(value, _METHOD_TYPES)


def get_method(obj: Any, name: str) -> Tuple[bool, Any]:
    """Answer a proxy's request for an unknown attribute: (True, None) for a method, else (False, value)."""
    value = getattr(obj, name)
    return (True, None) if is_method(value) else (False, value)


def iterate(obj: Any) -> Any:
    """Return an iterator over an exported object that can cross; the answer to a proxy's ``__iter__``.

    The iterators of builtin containers are pickled as ``iter(container)``.  The container being a proxy there,
    this would ask for an iterator again, without end: so they become generators, which go by reference.
    """
    iterator = iter(obj)
    if isinstance(type(obj).__iter__, types.WrapperDescriptorType) and iterator is not obj:
        return (item for item in iterator)
    return iterator


def _single(obj: Any) -> Optional[str]:
    found = _singletons.get(id(obj))
    if found is None:
        return None
    text, held = found
    return text if held is obj or (isinstance(held, weakref.ref) and held() is obj) else None


class _Rules:
    """What is exported: lists of names or a proxy class."""

    __slots__ = ("attrs", "cached", "methods", "proxy_class")

    def __init__(self, methods: Names, attrs: Names, cached: Names, proxy_class: Optional[type]) -> None:
        self.methods = _list("export_methods", methods)
        self.attrs = _list("export_attrs", attrs)
        self.cached = _list("export_attrs_cache", cached)
        self.proxy_class = proxy_class

    def describe(self, typ: type) -> str:
        """Return the type data for instances of ``typ``."""
        if self.proxy_class is not None:
            return f"={self.proxy_class.__module__}:{self.proxy_class.__qualname__}"
        methods = set(self.methods)
        if "@auto" in methods:
            methods.discard("@auto")
            methods |= _methods_of(typ)
        cached = set(self.cached)
        lists = (methods - cached, set(self.attrs) - cached - (methods - {"@auto"}), cached)
        return "|".join(",".join(sorted(names)) for names in lists)


def _list(what: str, names: Names) -> Tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names or ())
    for name in found:
        if name != "@auto" and not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"{name!r} in {what} is no name of an attribute; write a list of names, or '@auto'")
    return found


def _methods_of(typ: type) -> Any:
    """Return the names of all methods of a class: what its most derived class says about a name counts."""
    seen: Dict[str, Any] = {}
    for cls in typ.__mro__:
        if cls is not object and cls is not ServerObject:
            for name, value in vars(cls).items():
                seen.setdefault(name, value)
    return {name for name, value in seen.items() if _is_exported(name, value)}


def _is_exported(name: str, value: Any) -> bool:
    if name in _LIFE_CYCLE or name in _OWN_NAMES or not name.isidentifier() or isinstance(value, type):
        return False
    return callable(value) or isinstance(value, _METHOD_DESCRIPTORS)


def _describe_by_class(typ: type) -> Optional[str]:
    for cls in typ.__mro__:
        if cls in _registered:
            rules = _registered[cls]
            if rules is not None:
                return rules.describe(typ)
            if not issubclass(typ, ServerObject):
                return None
        own = vars(cls)
        if issubclass(typ, ServerObject) and issubclass(cls, ServerObject) and not own.keys().isdisjoint(_EXPORT_NAMES):
            lists = typ.export_methods, typ.export_attrs, typ.export_attrs_cache
            return _Rules(*lists, own.get("proxy_class")).describe(typ)
    return None


def _go_by_reference(typ: type) -> bool:
    """Give a class our way of being pickled; False if it is one of C, or copyreg knows another way."""
    if typ in copyreg.dispatch_table:
        return False
    original: Any = typ.__reduce_ex__
    if getattr(original, "_is_by_reference", False):
        return True

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        dump = at_work()
        if dump is not None and not dump.values.copies_server_objects:
            text = type_data(self)
            if text is not None:
                return dump.reference(self, text)
        return original(self, protocol)

    __reduce_ex__._is_by_reference = True  # type: ignore[attr-defined]
    try:
        typ.__reduce_ex__ = __reduce_ex__  # type: ignore[method-assign,assignment]
    except (TypeError, AttributeError):
        return False
    return True


# Containers and plain data that pickle handles before it asks anybody.
_NATIVE_TYPES = frozenset((list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, complex))

# The class of C that every file of the standard library has among its bases; io.IOBase is not.
_FILE: type = io.IOBase.__mro__[1]

# In memory files are plain data; pickle copies them.
_registered: Dict[type, Optional[_Rules]] = {
    types.GeneratorType: _Rules((), (), (), GeneratorProxy),
    _FILE: _Rules((), (), (), FileProxy),
    io.BytesIO: None,
    io.StringIO: None,
    types.ModuleType: _Rules((), (), (), DefaultRemoteProxy),
}
_UNCOPYABLE = (types.GeneratorType, types.ModuleType, _FILE)

_by_type: Dict[type, Optional[str]] = {}
_singletons: Dict[int, Tuple[str, Any]] = {}
