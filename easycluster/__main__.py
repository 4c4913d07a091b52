"""``python -m easycluster``: the ``easycluster`` command."""

from __future__ import annotations

import sys

from easycluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
