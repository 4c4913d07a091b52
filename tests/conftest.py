"""Fixtures of all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from typing import TYPE_CHECKING

import pytest
from faults.outcome import outcome, pytest_itemcollected
from support.sshd import sshd, sshd_factory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["outcome", "pytest_itemcollected", "sshd", "sshd_factory"]


def pytest_configure(config: pytest.Config) -> None:
    """Show frames of ours in failures: here they are what is tested."""
    if config.pluginmanager.hasplugin("easycluster-tracebacks"):
        config.pluginmanager.unregister(name="easycluster-tracebacks")


@pytest.fixture(scope="session", autouse=True)
def lock_directory() -> Iterator[str]:
    """Where labs of this process lock their hosts: many suites have a gpu01, and each means another."""
    before = os.environ.get("EC_LOCK_DIRECTORY")
    path = os.environ["EC_LOCK_DIRECTORY"] = f"/tmp/ec-locks-{uuid.uuid4().hex}"
    yield path
    if before is None:
        del os.environ["EC_LOCK_DIRECTORY"]
    else:
        os.environ["EC_LOCK_DIRECTORY"] = before
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def bytecode() -> Iterator[None]:
    """Where Pythons are told to write no bytecode, have those that tests start keep it for the run.

    There are hundreds, and each would compile the whole package.
    """
    if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
        yield
        return
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="pycache-", ignore_cleanup_errors=True) as folder,
    ):
        os.chmod(folder, 0o755)  # some tests are other users
        patch.delenv("PYTHONDONTWRITEBYTECODE")
        patch.setenv("PYTHONPYCACHEPREFIX", folder)
        yield
