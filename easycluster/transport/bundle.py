"""Packs the shipped modules into one text that a bare Python runs.

The text holds a table of modules and their compressed sources, and puts a finder for them first in
``sys.meta_path``.  There, the package ``easycluster`` is :mod:`easycluster.far.face`, and an
installed copy is out of sight.  Modules are compiled when they are imported, under names such as
``<easycluster>/wire/frames.py`` that :mod:`linecache` knows.
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from functools import lru_cache
from pathlib import Path

__all__ = ["bundle_digest", "bundle_source", "shipped_modules"]

PACKAGES = ("far", "link", "objects", "wire")
MODULES = ("errors", "stream", "version")
FACE = "easycluster.far.face"

# Runs on any Python from 3.8 on.  Everything that an import needs is imported before the finder is
# in place: importing inside find_spec recurses (it did, on a far side).
_BOOT = '''\
"""EasyCluster's shipped modules; made by easycluster.transport.bundle."""
import linecache, sys, zlib
from binascii import a2b_base64
from functools import partial
from importlib.machinery import ModuleSpec

DIGEST = {digest!r}
# name: (is it a package, its file name, offset and length of its source in characters)
TABLE = {table}
DATA = b"""\\
{data}"""


class Finder:
    """Finds and loads the modules of the bundle, and nothing else."""

    def __init__(self, digest, table, text):
        self.digest, self.table, self.text = digest, table, text

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
        filename = self.table[name][1]
        linecache.cache[filename] = (partial(self.get_source, name),)
        return compile(self.get_source(name), filename, "exec", dont_inherit=True)

    def get_source(self, name):
        start, length = self.table[name][2:]
        return self.text[start : start + length]

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
    text = zlib.decompress(a2b_base64(DATA)).decode("utf-8")
    sys.meta_path.insert(0, Finder(DIGEST, TABLE, text))


install()
'''


@lru_cache(maxsize=1)
def bundle_source() -> bytes:
    """Return ASCII source that makes the shipped modules importable where it is run.

    Running it a second time does nothing.  It leaves ``DIGEST`` and names of its own in the globals
    it is run with.
    """
    table, texts, offset = [], [], 0
    for name, (is_package, filename, source) in sorted(shipped_modules().items()):
        table.append(f"    {name!r}: ({is_package}, {filename!r}, {offset}, {len(source)}),\n")
        texts.append(source)
        offset += len(source)
    data = b64encode(zlib.compress("".join(texts).encode("utf-8"), 9)).decode("ascii")
    lines = "".join(f"{data[start : start + 4096]}\n" for start in range(0, len(data), 4096))
    rows = "".join(table)
    digest = hashlib.sha256((rows + lines).encode("ascii")).hexdigest()
    return _BOOT.format(digest=digest, table=f"{{\n{rows}}}", data=lines).encode("ascii")


def bundle_digest() -> str:
    """Return a name for the bundle's content: hexadecimal SHA-256 of its text."""
    return hashlib.sha256(bundle_source()).hexdigest()


def shipped_modules() -> dict[str, tuple[bool, str, str]]:
    """Return every module of the bundle: name to (is it a package, its file name there, source)."""
    root = Path(__file__).parents[1]
    modules = {"easycluster": (True, "<easycluster>/far/face.py", _read(root / "far" / "face.py"))}
    for name in MODULES:
        modules[f"easycluster.{name}"] = (False, f"<easycluster>/{name}.py", _read(root / f"{name}.py"))
    for package in PACKAGES:
        modules[f"easycluster.{package}"] = (True, f"<easycluster>/{package}/__init__.py", "")
        for path in (root / package).glob("*.py"):
            is_package = path.name == "__init__.py"
            name = f"easycluster.{package}" if is_package else f"easycluster.{package}.{path.stem}"
            if name != FACE:
                modules[name] = (is_package, f"<easycluster>/{package}/{path.name}", _read(path))
    return modules


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
