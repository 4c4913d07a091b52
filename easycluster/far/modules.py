"""Definitions modules: code that both ends have under one name.

``define_common`` puts blocks of source into a module that exists only in memory.  The near side
keeps the blocks and evaluates them, the far side is sent the blocks and evaluates them too, so that
functions and classes made there can be pickled by reference both ways.  Both ends run this file;
it is shipped to the far side.

A block is evaluated under a name of its own, which :mod:`linecache` knows::

    <easycluster.remote_code block 2>   text; blocks are numbered from 1
    /home/me/suite/remote/gpu.py        a file or module: its path on the near side
    /home/me/suite/lab.yaml             text with filename= and first_line=: the lines of that file
"""

from __future__ import annotations

import importlib
import importlib.machinery
import linecache
import os
import sys
import threading
from types import ModuleType
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, Union

from easycluster.far.sources import add_note, compile_source, read_source
from easycluster.wire.tracebacks import DEFINITIONS_ORIGIN

__all__ = [
    "DEFAULT_MODULE",
    "Block",
    "Definitions",
    "define_common",
    "definitions",
    "definitions_module",
]

DEFAULT_MODULE = "easycluster.remote_code"

Code = Union[str, "os.PathLike[str]", ModuleType]

# What every definitions module begins with, in its users' own words.
PRELUDE = "import easycluster\nfrom easycluster import *\n"


class Block(NamedTuple):
    """One piece of source, as it is kept here and sent to the far side.

    Attributes:
        module: The definitions module it belongs to.
        position: Its place among the blocks of that module, from 0.
        filename: What its frames name as their file.
        source: The text.
        target: Name of the module that the text is the whole of, ``""`` for code that belongs into
            ``module`` itself.
        package: True if ``target`` is a package.
        first_line: Line of the file that the text begins on, from 1; 0 if it is not a part of a file.
        tree: What the far side compiles instead of the text, see :mod:`easycluster.far.trees`; ``b""`` for the text.
    """

    module: str
    position: int
    filename: str
    source: str
    target: str = ""
    package: bool = False
    first_line: int = 0
    tree: bytes = b""

    def __str__(self) -> str:
        if self.target:
            return f"module {self.target!r} ({self.filename})"
        if self.filename.startswith("<"):
            return self.filename[1:-1]
        return f"{self.filename} (definitions of {self.module})"


