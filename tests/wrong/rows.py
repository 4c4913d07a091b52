"""Every row of the table, in its order: those that others were put to first."""

from __future__ import annotations

from .rows_files import FILE_ROWS
from .rows_hosts import HOST_ROWS
from .rows_runs import RUN_ROWS

__all__ = ["ROWS"]

_EVERY = {**HOST_ROWS, **RUN_ROWS, **FILE_ROWS}
_FIRST = ("down", "lazy", "silent", "link_killed", "frozen", "ctrl_c", "killed", *FILE_ROWS)

ROWS = {name: _EVERY[name] for name in dict.fromkeys((*_FIRST, *_EVERY))}
