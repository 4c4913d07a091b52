"""Settings that the command line, the environment and the ini file can give, in this order of strength."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Setting:
    """A value and where it comes from.

    Attributes:
        value: The text, ``""`` if nobody says anything.
        source: In the words of a message: ``--ec-limit``, ``EC_LIMIT`` or ``ec_limit``.
    """

    value: str
    source: str


def add_setting(
    parser: pytest.Parser, name: str, metavar: str, text: str, choices: tuple[str, ...] | None = None
) -> None:
    """Add ``--ec-NAME`` and the ini key ``ec_NAME``; ``EC_NAME`` of the environment needs no announcing.

    Args:
        parser: pytest's.
        name: In lower case, with dashes.
        metavar: What the value is.
        text: The help.
        choices: The only values there are.
    """
    key = _key(name)
    group = parser.getgroup("easycluster", "labs (EasyCluster)")
    group.addoption(f"--ec-{name}", dest=key, metavar=metavar, default=None, choices=choices, help=text)
    parser.addini(key, f"as --ec-{name}", type="string", default="")


def setting(config: pytest.Config, name: str) -> Setting:
    """What is said about ``name``, by whoever has the last word."""
    key = _key(name)
    given = config.getoption(key)
    if given is not None:
        return Setting(str(given), f"--ec-{name}")
    if os.environ.get(key.upper()):
        return Setting(os.environ[key.upper()], key.upper())
    return Setting(str(config.getini(key)), key)


def _key(name: str) -> str:
    return "ec_" + name.replace("-", "_")
