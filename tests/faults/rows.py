"""Every row of the fault matrix.

The rows are in two parts: what happens inside a process of ours, and what happens to links, hosts and owners.
"""

from __future__ import annotations

from .rows_links import LINK_ROWS
from .rows_processes import PROCESS_ROWS

__all__ = ["ROWS"]

ROWS = {row.name: row for row in (*PROCESS_ROWS, *LINK_ROWS)}
