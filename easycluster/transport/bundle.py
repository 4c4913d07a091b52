"""Packs the shipped modules into one piece that a bare Python runs.

It is a short source, a NUL byte and data::

    source   -   n   ASCII; run with the data as the global DATA
    0        B   1   0
    data     -   n   marshal(3), version 2, of (digest, table, texts, code_for, first, later)

The table has the modules, texts are their sources, compressed.  The source puts a finder for them first in
``sys.meta_path``.  There, the package ``easycluster`` is :mod:`easycluster.far.face`, and an installed copy is out of
sight.  Modules are compiled when they are imported, under names such as ``<easycluster>/wire/frames.py``; their loader
gives tracebacks the lines.

Compiling is most of what a start costs: 58 ms of 90 for all modules on Python 3.11, against 2 ms to unmarshal them.  So
for a far side whose Python writes and reads the same byte code there are the modules compiled; any other passes them
over.  First are those that a start needs, in one piece of which :func:`settle` leaves what it did not; later, always
compressed, are the others.  The sources are then looked at only when a traceback wants lines.

What modules have from ``typing`` is for annotations, which nobody reads over there, and ``typing`` takes 4 ms of a
start and a megabyte.  So there they get it from :mod:`easycluster.far.hints`, which has the names and nothing behind.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
import zlib
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType

__all__ = ["bundle_source", "shipped_modules"]

PACKAGES = ("far", "link", "objects", "wire")
MODULES = ("errors", "stream", "version")
FACE = "easycluster.far.face"
HINTS = "easycluster.far.hints"

# What a start does not import; a test looks.
LATER_NAMES = """
    stream
    far.asserts far.batch far.debugger far.flight far.holdings far.journal far.leaks far.locks far.logs far.meeting
    far.recovery far.reservations far.restart far.services far.start far.trees far.variables far.waiters far.waiting
    far.wishes
    wire.apart wire.auth
"""
LATER = frozenset(f"easycluster.{name}" for name in LATER_NAMES.split())
ROOT = Path(__file__).parents[1]

# Runs on any Python from 3.8 on.  Everything that an import needs is imported before the finder is
# in place: importing inside find_spec recurses (it did, on a far side).
_BOOT = '''\
"""EasyCluster's shipped modules; made by easycluster.transport.bundle."""
import marshal, sys, zlib
from importlib._bootstrap_external import MAGIC_NUMBER
from importlib.machinery import ModuleSpec

PARTS = marshal.loads(DATA)
if isinstance(PARTS, bytes):
    PARTS = marshal.loads(zlib.decompress(PARTS))
DIGEST, TABLE, TEXTS, CODE_FOR, FIRST, LATER = PARTS
del PARTS
if CODE_FOR != (sys.implementation.cache_tag, MAGIC_NUMBER, sys.flags.optimize):
    FIRST = LATER = ({}, b"", False)


class Codes:
    """Marshalled code of modules: where each is in one piece of bytes."""

    def __init__(self, places, data, is_packed):
        self.places, self.data, self.is_packed = places, data, is_packed

    def take(self, name):
        place = self.places.pop(name, None)
        if place is None:
            return None
        data = zlib.decompress(self.data) if self.is_packed else self.data
        if not self.places:
            self.data = b""
        return marshal.loads(memoryview(data)[place[0] : place[1]])

    def settle(self):
        pieces, places, end = [], {}, 0
        for name, (begin, stop) in self.places.items():
            pieces.append(self.data[begin:stop])
            places[name] = end, end + stop - begin
            end += stop - begin
        self.places, self.data = places, b"".join(pieces)


class Finder:
    """Finds and loads the modules of the bundle, and nothing else."""

    def __init__(self, digest, table, texts, codes):
        self.digest, self.table, self.texts, self.codes = digest, table, texts, codes

    def find_spec(self, name, path=None, target=None):
        entry = self.table.get(name)
        if entry is None:
            return None
        spec = ModuleSpec(name, self, origin=entry[1], is_package=entry[0])
        spec.has_location = True
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name):
        for codes in self.codes:
            code = codes.take(name)
            if code is not None:
                return code
        text = self.get_source(name).replace("\\nfrom typing import ", "\\nfrom easycluster.far.hints import ", 1)
        return compile(text, self.table[name][1], "exec", dont_inherit=True)

    def get_source(self, name):
        if isinstance(self.texts, bytes):
            self.texts = zlib.decompress(self.texts).decode("utf-8")
        start, length = self.table[name][2:]
        return self.texts[start : start + length]

    def get_filename(self, name):
        return self.table[name][1]

    def is_package(self, name):
        return self.table[name][0]


