"""``easycluster -S``: the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.keys import key_from_options
from easycluster.server import run_server

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(opts: argparse.Namespace) -> int:
    """Run the server until it is told to stop."""
    run_server(
        opts.port,
        # Key files are the server's to read, again and again.
        b"" if opts.keyfile is not None else key_from_options(opts),
        opts.bind,
        opts.allow,
        opts.verbose,
        opts.daemonize,
        opts.pidfile,
        opts.no_ipv6,
        opts.profile,
        keyfile=opts.keyfile,
        audit=opts.audit,
    )
    return 0
