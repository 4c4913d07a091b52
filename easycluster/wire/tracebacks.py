"""Tracebacks as plain values, and real tracebacks made from them again.

What crosses is a tuple of entries, outermost first.  An entry is a tuple of builtin values::

    (filename, line, name, first, source, end_line, column, end_column, module, hidden[, locals])

    filename    as the code object has it, on the machine where it ran
    line        where the frame was, from 1
    name        of the function, or "<module>" and its like
    first       line of source[0]: of the function's ``def`` or decorator, later if it is long
    source      lines of the function with their line ends, () if there is no source
    end_line, column, end_column
                the part of the line that failed (columns in UTF-8 bytes), None before Python 3.11
    module      ``__name__`` of the frame's globals
    locals      only after :func:`show_locals`: names and reprs of local variables
    hidden      True if the function set ``__tracebackhide__``, and for frames of ours between the user's

:func:`make_traceback` builds frames that Python, pytest and pdb treat like any other: their file name carries the
host, and the source goes to :mod:`linecache` under that name.  What is not a file, ``<execblock 1>``, becomes
``host:(execblock 1)``: pytest leaves out frames with angle brackets in places, because it finds no source for them.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import itertools
import linecache
import sys
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

__all__ = ["DEFINITIONS_ORIGIN", "NEAR_SIDE", "Entry", "find_users_part", "is_ours", "make_traceback", "take_traceback"]

Entry = Tuple[Any, ...]

# Lines of one function.  A test report shows a function from its first line down to the failing one; nobody
# reads more than a few screens of it.
MAX_SOURCE = 200
# A module's or a script's own code has no first line worth showing, so only the neighbourhood of the failing one.
MAX_MODULE_SOURCE = 20
# A line of source, in characters: generated files have lines of megabytes.
MAX_LINE = 1000
# Entries kept at each end of a traceback.  Python's own recursion limit is 1000 frames.
MAX_ENTRIES = 100
# linecache fills the lines before the first known one, so a wild line number must not cost memory.
MAX_LINENO = 200_000
# Files whose far-side source is kept here: scripts sent to execblock have a new name each.
MAX_FILES = 1000

# Where the modules of ``define_common`` say they are from: below our own name too they hold what users wrote.
DEFINITIONS_ORIGIN = "easycluster definitions"

# What a far side calls the host of frames that came to it from the near side, where a callback ran.
NEAR_SIDE = "the near side"

# Parts of Python, and of what helps it, that our own code works through: importing a name, pickling a value.  Frames of
# theirs at either end of a traceback say as little to the user as ours do.
_MACHINERY = ("importlib.", "_frozen_importlib", "pickle.", "copyreg.", "cloudpickle.")

# What takes down the local variables of the frames of one traceback, if somebody wants to see them.
_takers: List[Callable[[], Callable[[FrameType], Tuple[Tuple[str, str], ...]]]] = []

# What make_traceback put into linecache, oldest first.
_registered: Dict[str, List[str]] = {}


def is_ours(frame: FrameType) -> bool:
    """Whether a frame belongs to EasyCluster, or to what it works through, and not to code that a user sent."""
    module = frame.f_globals.get("__name__")
    if not isinstance(module, str):
        return False
    if module.startswith("easycluster."):
        return getattr(frame.f_globals.get("__spec__"), "origin", None) != DEFINITIONS_ORIGIN
    return f"{module}.".startswith(_MACHINERY)


def find_users_part(tb: Optional[TracebackType], skip: Callable[[FrameType], bool]) -> Tuple[List[TracebackType], int]:
    """Find what remains of a traceback without the frames at both ends for which ``skip`` is true.

    Returns:
        The entries that remain, and how many there are before them.
    """
    tracebacks = []
    while tb is not None:
        tracebacks.append(tb)
        tb = tb.tb_next
    start, end = 0, len(tracebacks)
    while start < end and skip(tracebacks[start].tb_frame):
        start += 1
    while start < end and skip(tracebacks[end - 1].tb_frame):
        end -= 1
    return tracebacks[start:end], start


def show_locals(taker: Optional[Callable[[], Callable[[FrameType], Tuple[Tuple[str, str], ...]]]]) -> None:
    """Take down local variables as well from now on.

    Args:
        taker: Called for each traceback; what it returns gives names and reprs of a frame's variables.  None to leave
            them out.
    """
    _takers[:] = [] if taker is None else [taker]


class Shown:
    """A far-side value in the frames made here; its repr is the original's."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def take_traceback(tb: Optional[TracebackType], skip: Callable[[FrameType], bool] = is_ours) -> Tuple[Entry, ...]:
    """Take down a traceback with the source of its functions.

    Repeats, as a deep recursion makes them, are folded into one entry that says how many there were; of what is
    still long the middle is left out, and an entry says so.

    Args:
        tb: Where to begin; None gives an empty tuple.
        skip: Frames at both ends for which this is true are left out, so that the last one shown is a line that the
            user wrote; if it is true for all, none is left.  Those in between are marked as hidden.
    """
    tracebacks, _ = find_users_part(tb, skip)
    for filename in {each.tb_frame.f_code.co_filename for each in tracebacks}:
        linecache.checkcache(filename)
    entries: List[Entry] = []
    take_locals = _takers[0]() if _takers else None
    # One entry object a place: the pickle of a deep recursion then holds its source once.
    known: Dict[Tuple[int, int, int], Entry] = {}
    for each in tracebacks:
        key = (id(each.tb_frame.f_code), each.tb_lasti, each.tb_lineno or 0)
        entry = known.get(key)
        if entry is None:
            entry = known[key] = _take_entry(each, skip(each.tb_frame))
        if take_locals is not None:
            # Each frame has its own, so that nothing is folded.
            entry = (*entry, take_locals(each.tb_frame))
        entries.append(entry)
    return tuple(_cut(_fold(entries)))


