"""What a call on several hosts came to, as subtests: one for each host.  Before pytest 9 all hosts are one test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from easycluster.lab import HostErrors

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.lab import Host, HostResults

__all__ = ["HostChecks", "checks_of"]


class HostChecks:
    """Checks hosts one by one, and goes on after one that fails.

    Args:
        subtests: The fixture ``subtests`` of pytest 9 or of pytest-subtests, None without one.
    """

    def __init__(self, subtests: Any) -> None:
        self._subtests = subtests

    def __call__(self, results: HostResults, check: Callable[[Any], object] | None = None) -> None:
        """Fail for each host whose call failed, or whose result is refused.

        Args:
            results: What ``hosts.attempt.f(x)`` came to.
            check: Called with the result of each host that did not fail; an exception refuses it, as that of an
                ``assert`` does, and nothing else.

        Raises:
            HostErrors: Without subtests, if any host failed.
        """
        errors: dict[str, Exception] = {}
        for name in results:
            try:
                with self.host(name):
                    value = results[name]
                    if check is not None:
                        check(value)
            except Exception as exc:  # noqa: BLE001  # raised with the others
                errors[name] = exc
        if errors:
            passed = {name: results[name] for name in results if name not in errors}
            raise HostErrors.collect("the check", errors, passed)

    def host(self, host: Host | str) -> contextlib.AbstractContextManager[Any]:
        """What is done in this block is done to one host; without subtests, its failure is that of the test."""
        if self._subtests is None:
            return contextlib.nullcontext()
        name = host if isinstance(host, str) else host.name
        block: contextlib.AbstractContextManager[Any] = self._subtests.test(name)
        return block


def checks_of(request: pytest.FixtureRequest) -> HostChecks:
    """The checks of one test."""
    try:
        return HostChecks(request.getfixturevalue("subtests"))
    except pytest.FixtureLookupError:
        return HostChecks(None)