class Definitions:
    """The blocks of one definitions module, and how they are evaluated.

    Args:
        module: The module that the blocks belong to.
        keep_source: False if the blocks are for this side only.

    Attributes:
        module: As given.
        keep_source: As given.
        blocks: Every block to be sent, in order.
        applied: How many blocks received from the other side have been evaluated.
    """

    def __init__(self, module: ModuleType, keep_source: bool) -> None:
        self.module = module
        self.keep_source = keep_source
        self.blocks: List[Block] = []
        self.applied = 0
        # The text of each file, and of each part of one by its first line, as it was last defined.
        self._files: Dict[Tuple[str, int], str] = {}
        # What was defined and evaluated here.  Where both sides are one process, apply() leaves it be.
        self._evaluated: Set[Block] = set()
        # Defined with local="lazy" and not evaluated yet; see __getattr__ of the module.
        self._pending: List[Block] = []

    def define(
        self,
        code: Code,
        local: Union[bool, str] = True,
        filename: Union[str, os.PathLike[str], None] = None,
        first_line: int = 1,
    ) -> None:
        """Add code to the module.

        Args:
            code: Source text; or a path (``pathlib.Path``), whose file is read now; or an imported
                module, which the far side gets under its own name, with its public names in this
                module as well.  A file or module that did not change since is not added again.
            local: True to evaluate it here at once, False to leave it to the far side, ``"lazy"``
                to evaluate it here when something asks this module for a name it does not have.
            filename: The file that text was taken from, for tracebacks.
            first_line: Line of that file that the text begins on, from 1.

        Raises:
            SyntaxError: If the text cannot be compiled here (only when it is evaluated here).
            Exception: Whatever the code raises here.  The block is then not added, so nothing is sent.
        """
        if local not in (True, False, "lazy"):
            raise ValueError(f"local must be True, False or 'lazy', not {local!r}")
        with _lock:
            block = self._make_block(code) if filename is None else self._make_part(code, filename, first_line)
            if self._files.get((block.filename, block.first_line)) == block.source:
                return
            if local == "lazy":
                self._pending.append(block)
                self.module.__dict__["__getattr__"] = self._get_missing
            elif local:
                self.evaluate_pending()
                self._evaluate(block, code if isinstance(code, ModuleType) else None)
                self._evaluated.add(block)
            if not block.filename.startswith("<"):
                self._files[block.filename, block.first_line] = block.source
            if self.keep_source:
                self.blocks.append(block)

    def apply(self, blocks: Iterable[Block]) -> int:
        """Evaluate blocks that came from the other side, in order; those seen before are passed over.

        Returns:
            How many were evaluated.

        Raises:
            RuntimeError: If a block before one of them is missing.
            Exception: Whatever a block raises, with a note that names block and line.  That block
                and the ones behind it count as not seen.
        """
        done = 0
        for block in blocks:
            with _lock:
                if block.position < self.applied:
                    continue
                if block.position > self.applied:
                    raise RuntimeError(
                        f"definitions of {block.module!r} came out of order: "
                        f"block {block.position + 1} after {self.applied}"
                    )
                if block._replace(tree=b"") not in self._evaluated:
                    self._evaluate(block, None)
                    done += 1
                self.applied += 1
        return done

    def evaluate_pending(self) -> None:
        """Evaluate here what was defined with ``local="lazy"``."""
        with _lock:
            while self._pending:
                block = self._pending[0]
                self._evaluate(block, sys.modules.get(block.target))
                self._evaluated.add(block)
                del self._pending[0]
            self.module.__dict__.pop("__getattr__", None)

    def _make_block(self, code: Code) -> Block:
        name, position = self.module.__name__, len(self.blocks)
        if isinstance(code, str):
            if code.endswith(".py") and code.split() == [code]:
                raise ValueError(
                    f"{code!r} looks like a file name; pass pathlib.Path({code!r}) to define what is in it"
                )
            number = position + 1
            # Taken by a block that failed, or that came from the other side.
            while f"<{name} block {number}>" in linecache.cache:
                number += 1
            return Block(name, position, f"<{name} block {number}>", code)
        if isinstance(code, ModuleType):
            filename, source = _module_source(code)
            return Block(name, position, filename, source, code.__name__, hasattr(code, "__path__"))
        if isinstance(code, os.PathLike):
            filename = os.path.abspath(os.fspath(code))
            return Block(name, position, filename, read_source(filename))
        raise TypeError(f"definitions are text, a pathlib.Path or a module, not {type(code).__name__}")

    def _make_part(self, code: Code, filename: Union[str, os.PathLike[str]], first_line: int) -> Block:
        if not isinstance(code, str):
            raise TypeError(f"filename= says where text is from, but the code is a {type(code).__name__}")
        if first_line < 1:
            raise ValueError(f"first_line counts from 1, so it cannot be {first_line!r}")
        return Block(
            self.module.__name__, len(self.blocks), os.path.abspath(os.fspath(filename)), code, first_line=first_line
        )

    def _evaluate(self, block: Block, present: Optional[ModuleType]) -> None:
        try:
            if not block.target:
                code = compile_source(block.source, block.filename, first_line=block.first_line, tree=block.tree)
                exec(code, self.module.__dict__)
            else:
                module = present or _make_whole_module(block)
                self.module.__dict__.update(_public_names(module))
        except BaseException as exc:
            add_note(exc, _where(exc, block))
            raise

    def _get_missing(self, name: str) -> Any:
        # Tools probe modules for __path__, __wrapped__ and the like; such a name is never a reason to run code.
        if self._pending and not (name.startswith("__") and name.endswith("__")):
            self.evaluate_pending()
            if name in self.module.__dict__:
                return self.module.__dict__[name]
        raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")


# Guards the registry and every Definitions in it.  Re-entrant: a block may call define_common.
_lock = threading.RLock()
_registry: Dict[str, Definitions] = {}


def definitions_module(name: str = DEFAULT_MODULE, keep_source: bool = True) -> ModuleType:
    """Get or create a module that holds definitions; ``module.define(code, local=True)`` adds to it.

    Args:
        name: Dotted name to import it by.  Its package, if it has one, must exist.
        keep_source: False if what is defined there is for this side only and never sent.

    Raises:
        ImportError: If the name belongs to something else, or its package cannot be imported.
    """
    return definitions(name, keep_source).module


def define_common(
    code: Code,
    name: str = DEFAULT_MODULE,
    local: Union[bool, str] = True,
    filename: Union[str, os.PathLike[str], None] = None,
    first_line: int = 1,
) -> None:
    """Define functions and classes on both sides, in the module ``name``.

    A client sends them when it connects and at ``update_definitions()``.  See :meth:`Definitions.define`
    for the arguments.
    """
    definitions(name).define(code, local, filename, first_line)