def make_traceback(entries: Sequence[Entry], host: str) -> Optional[TracebackType]:
    """Build a traceback whose frames are named ``host:filename`` and show their far-side source.

    Args:
        entries: From :func:`take_traceback`.
        host: Label of the host where they ran; ``""`` leaves the file names alone, and what is known of the files.
    """
    tb: Optional[TracebackType] = None
    made: Dict[int, Tuple[FrameType, int, int]] = {}
    for entry in reversed(entries):
        frame_and_place = made.get(id(entry))
        if frame_and_place is None:
            frame_and_place = made[id(entry)] = _make_frame(entry, host)
        tb = TracebackType(tb, *frame_and_place)
    return tb


def _take_entry(tb: TracebackType, hidden: bool) -> Entry:
    frame, code = tb.tb_frame, tb.tb_frame.f_code
    line = tb.tb_lineno or code.co_firstlineno
    end_line, column, end_column = _positions(tb)
    first, source = _function_source(frame, line)
    # f_locals is a copy made on demand, so it is asked for only where it can matter.
    hidden = hidden or ("__tracebackhide__" in code.co_varnames and frame.f_locals.get("__tracebackhide__") is True)
    module = frame.f_globals.get("__name__")
    module = module if type(module) is str else ""
    return code.co_filename, line, code.co_name, first, source, end_line, column, end_column, module, hidden


