"""Imports modules of the controller on the far side, on demand.

A finder at the end of ``sys.meta_path``: what the far side has itself is never asked for.  Shipped
to the far side; the other half is :func:`easycluster.definitions.find_local_module`.
"""

from __future__ import annotations

import importlib.machinery
import sys
import threading
from typing import TYPE_CHECKING, Callable, Dict, Optional, Sequence, Tuple

from easycluster.far.sources import compile_source

if TYPE_CHECKING:
    from types import CodeType, ModuleType

__all__ = ["ControllerFinder", "Fetch", "NotNow"]

# (is it a package, the path of its file on the controller, its source, a tree to compile instead of it or b""); None
# if it has no such module.
Module = Tuple[bool, str, str, bytes]
Found = Optional[Module]
Fetch = Callable[[str], Found]


# Modules of other systems that the standard library tries to import, and all its own from Python 3.10 on.
_NOT_ASKED = frozenset(
    (
        *("_scproxy", "_winapi", "_winreg", "java", "msvcrt", "nt", "org", "vms_lib", "winreg", "winsound"),
        *getattr(sys, "stdlib_module_names", ()),
        "easycluster",
    )
)


class NotNow(Exception):
    """Raised by ``fetch`` where the controller cannot be asked now; a later import asks again."""


class ControllerFinder:
    """A meta-path finder and loader for modules of the controller.

    Asks only for top-level names and for what lies in packages that came from the controller, each
    name once: an optional import inside a library of the far side costs nothing the second time.

    Args:
        fetch: Asks the controller for a module.  :class:`NotNow` stands for "not found, this time";
            anything else that it raises fails the import, as an ImportError.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._found: Dict[str, Found] = {}
        # Names being asked for, by thread: fetching must not need a module that must be fetched.
        self._asking = threading.local()

    def install(self) -> None:
        """Put this finder at the end of ``sys.meta_path``."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)

    def uninstall(self) -> None:
        """Take it out again; modules that came from the controller stay imported."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def forget(self) -> None:
        """Ask again for names that the controller did not have."""
        self._found = {name: found for name, found in self._found.items() if found is not None}

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        """Return how to load ``name``, or None if the controller does not have it either."""
        found = self._ask(name)
        if found is None:
            return None
        is_package, filename, *_ = found
        spec = importlib.machinery.ModuleSpec(name, self, origin=filename, is_package=is_package)  # type: ignore[arg-type]  # typeshed wants the ABC
        spec.has_location = True
        spec.cached = None
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave the making of the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's source."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """Return the module's code; its lines are known to :mod:`linecache` afterwards."""
        _, filename, source, tree = self._get(name)
        return compile_source(source, filename, tree=tree)

    def get_source(self, name: str) -> str:
        """Return the module's source."""
        return self._get(name)[2]

    def get_filename(self, name: str) -> str:
        """Return the path of the module's file on the controller."""
        return self._get(name)[1]

    def is_package(self, name: str) -> bool:
        """Say whether the module is a package."""
        return self._get(name)[0]

    def _get(self, name: str) -> Module:
        found = self._found.get(name)
        if found is None:
            raise ImportError(f"{name!r} did not come from the controller", name=name)
        return found

    def _ask(self, name: str) -> Found:
        if name in self._found:
            return self._found[name]
        parent = name.rpartition(".")[0]
        # Only a package that the controller sent has no directory here.
        if parent and getattr(sys.modules.get(parent), "__path__", None) != []:
            return None
        # Of ourselves, what is not in the bundle because few far sides need it.
        unasked = name.partition(".")[0] in _NOT_ASKED and not (name + ".").startswith("easycluster.devices.")
        if unasked or getattr(self._asking, "name", None) is not None:
            return None
        self._asking.name = name
        try:
            found = self._fetch(name)
        except NotNow:
            return None
        except ImportError:
            raise
        except Exception as exc:
            raise ImportError(f"cannot ask the controller for module {name!r}: {exc}", name=name) from exc
        finally:
            self._asking.name = None
        # Older answers have no tree.
        self._found[name] = found = None if found is None else (*found[:3], found[3] if len(found) > 3 else b"")
        return found
