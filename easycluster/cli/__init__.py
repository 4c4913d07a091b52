"""The ``easycluster`` command: looks after labs, makes keys, runs the server, installs it as a service.

Its options are those of EasyCluster 0.22, flat, so that start scripts written for
it go on working; what is new since then is a word: ``easycluster check``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: The command line without the program's name; by default this process's.

    Returns:
        The exit status: 0 done, 1 it could not be done (standard error says why) or, for
        ``--query-installed``, not installed, 4 if a lab file has faults.

    Raises:
        SystemExit: With status 2 for a wrong command line, 0 for ``--help`` and ``--version``.
    """
    # Late, so that importing this package for its name costs nothing.
    from easycluster.cli import generate, serve, service
    from easycluster.cli.options import make_parser

    parser = make_parser()
    opts, rest = parser.parse_known_args(args)
    if rest and (not getattr(opts, "takes_more_words", False) or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        # Words behind an option, as in  reserve gpu07 --for 4h lab.yaml; argparse gives a command the first ones only.
        opts.words += rest
    try:
        if opts.command:
            status: int = import_module(f"easycluster.cli.{opts.command}").run(opts)
            return status
        if opts.query_installed:
            return 0 if service.is_installed() else 1
        if opts.install:
            return service.install(opts)
        if opts.uninstall:
            return service.uninstall()
        if opts.stop:
            return service.stop()
        if opts.start:
            return service.start()
        if opts.generate is not None:
            return generate.run(opts)
        if opts.serve:
            return serve.run(opts)
    except (EasyClusterError, ValueError, OSError) as exc:
        # A user's mistake or a machine that will not: the sentence, not our stack.
        print(f"easycluster: {_sentence(exc)}", file=sys.stderr)
        return 1
    parser.print_help()
    return 0


def _sentence(exc: Exception) -> str:
    return str(exc.strerror) if isinstance(exc, OSError) and exc.strerror and exc.filename is None else str(exc)
