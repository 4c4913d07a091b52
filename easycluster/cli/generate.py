"""``easycluster -g FILE``: a new key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from easycluster.keys import generate_key, write_key_file

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(opts: argparse.Namespace) -> int:
    """Write a new key file."""
    if not write_key_file(opts.generate, generate_key(), opts.overwrite):
        print(f"easycluster: {opts.generate} exists already; replace it with -O", file=sys.stderr)
        return 1
    print(f"wrote {opts.generate}; copy it to the other machines by a safe way, such as scp")
    return 0
