"""Programs of others that a test needs: skipped without them, and in CI failed."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["require"]

# Debian has servers in /usr/sbin, which is not on every path.
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"


def require(program: str, package: str) -> str:
    """Return the path of a program, or skip the test; in CI it fails instead."""
    found = shutil.which(program, path=PATH)
    if found is None:
        text = f"needs {program}: install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found
