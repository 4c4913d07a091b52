"""Code for the far side, as the near side holds it: definitions and modules that may be sent.

The definitions modules themselves are the same on both sides and live in :mod:`easycluster.far.modules`.
"""

from __future__ import annotations

import importlib.machinery
import os
import site
import sys
import sysconfig
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from easycluster.far.modules import (
    DEFAULT_MODULE,
    Block,
    define_common,
    definitions,
    definitions_module,
)
from easycluster.far.sources import read_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "DEFAULT_MODULE",
    "Block",
    "LocalModule",
    "blocks_since",
    "define_common",
    "definitions_module",
    "find_local_module",
    "rewrite_with",
]

# Rewrites code that is sent; see rewrite_with().
_rewriter: list[Callable[[str, str, int], bytes]] = []


def rewrite_with(rewriter: Callable[[str, str, int], bytes] | None) -> None:
    """Have code rewritten before it is sent to far sides.

    Args:
        rewriter: Gets text, file name and the line of the file that the text begins on (0 for a whole file) and
            returns a tree for the far side to compile (:func:`easycluster.far.trees.pack_tree`), ``b""`` to leave
            the text as it is.  None to send all code as it is.
    """
    _rewriter[:] = [] if rewriter is None else [rewriter]


def rewritten(source: str, filename: str, first_line: int = 0) -> bytes:
    """Return the tree that a far side compiles instead of a text, ``b""`` for the text."""
    return _rewriter[0](source, filename, first_line) if _rewriter else b""


def blocks_since(name: str, index: int = 0) -> list[Block]:
    """Return the blocks of a definitions module that a far side which has ``index`` of them lacks.

    Raises:
        ImportError: If the name belongs to a module that is not a definitions module.
    """
    blocks = definitions(name).blocks[index:]
    if not _rewriter:
        return blocks
    return [block._replace(tree=rewritten(block.source, block.filename, block.first_line)) for block in blocks]


class LocalModule(NamedTuple):
    """A module of the controller, as it is sent.

    Attributes:
        is_package: True for a package.
        filename: Path of its file here.
        source: Its text; ``""`` for a package without ``__init__.py``.
    """

    is_package: bool
    filename: str
    source: str


def find_local_module(name: str, roots: Iterable[str | os.PathLike[str]] | None = None) -> LocalModule | None:
    """Find a Python module of this machine that a far side may have, without importing it.

    Args:
        name: Full dotted name, as the far side asks for it.
        roots: Directories whose modules may be sent, at any depth.  By default the user's own code:
            everything that is importable here and is neither of Python nor installed.

    Returns:
        The module, or None if there is no such module or it may not be sent.

    Raises:
        ImportError: If it may be sent but has no source, such as an extension module.
    """
    if name == "__main__" or not all(part.isidentifier() for part in name.split(".")):
        return None
    if name.partition(".")[0] == "easycluster":
        return None
    spec = _find_spec(name)
    if spec is None:
        return None
    allowed = None if roots is None else [os.path.realpath(root) for root in roots]
    if spec.origin is None or not spec.has_location:
        places = [place for place in spec.submodule_search_locations or () if _may_be_sent(place, allowed)]
        return LocalModule(True, places[0], "") if places else None
    if not _may_be_sent(spec.origin, allowed):
        return None
    if not spec.origin.endswith(".py"):
        raise ImportError(
            f"the controller has module {name!r} as {spec.origin}; "
            "only Python source can be sent, install it on the far side",
            name=name,
        )
    return LocalModule(spec.submodule_search_locations is not None, spec.origin, read_source(spec.origin))


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module as ``import`` would, but without running its packages."""
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if isinstance(spec, importlib.machinery.ModuleSpec):
        return spec
    path: Sequence[str] | None = None
    found: importlib.machinery.ModuleSpec | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        found = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), path)
        if found is None:
            return None
        if end < len(parts) and found.submodule_search_locations is None:
            return None
        path = list(found.submodule_search_locations or ())
    return found


def _may_be_sent(filename: str, allowed: list[str] | None) -> bool:
    path = os.path.realpath(filename)
    if allowed is not None:
        return any(_is_under(path, root) for root in allowed)
    if {"site-packages", "dist-packages"}.intersection(path.split(os.sep)):
        return False
    return not any(_is_under(path, root) for root in _not_the_users())


def _is_under(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


@lru_cache(maxsize=1)
def _not_the_users() -> tuple[str, ...]:
    """Directories of Python itself and of what is installed."""
    paths = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(sorted({os.path.realpath(path) for path in paths if path}))