def _positions(tb: TracebackType) -> Tuple[Optional[int], Optional[int], Optional[int]]:
    if sys.version_info >= (3, 11) and tb.tb_lasti >= 0:
        places = itertools.islice(tb.tb_frame.f_code.co_positions(), tb.tb_lasti // 2, None)
        line, end_line, column, end_column = next(places, (None, None, None, None))
        if line == tb.tb_lineno:
            return end_line, column, end_column
    return None, None, None


def _function_source(frame: FrameType, line: int) -> Tuple[int, Tuple[str, ...]]:
    code = frame.f_code
    try:
        lines = linecache.getlines(code.co_filename, frame.f_globals)
    except Exception:  # noqa: BLE001  # the module's own loader was asked
        lines = []
    is_function = not code.co_name.startswith("<") or code.co_name == "<lambda>"
    first = code.co_firstlineno if is_function else max(1, line - MAX_MODULE_SOURCE + 1)
    first = max(1, first, line - MAX_SOURCE + 1)
    # Before text that is a part of a file there may be only what stands in for the rest of it.
    while not is_function and first < line and not "".join(lines[first - 1 : first]).strip():
        first += 1
    last = min(max(line, _last_line(code) if is_function else line), first + MAX_SOURCE - 1)
    source = tuple(text if len(text) <= MAX_LINE else text[:MAX_LINE] + "\n" for text in lines[first - 1 : last])
    return first, source


def _last_line(code: CodeType) -> int:
    if sys.version_info >= (3, 10):
        last = max((line for _, _, line in code.co_lines() if line is not None), default=0)
    else:
        # Pairs of (bytes, signed lines): what dis.findlinestarts reads, without importing dis.
        steps = itertools.accumulate((step - 256 if step >= 128 else step for step in code.co_lnotab[1::2]), initial=0)
        last = code.co_firstlineno + max(steps)
    nested = [_last_line(each) for each in code.co_consts if isinstance(each, CodeType)]
    return max([last, *nested])


def _fold(entries: List[Entry]) -> List[Entry]:
    """Replace repeats of the same few entries, at least ten times in a row, by three of them and a note."""
    kept: List[Entry] = []
    index = 0
    while index < len(entries):
        for period in range(1, 9):
            end = index + period
            while end < len(entries) and entries[end] is entries[end - period]:
                end += 1
            repeats = (end - index) // period
            if repeats >= 10:
                kept += entries[index : index + 3 * period]
                which = "previous frame" if period == 1 else f"previous {period} frames"
                kept.append(_note(f"{which} repeated {repeats - 3} more times"))
                index += repeats * period
                break
        else:
            kept.append(entries[index])
            index += 1
    return kept


def _cut(entries: List[Entry]) -> List[Entry]:
    if len(entries) <= 2 * MAX_ENTRIES:
        return entries
    left_out = len(entries) - 2 * MAX_ENTRIES
    return [*entries[:MAX_ENTRIES], _note(f"{left_out} frames left out"), *entries[-MAX_ENTRIES:]]


def _note(text: str) -> Entry:
    return "<frames left out>", 1, f"[{text}]", 1, (), None, None, None, "", False


def _make_frame(entry: Entry, host: str) -> Tuple[FrameType, int, int]:
    """Return a frame, the offset of an instruction in it, and the line number, for a place on another machine."""
    filename, line, name, first, source, end_line, column, end_column, module, hidden = entry[:10]
    values = {each: Shown(shown) for each, shown in (entry[10] if len(entry) > 10 else ()) if each.isidentifier()}
    if filename.startswith(f"{NEAR_SIDE}:"):
        # Back from the far side that a callback's exception went through; the file is here.
        filename = filename[len(NEAR_SIDE) + 1 :]
        if not linecache.getlines(filename):
            _register_source(filename, first, source)
    elif host:
        is_file = not (filename.startswith("<") and filename.endswith(">"))
        filename = f"{host}:{filename}" if is_file else f"{host}:({filename[1:-1]})"
        _register_source(filename, first, source)
    line, first = _as_line(line), _as_line(first)
    import ast  # late, because few sessions see a traceback

    tree = ast.parse("def function():\n yield")
    # Python 3.11 and newer mark the failing part of a line by the columns of the instruction.
    if end_line is None or column is None or end_column is None or not line <= end_line:
        end_line, column, end_column = line, -1, -1
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.lineno = node.end_lineno = first
            node.col_offset = node.end_col_offset = 0
            # A generator that has not begun has the local variables that are its arguments.
            node.args.args = [ast.copy_location(ast.arg(arg=each), node) for each in values]
        elif isinstance(node, (ast.Expr, ast.Yield)):
            node.lineno, node.end_lineno, node.col_offset, node.end_col_offset = line, end_line, column, end_column
    module_code = compile(tree, filename, "exec")
    code = next(each for each in module_code.co_consts if isinstance(each, CodeType))
    place = 0
    if sys.version_info >= (3, 11):
        wanted = (line, end_line, column if column >= 0 else None, end_column if column >= 0 else None)
        place = 2 * next((index for index, each in enumerate(code.co_positions()) if each == wanted), 0)
        code = code.replace(co_name=name, co_qualname=name)
    else:
        code = code.replace(co_name=name)
    namespace: Dict[str, Any] = {"__name__": module, "__file__": filename, "__builtins__": __builtins__}
    if host:
        namespace["__easycluster_host__"] = host
    if hidden:
        namespace["__tracebackhide__"] = True
    # A generator that never ran has a frame without a caller.  The frame of a function that raised would keep its
    # callers, and so the exception itself, in a cycle that only the garbage collector ends.
    return FunctionType(code, namespace)(*values.values()).gi_frame, place, line


def _as_line(number: int) -> int:
    return min(max(number, 1), 10_000_000)


def _register_source(filename: str, first: int, source: Sequence[str]) -> None:
    if not source or first + len(source) > MAX_LINENO:
        return
    lines = _registered.pop(filename, [])
    lines.extend(["\n"] * (first - 1 + len(source) - len(lines)))
    lines[first - 1 : first - 1 + len(source)] = source
    # The newest at the end; a version of the file that has changed since wins over the older one.
    _registered[filename] = lines
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
    # Several threads may be here: list() of a dictionary and pop() are each one step.
    for oldest in list(_registered)[:-MAX_FILES]:
        _registered.pop(oldest, None)
        linecache.cache.pop(oldest, None)
