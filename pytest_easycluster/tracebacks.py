"""Keeps EasyCluster's own frames out of pytest's tracebacks: a far-side failure reads as if it were here.

``--full-trace`` shows them all the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from easycluster import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

# Frames of the near side's library and plugin; far-side ones have the host in front of their file name.
_OURS = tuple(os.path.dirname(os.path.abspath(one)) + os.sep for one in (errors.__file__, __file__))


_OUTCOMES = (pytest.fail.Exception, pytest.skip.Exception)


def hide_our_frames(exc: BaseException) -> None:
    """Mark the modules that an exception passed through, so that pytest leaves their frames out."""
    if isinstance(exc, _OUTCOMES):
        return  # a sentence of ours without traceback; pytest would say that all of it is hidden
    for error in _whole(exc, set()):
        traceback = error.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if frame.f_code.co_filename.startswith(_OURS):
                frame.f_globals["__tracebackhide__"] = True
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
