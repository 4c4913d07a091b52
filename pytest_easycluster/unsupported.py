"""What stands behind a device cannot do something: the test is skipped, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from easycluster.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Generator


class Skipper:
    """Makes skips of :class:`easycluster.errors.Unsupported`, in tests and their fixtures."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Skip a test whose fixtures need what cannot be done."""
        try:
            return (yield)
        except Unsupported as exc:
            raise _skip(exc) from exc

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Skip a test that needs it itself."""
        try:
            return (yield)
        except Unsupported as exc:
            raise _skip(exc) from exc


def _skip(exc: Unsupported) -> BaseException:
    # The reader wants the place of the test, not of this line.
    return pytest.skip.Exception(str(exc), _use_item_location=True)
