"""Secrets of the lab file stay out of reports: messages, tracebacks, local variables, sections, JUnit XML.

Far-side output and messages of ours are masked where they are made.  What is left is what a test itself shows: an
assertion that compares a password, ``--showlocals``, a command line in an exception.  Every report is made of the
same few objects of pytest, so they are gone through once, after all other plugins have added to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from easycluster.lab import Lab

# pytest's own objects for tracebacks; others may be anything, and are shown by str().
_REPR_MODULE = "_pytest._code"


def register(config: pytest.Config, lab: Lab) -> None:
    """Mask reports of this run, if the lab has secrets."""
    if lab.inventory.has_secrets:
        config.pluginmanager.register(Masker(lab.inventory.mask), "easycluster-secrets")


class Masker:
    """Masks reports.

    Args:
        mask: Replaces secrets in a text.
    """

    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask

    # Outermost, so that nothing is added to the report after it.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Mask the report of one phase of a test."""
        report = yield
        report.sections = [(name, self._mask(text)) for name, text in report.sections]
        if report.longrepr is not None and self._mask(text := str(report.longrepr)) != text:
            report.longrepr = masked(report.longrepr, self._mask)
        return report


class KeyNames:
    """Names tests that are given a key as keys are shown everywhere: pytest writes out all that is bytes."""

    def pytest_make_parametrize_id(self, val: object) -> str | None:
        """Name a key."""
        return repr(val) if type(val).__module__ == "easycluster.keys" else None


def masked(value: Any, mask: Callable[[str], str]) -> Any:
    """The value with secrets masked in every text of it; pytest's objects are changed in place."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, (list, tuple)):
        return type(value)([masked(one, mask) for one in value])
    if type(value).__module__.startswith(_REPR_MODULE) and hasattr(value, "__dict__"):
        for name, one in vars(value).items():
            # Some of these classes are frozen.
            object.__setattr__(value, name, masked(one, mask))
        return value
    if value is None or isinstance(value, (bool, int, float)) or type(value).__module__.startswith(_REPR_MODULE):
        return value
    text = str(value)
    return value if mask(text) == text else mask(text)
