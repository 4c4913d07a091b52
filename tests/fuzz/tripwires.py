"""Tripwires: what must not happen before a peer has proven the key, made to fail loudly.

Nothing that a stranger sends may be unpickled, inflated, compiled, imported or started.  So while the
tripwires are armed, everything that could do so raises, wherever our modules keep it: as an attribute of
the module it is from, under a name of their own, or in a class made from it.  In a process that does
nothing but fuzzing, an audit hook looks as well at what goes past every name.
"""

from __future__ import annotations

import _pickle
import builtins
import contextlib
import marshal
import pickle
import sys
import zlib

__all__ = ["Tripped", "Tripwires"]

_FORBIDDEN = [
    *((module, name) for module in (pickle, _pickle) for name in ("load", "loads", "Unpickler")),
    *((pickle, name) for name in ("_load", "_loads", "_Unpickler")),
    *((zlib, name) for name in ("decompress", "decompressobj")),
    *((marshal, name) for name in ("load", "loads")),
    *((builtins, name) for name in ("__import__", "eval", "exec", "compile")),
]

# Raised by the interpreter itself: https://docs.python.org/3/library/audit_events.html
_EVENTS = frozenset(
    (
        *("import", "compile", "exec", "marshal.loads", "marshal.load", "pickle.find_class"),
        *("os.fork", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "open"),
    )
)


class Tripped(BaseException):
    """Something forbidden was about to happen; no ``except Exception`` may swallow it."""


# What our code imports late, whatever a peer says; the names stand in it.
_OWN_IMPORTS = frozenset(("hashlib",))


def _wire(name, original):
    def trip(*_args, **_keywords):
        raise Tripped(f"{name} was reached")

    def trip_on_others(module, *args, **keywords):
        return original(module, *args, **keywords) if module in _OWN_IMPORTS else trip()

    return trip_on_others if original is builtins.__import__ else trip


class Tripwires:
    """Finds what has to be replaced, in all modules that are loaded now; arms and disarms it.

    Attributes:
        armed: How often they were armed.
    """

    def __init__(self):
        self.armed = 0
        self._is_armed = False
        # Where, under which name, what is there, and what is there while armed.
        self._wires = []
        # The same, for speed: of each module its names, what they are now, and what they are while armed.
        self._modules = []
        originals = {}
        for module, name in _FORBIDDEN:
            original = getattr(module, name)
            wire = originals.setdefault(id(original), (original, _wire(f"{module.__name__}.{name}", original)))[1]
            self._wires.append((module, name, original, wire))
        for module_name, module in list(sys.modules.items()):
            if module_name.partition(".")[0] == "easycluster":
                self._look_into(module, originals)
        self._methods = [wire for wire in self._wires if isinstance(wire[0], type)]
        for module in {id(wire[0]): wire[0] for wire in self._wires if not isinstance(wire[0], type)}.values():
            own = [wire for wire in self._wires if wire[0] is module]
            before, armed = ({name: pair[at] for _, name, *pair in own} for at in (0, 1))
            self._modules.append((vars(module), before, armed))

    def _look_into(self, module, originals):
        for name, value in list(vars(module).items()):
            known = originals.get(id(value))
            if known is not None and known[0] is value:
                self._wires.append((module, name, *known))
            elif isinstance(value, type) and issubclass(value, pickle.Unpickler):
                self._wires.append((value, "load", value.load, _wire(f"{module.__name__}.{name}.load", value.load)))

    def names(self):
        """Return what is replaced, for those who want to be sure that something is."""
        return {f"{owner.__name__}.{name}" for owner, name, _original, _wire in self._wires}

    def watch_events(self):
        """Look at the interpreter's own events, too; there is no way back in this process."""

        def look(event, arguments):
            if self._is_armed and event in _EVENTS:
                self._is_armed = False  # what reports it may import
                raise Tripped(f"{event} {arguments[:1]!r} happened")

        sys.addaudithook(look)

    def watching(self):
        """Let nothing forbidden happen inside a ``with`` block."""
        return self

    @contextlib.contextmanager
    def watching_events(self):
        """As :meth:`watching`, for what is itself made of something forbidden: only the audit hook looks."""
        self.armed += 1
        self._is_armed = True
        try:
            yield
        finally:
            self._is_armed = False

    def __enter__(self):
        self.armed += 1
        for names, _originals, wires in self._modules:
            names.update(wires)
        for owner, name, _original, wire in self._methods:
            setattr(owner, name, wire)
        self._is_armed = True

    def __exit__(self, *_exc):
        self._is_armed = False
        for names, originals, _wires in self._modules:
            names.update(originals)
        for owner, name, original, _wire in self._methods:
            setattr(owner, name, original)
