"""Which lab is meant when a command names none: ``EC_INVENTORY``, or what pytest would use here."""

from __future__ import annotations

import configparser
import importlib
import os
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["ENVIRONMENT", "default_sources", "from_environment", "seen_from_here"]

ENVIRONMENT: Final = "EC_INVENTORY"

# Files that may configure pytest, the first one found counts; with the sections that make them do it.
_FILES: Final = {
    "pytest.toml": "pytest",
    ".pytest.toml": "pytest",
    "pytest.ini": "pytest",
    ".pytest.ini": "pytest",
    "pyproject.toml": "tool.pytest.ini_options tool.pytest",
    "tox.ini": "pytest",
    "setup.cfg": "tool:pytest",
}


def default_sources(start: Path | None = None) -> list[str]:
    """Lab files as ``--ec-inventory`` would take them, none if nothing says any.

    Args:
        start: Where to begin looking for pytest's configuration, upwards; the current folder by default.
    """
    found = from_environment()
    if found:
        return found
    first = Path.cwd() if start is None else start
    for folder in (first, *first.parents):
        for name, sections in _FILES.items():
            path = folder / name
            if path.is_file():
                said = _read(path, sections.split())
                if said is not None:
                    return [seen_from_here(one, folder) for one in said]
    return []


def from_environment() -> list[str]:
    """What ``EC_INVENTORY`` says, several separated by ``;``."""
    return [one.strip() for one in os.environ.get(ENVIRONMENT, "").split(";") if one.strip()]


def seen_from_here(source: str, folder: Path) -> str:
    """A lab file that a configuration in ``folder`` names, as messages should name it."""
    if source.startswith("hosts:"):
        return source
    kind = "ansible:" if source.startswith("ansible:") else ""
    path = folder / Path(source.removeprefix(kind)).expanduser()
    relative = os.path.relpath(path)
    return kind + (str(path) if relative.startswith("..") else relative)


def _read(path: Path, sections: list[str]) -> list[str] | None:
    """What a file says about ``ec_inventory``; None if it does not configure pytest, or cannot be read."""
    if path.suffix == ".toml":
        tables = _toml_tables(path, sections)
    else:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            return None
        tables = [dict(parser[name]) for name in sections if parser.has_section(name)]
    if not tables and path.name not in ("pytest.ini", ".pytest.ini"):
        return None
    for table in tables:
        said = table.get("ec_inventory")
        if said:
            lines = said.splitlines() if isinstance(said, str) else map(str, said)
            return [line.strip() for line in lines if line.strip()]
    return []


def _toml_tables(path: Path, sections: list[str]) -> list[dict[str, Any]]:
    # Python 3.10 has none of its own; pytest brings this one there.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        everything = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError):
        return []
    found = []
    for section in sections:
        table: Any = everything
        for key in section.split("."):
            table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict):
            found.append(table)
    return found