def install():
    for finder in sys.meta_path:
        if getattr(finder, "digest", None) == DIGEST:
            return
    for name in [name for name in sys.modules if name == "easycluster" or name.startswith("easycluster.")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Finder(DIGEST, TABLE, TEXTS, (Codes(*FIRST), Codes(*LATER))))


def settle():
    """Let go of the code that has been loaded."""
    sys.meta_path[0].codes[0].settle()


install()
'''


@lru_cache(maxsize=8)
def bundle_source(with_code: bool = False, compress: bool = True, then: str = "") -> bytes:
    """Return what makes the shipped modules importable where it is run, see :mod:`easycluster.transport.bundle`.

    Running it a second time does nothing.  It leaves ``DIGEST`` and names of its own in the globals
    it is run with.

    Args:
        with_code: True to add code that exactly our version of Python loads and any other passes
            over.  It is then three times as long, if it is compressed.
        compress: False for a far side on this machine, where compressing takes longer than sending.
        then: ASCII source to run once they are importable.
    """
    table, texts, offset = {}, [], 0
    for name, (is_package, filename, source) in sorted(shipped_modules().items()):
        table[name] = (is_package, filename, offset, len(source))
        texts.append(source)
        offset += len(source)
    text = "".join(texts).encode("utf-8")
    digest = hashlib.sha256(repr(table).encode("ascii") + text).hexdigest()
    # By which Python itself knows the .pyc files that it can use.
    code_for = (sys.implementation.cache_tag, MAGIC_NUMBER, sys.flags.optimize) if with_code else None
    codes = _compiled() if with_code else {}
    later = {name: codes.pop(name) for name in LATER if name in codes}
    data = marshal.dumps(
        (digest, table, zlib.compress(text, 6), code_for, _joined(codes, False), _joined(later, with_code)), 2
    )
    if compress:
        data = marshal.dumps(zlib.compress(data, 6), 2)
    return (_BOOT + then).encode("ascii") + b"\0" + data


def shipped_modules() -> dict[str, tuple[bool, str, str]]:
    """Return every module of the bundle: name to (is it a package, its file name there, source)."""
    modules = {}
    for name, path in _paths().items():
        is_package = path.name == "__init__.py" or name == "easycluster"
        modules[name] = (is_package, _far_name(path), path.read_text(encoding="utf-8"))
    return modules


def _paths() -> dict[str, Path]:
    paths = {"easycluster": ROOT / "far" / "face.py"}
    paths.update((f"easycluster.{name}", ROOT / f"{name}.py") for name in MODULES)
    for package in PACKAGES:
        paths[f"easycluster.{package}"] = ROOT / package / "__init__.py"
        paths.update((f"easycluster.{package}.{path.stem}", path) for path in (ROOT / package).glob("[!_]*.py"))
    del paths[FACE]
    return paths


def _far_name(path: Path) -> str:
    return f"<easycluster>/{path.relative_to(ROOT).as_posix()}"


def _compiled() -> dict[str, bytes]:
    """Return each shipped module's marshalled code, from Python's own cache where that is fresh."""
    codes = {}
    for name, path in _paths().items():
        code = SourceFileLoader(name, str(path)).get_code(name)
        assert code is not None
        names = tuple(HINTS if each == "typing" else each for each in code.co_names)
        codes[name] = marshal.dumps(_renamed(code.replace(co_names=names), _far_name(path)))
    return codes


def _joined(codes: dict[str, bytes], packed: bool) -> tuple[dict[str, tuple[int, int]], bytes, bool]:
    """Return codes in one piece, where each of them is, and whether the piece is compressed."""
    places, end = {}, 0
    for name, code in codes.items():
        places[name] = end, end + len(code)
        end += len(code)
    data = b"".join(codes.values())
    return places, zlib.compress(data, 6) if packed else data, packed


def _renamed(code: CodeType, filename: str) -> CodeType:
    constants = tuple(_renamed(item, filename) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=filename, co_consts=constants)
