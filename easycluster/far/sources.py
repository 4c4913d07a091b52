"""Source text that no file of this machine holds: compiled, and known to whoever shows its lines.

Shipped to the far side.
"""

from __future__ import annotations

import contextlib
import linecache
from types import CodeType
from typing import Optional

__all__ = ["add_note", "compile_source", "forget_source", "read_source", "remember_source"]


def remember_source(filename: str, source: str, first_line: int = 0) -> None:
    """Let tracebacks, :mod:`inspect` and debuggers show the lines of ``source``.

    Args:
        filename: What frames name as their file.
        source: The text.
        first_line: Line that it begins on where it is a part of the file, so that other parts stay known; else 0.
    """
    lines = source.splitlines(True)
    if first_line:
        known = linecache.cache.get(filename)
        others = list(known[2]) if known is not None and len(known) > 2 and known[1] is None else []
        others += ["\n"] * (first_line - 1 + len(lines) - len(others))
        others[first_line - 1 : first_line - 1 + len(lines)] = lines
        lines = others
    # Without a modification time, linecache.checkcache() never looks for a file of that name.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


def forget_source(filename: str) -> None:
    """Undo :func:`remember_source`."""
    linecache.cache.pop(filename, None)


def add_note(exc: BaseException, note: str) -> None:
    """Do what ``exc.add_note(note)`` does, on Pythons before 3.11 too."""
    notes = getattr(exc, "__notes__", None)
    # An exception without room for it gets none; its traceback names the place too.
    with contextlib.suppress(AttributeError, TypeError):
        exc.__notes__ = [*(notes if isinstance(notes, list) else []), note]  # type: ignore[attr-defined]  # 3.11


def compile_source(source: str, filename: str, mode: str = "exec", first_line: int = 0, tree: bytes = b"") -> CodeType:
    """Compile text that was perhaps written inside an indented string.

    Args:
        source: The text.
        filename: What frames and errors name as its file; known to :mod:`linecache` afterwards.
        mode: ``"exec"`` or ``"eval"``.
        first_line: Line of the file that the text begins on, if it is a part of it.
        tree: What to compile instead, if this Python can; the text is then for tracebacks.

    Raises:
        SyntaxError: With the line it is about, whatever file of that name the disk holds.
    """
    if mode == "eval":
        source = source.strip()
    elif _is_indented(source):
        import textwrap

        source = textwrap.dedent(source)
    remember_source(filename, source, first_line)
    code = _compile_tree(tree, filename, mode) if tree else None
    if code is not None:
        return code
    # So that code and errors have the lines of the file.
    source = "\n" * (first_line - 1) + source
    try:
        code = compile(source, filename, mode, dont_inherit=True)
    except SyntaxError as exc:
        _show_line(exc, source)
        raise
    assert isinstance(code, CodeType)
    return code


def _compile_tree(tree: bytes, filename: str, mode: str) -> Optional[CodeType]:
    """Compile a tree; None if this Python cannot: then the text says why, or does as well."""
    from easycluster.far.trees import unpack_tree

    try:
        code = compile(unpack_tree(tree), filename, mode, dont_inherit=True)  # type: ignore[call-overload]
    except (SyntaxError, TypeError, ValueError, RecursionError):
        return None
    assert isinstance(code, CodeType)
    return code


def _is_indented(source: str) -> bool:
    for line in source.splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            return line[0] in " \t"
    return False


def _show_line(exc: SyntaxError, source: str) -> None:
    """Set the text of a SyntaxError: for some of them the compiler looks in a file, and finds nothing.

    The arguments get it as well, and the place if they lack it: they are what crosses the wire.
    """
    lines = source.splitlines()
    if exc.lineno is None or not 0 < exc.lineno <= len(lines):
        return
    exc.text = lines[exc.lineno - 1]
    place = exc.args[1] if len(exc.args) == 2 else (exc.filename, exc.lineno, exc.offset, None)
    if isinstance(place, tuple) and len(place) >= 4:
        exc.args = (exc.msg, (*place[:3], exc.text, *place[4:]))


def read_source(filename: str) -> str:
    """Read a Python file in the encoding it declares, with any kind of line ends."""
    import importlib.util

    with open(filename, "rb") as file:
        return importlib.util.decode_source(file.read())
