"""The names of ``typing`` with nothing behind them: what shipped modules get instead of it on the far side.

Their annotations are never evaluated, and what they name besides is for the reader.  What is more than a name comes
from the real one.

This module is shipped to the far side.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False


class _Hint:
    """Stands for any type; can be subscripted and called like one that is made of others."""

    def __getitem__(self, _of: object) -> _Hint:
        return self

    def __call__(self, *_args: object, **_options: object) -> _Hint:
        return self


Any = AnyStr = BinaryIO = Callable = ClassVar = Collection = Container = ContextManager = Deque = Dict = _Hint()
Final = FrozenSet = Generator = Hashable = IO = Iterable = Iterator = List = Literal = Mapping = Any
Match = MutableMapping = MutableSequence = MutableSet = NoReturn = Optional = Pattern = Reversible = Sequence = Any
Set = Sized = TextIO = Tuple = Type = TypeVar = Union = Any


class Protocol:
    """A class whose subclasses say what others have to have."""


def cast(_kind: object, value: object) -> object:
    """Return the value."""
    return value


class _NamedTupleMaker(type):
    """Makes a named tuple of a class that says which fields it has."""

    def __new__(cls, name: str, bases: tuple, space: dict) -> type:  # type: ignore[type-arg]
        if not bases:
            return super().__new__(cls, name, bases, space)
        fields = list(space.pop("__annotations__"))
        defaults = [space.pop(field) for field in fields if field in space]
        made = namedtuple(name, fields, defaults=defaults, module=space["__module__"])  # type: ignore[misc]  # noqa: PYI024
        for attribute, value in space.items():
            if attribute not in ("__module__", "__qualname__"):
                setattr(made, attribute, value)
        return made


class NamedTuple(metaclass=_NamedTupleMaker):
    """Base of named tuples."""


def __getattr__(name: str) -> object:
    if name.startswith("__"):  # what the import system asks of any module
        raise AttributeError(name)
    import typing

    return getattr(typing, name)
