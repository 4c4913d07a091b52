"""``easycluster schema``: the JSON Schema of lab files, for editors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    commands.add_parser(
        "schema",
        help="print the JSON Schema of lab files, for editors",
        description="Print the JSON Schema of lab files:  easycluster schema > lab.schema.json",
        epilog="With the YAML language server, a lab file begins with  # yaml-language-server: $schema=lab.schema.json",
    )


def run(opts: argparse.Namespace) -> int:
    """Print it."""
    from easycluster.lab.jsonschema import lab_schema

    sys.stdout.write(json.dumps(lab_schema(), indent=2) + "\n")
    return 0
