"""Types that the stubs of far-side code are written with; ``easycluster stubs`` makes these.

Only type checkers and editors read this: at run time a response is a ``NonblockingResponse`` and a far-side global is
what a client gives for its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from easycluster.client.response import NonblockingResponse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Global", "NotInTheCode", "Response"]

T = TypeVar("T")


class Response(NonblockingResponse, Generic[T]):
    """What a call with ``nonblocking=True`` gives: a response whose result is a ``T``."""

    if TYPE_CHECKING:

        def wait(self, origexc: bool | str | None = None, timeout: float | None = None) -> T:
            """Wait for the answer and return it."""

        def result(self, timeout: float | None = None) -> T:
            """The same, as a future has it."""

        def add_done_callback(self, callback: Callable[[Any], object]) -> None:
            """Have a function called with this once the answer is there."""


class Global(Generic[T]):
    """A far-side global that holds a ``T``: ``host.LIMIT.value``, to read and to set."""

    value: T

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Call what the name stands for."""

        def __getattr__(self, name: str) -> Any:
            """Go on with a dot."""


class NotInTheCode:
    """What a stub says of a name that the role's code does not define: nothing can be done with it.

    For names that it has from elsewhere, write ``host.remote.NAME``.
    """
