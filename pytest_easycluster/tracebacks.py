"""Keeps EasyCluster's own frames out of pytest's tracebacks: a far-side failure reads as if it were here.

``--full-trace`` shows them all the same.  A plugin of its own, so that who works on EasyCluster can do without it:
``-p no:easycluster-tracebacks``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

# What our code has values pickled by.
_PICKLING = ("copyreg", "pickle", "cloudpickle")

_OUTCOMES = (pytest.fail.Exception, pytest.skip.Exception)


def leave_out_our_own(exc: BaseException) -> None:
    """Take our frames out of an exception and all it hangs together with, and causes that lie within our code.

    To mark them with ``__tracebackhide__`` would not do: in groups older versions of pytest show all frames.
    """
    if isinstance(exc, _OUTCOMES) and not exc.pytrace:
        return  # a sentence of ours without traceback; pytest would say that all of it is hidden
    from easycluster.errors import EasyClusterError

    ours = _our_folders()
    for error in list(_whole(exc, set())):
        if isinstance(error, EasyClusterError):
            _leave_out_inner_causes(error, ours)
    for error in _whole(exc, set()):
        _leave_out_frames(error, ours)


def has_users_frames(exc: BaseException) -> bool:
    """Whether an exception went through code of the user's, here or on a far side."""
    ours = _our_folders()
    return not all(_is_ours(traceback, ours) for traceback in _entries(exc))


def _our_folders() -> tuple[str, ...]:
    """Where the near side's library and plugin are; far-side frames have the host in front of their file name."""
    return tuple(os.path.dirname(str(sys.modules[name].__file__)) + os.sep for name in ("easycluster", __package__))


def _leave_out_frames(error: BaseException, ours: tuple[str, ...]) -> None:
    kept = [traceback for traceback in _entries(error) if not _is_ours(traceback, ours)]
    # In place: pytest holds the first entry.
    for traceback, following in zip(kept, [*kept[1:], None], strict=False):
        traceback.tb_next = following
    error.__traceback__ = kept[0] if kept else None


def _leave_out_inner_causes(error: BaseException, ours: tuple[str, ...]) -> None:
    """Unlink causes without a frame of the user's: our sentence already says what they say."""
    cause = first = _before(error)
    seen = {id(error)}  # causes that came from a far side may go round in a circle
    while cause is not None and all(_is_inside(traceback, ours) for traceback in _entries(cause)):
        seen.add(id(cause))
        cause = _before(cause)
        if id(cause) in seen:
            cause = None
    if cause is not first:
        error.__cause__, error.__context__ = None, cause
        error.__suppress_context__ = cause is None


def _before(exc: BaseException) -> BaseException | None:
    """The exception that is shown before this one."""
    return exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _is_ours(traceback: TracebackType, ours: tuple[str, ...]) -> bool:
    return traceback.tb_frame.f_code.co_filename.startswith(ours)


def _is_inside(traceback: TracebackType, ours: tuple[str, ...]) -> bool:
    module = traceback.tb_frame.f_globals.get("__name__")
    return _is_ours(traceback, ours) or str(module).partition(".")[0] in _PICKLING


def _entries(exc: BaseException) -> Iterator[TracebackType]:
    traceback = exc.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _whole(exc: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """An exception with its causes, contexts and members."""
    if id(exc) in seen:
        return
    seen.add(id(exc))
    yield exc
    for other in (exc.__cause__, exc.__context__, *getattr(exc, "exceptions", ())):
        if isinstance(other, BaseException):
            yield from _whole(other, seen)
