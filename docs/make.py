"""Writes the pages that are made from the code.

    python -m docs.make

``--check`` writes nothing and ends with 1 if a page is not what the code gives now, which a test does as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docs import made_commands, made_inventory, made_options, made_security

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOCS = Path(__file__).resolve().parent

PAGES: dict[str, Callable[[], str]] = {
    "reference_inventory.md": made_inventory.page,
    "reference_options.md": made_options.page,
    "reference_commands.md": made_commands.page,
    "security.md": made_security.page,
}


def outdated() -> dict[str, str]:
    """The pages that are not as they should be, with the text that they should have."""
    made = {name: page() for name, page in PAGES.items()}
    return {name: text for name, text in made.items() if not _is(DOCS / name, text)}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description="Write the pages that the code makes.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a page is out of date")
    opts = parser.parse_args(args)
    old = outdated()
    if opts.check:
        for name in old:
            sys.stderr.write(f"docs/{name} is out of date; run  python -m docs.make\n")
        return 1 if old else 0
    for name, text in old.items():
        (DOCS / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