def definitions(name: str, keep_source: bool = True, make_packages: bool = False) -> Definitions:
    """Do what :func:`definitions_module` does, and return the record that belongs to the module.

    Args:
        name: As there.
        keep_source: As there.
        make_packages: True to make empty packages where the one around ``name`` is missing, as the
            far side does.
    """
    with _lock:
        present, record = sys.modules.get(name), _registry.get(name)
        if record is not None and record.module is present:
            return record
        if present is not None:
            origin = getattr(present, "__file__", None) or "built in"
            raise ImportError(
                f"{name!r} is a module already ({origin}); choose another name for the definitions", name=name
            )
        if not all(part.isidentifier() for part in name.split(".")):
            raise ImportError(f"{name!r} cannot be imported by that name; write identifiers joined by dots", name=name)
        package, last = _package_of(name, make_packages)
        if record is not None and package is not None and getattr(package, last, None) is record.module:
            # Somebody has put sys.modules back to what it was before, as in-process runs of pytest do.
            sys.modules[name] = record.module
            return record
        if package is not None and hasattr(package, last):
            raise ImportError(
                f"{package.__name__!r} already has something named {last!r}; choose another name for the definitions",
                name=name,
            )
        module = ModuleType(name, "Definitions that EasyCluster evaluates on both sides.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=DEFINITIONS_ORIGIN)
        module.__package__ = name.rpartition(".")[0]
        record = Definitions(module, keep_source)
        exec(compile(PRELUDE, f"<{name}>", "exec", dont_inherit=True), module.__dict__)
        module.__dict__["define"] = record.define
        if package is not None:
            setattr(package, last, module)
        sys.modules[name] = module
        _registry[name] = record
        return record


def _package_of(name: str, make: bool) -> Tuple[Optional[ModuleType], str]:
    parent, _, last = name.rpartition(".")
    if not parent:
        return None, last
    try:
        return importlib.import_module(parent), last
    except ImportError as exc:
        missing = isinstance(exc, ModuleNotFoundError) and exc.name is not None
        if not (make and missing and (parent + ".").startswith(f"{exc.name}.")):
            raise ImportError(
                f"the package {parent!r} of the definitions module {name!r} cannot be imported ({exc}); "
                "choose a name without dots, or one in a package that exists",
                name=name,
            ) from exc
    return _make_package(parent), last


def _make_package(name: str) -> ModuleType:
    """Make a package without code, so that modules of the controller keep their own dotted names."""
    package = ModuleType(name)
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    package.__spec__, package.__path__, package.__package__ = spec, [], name
    above, last = _package_of(name, make=True)
    sys.modules[name] = package
    if above is not None:
        setattr(above, last, package)
    return package


def _make_whole_module(block: Block) -> ModuleType:
    package, last = _package_of(block.target, make=True)
    module = ModuleType(block.target)
    spec = importlib.machinery.ModuleSpec(block.target, None, origin=block.filename, is_package=block.package)
    module.__spec__, module.__file__ = spec, block.filename
    module.__package__ = block.target if block.package else block.target.rpartition(".")[0]
    if block.package:
        module.__path__ = []
    before = sys.modules.get(block.target)
    sys.modules[block.target] = module
    try:
        exec(compile_source(block.source, block.filename, tree=block.tree), module.__dict__)
    except BaseException:
        if before is None:
            sys.modules.pop(block.target, None)
        else:
            sys.modules[block.target] = before
        raise
    if package is not None:
        setattr(package, last, module)
    return module


def _public_names(module: ModuleType) -> Dict[str, Any]:
    names = getattr(module, "__all__", None)
    if names is None:
        # Rewritten code has names of its own, such as "@py_builtins".
        names = [name for name in module.__dict__ if not name.startswith(("_", "@"))]
    return {name: getattr(module, name) for name in names}


def _module_source(module: ModuleType) -> Tuple[str, str]:
    name = module.__name__
    if name == "__main__":
        raise ValueError(
            "the script itself cannot be a definitions module: it is named __main__ here and something else there; "
            "move the code to a file and pass its path or module"
        )
    filename = getattr(module, "__file__", None)
    # The file and not loader.get_source(): pytest's loader has none, and lines must be those of the file.
    if not filename or not filename.endswith(".py"):
        raise ValueError(f"module {name!r} has no Python source ({filename or 'built in'}); only source can be sent")
    filename = os.path.abspath(filename)
    return filename, read_source(filename)


def _where(exc: BaseException, block: Block) -> str:
    """Say which line of ``block`` raised ``exc``."""
    line = None
    if isinstance(exc, SyntaxError) and exc.filename == block.filename:
        line = exc.lineno
    else:
        tb = exc.__traceback__
        while tb is not None:
            if tb.tb_frame.f_code.co_filename == block.filename:
                line = tb.tb_lineno
                break
            tb = tb.tb_next
    if line is None:
        return f"in {block}"
    text = linecache.getline(block.filename, line).strip()
    return f"in {block}, line {line}: {text}" if text else f"in {block}, line {line}"
