"""Packs the shipped modules into one text that a bare Python runs.

The text holds a table of modules and their compressed sources, and puts a finder for them first in
``sys.meta_path``.  There, the package ``easycluster`` is :mod:`easycluster.far.face`, and an
installed copy is out of sight.  Modules are compiled when they are imported, under names such as
``<easycluster>/wire/frames.py``; their loader gives tracebacks the lines.

Compiling is most of what a start costs: 58 ms of 90 for all modules on Python 3.11, against 2 ms to
unmarshal them.  So for a far side that runs this very Python, the text can carry the code as well.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
import zlib
from base64 import b64encode
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType

__all__ = ["bundle_source", "shipped_modules"]

PACKAGES = ("far", "link", "objects", "wire")
MODULES = ("errors", "stream", "version")
FACE = "easycluster.far.face"
ROOT = Path(__file__).parents[1]

# Runs on any Python from 3.8 on.  Everything that an import needs is imported before the finder is
# in place: importing inside find_spec recurses (it did, on a far side).
_BOOT = '''\
"""EasyCluster's shipped modules; made by easycluster.transport.bundle."""
import marshal, sys, zlib
from binascii import a2b_base64
from importlib._bootstrap_external import MAGIC_NUMBER
from importlib.machinery import ModuleSpec

DIGEST = {digest!r}
# name: (is it a package, its file name, offset and length of its source in characters)
TABLE = {table}
DATA = b"""\\
{data}"""
# The one Python that CODE is for, or None.
CODE_FOR = {code_for!r}
CODE = b"""\\
{code}"""


class Finder:
    """Finds and loads the modules of the bundle, and nothing else."""

    def __init__(self, digest, table, text, code):
        self.digest, self.table, self.text, self.code = digest, table, text, code

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
        if name in self.code:
            return marshal.loads(self.code[name])
        return compile(self.get_source(name), self.table[name][1], "exec", dont_inherit=True)

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
    code = {{}}
    if CODE_FOR == (sys.version, MAGIC_NUMBER, sys.flags.optimize):
        code = marshal.loads(zlib.decompress(a2b_base64(CODE)))
    sys.meta_path.insert(0, Finder(DIGEST, TABLE, text, code))


install()
'''


@lru_cache(maxsize=2)
def bundle_source(with_code: bool = False) -> bytes:
    """Return ASCII source that makes the shipped modules importable where it is run.

    Running it a second time does nothing.  It leaves ``DIGEST`` and names of its own in the globals
    it is run with.

    Args:
        with_code: True to add code that exactly our version of Python loads and any other passes
            over.  The text is then three times as long: right for a far side on this machine.
    """
    rows, texts, offset = [], [], 0
    for name, (is_package, filename, source) in sorted(shipped_modules().items()):
        rows.append(f"    {name!r}: ({is_package}, {filename!r}, {offset}, {len(source)}),\n")
        texts.append(source)
        offset += len(source)
    table, data = "".join(rows), _as_lines(zlib.compress("".join(texts).encode("utf-8"), 6))
    code_for, code = None, ""
    if with_code:
        code_for = (sys.version, MAGIC_NUMBER, sys.flags.optimize)
        code = _as_lines(zlib.compress(marshal.dumps(_compiled()), 1))
    digest = hashlib.sha256((table + data).encode("ascii")).hexdigest()
    text = _BOOT.format(digest=digest, table=f"{{\n{table}}}", data=data, code_for=code_for, code=code)
    return text.encode("ascii")


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
        codes[name] = marshal.dumps(_renamed(code, _far_name(path)))
    return codes


def _renamed(code: CodeType, filename: str) -> CodeType:
    constants = tuple(_renamed(item, filename) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=filename, co_consts=constants)


def _as_lines(data: bytes) -> str:
    text = b64encode(data).decode("ascii")
    return "".join(f"{text[start : start + 4096]}\n" for start in range(0, len(text), 4096))
