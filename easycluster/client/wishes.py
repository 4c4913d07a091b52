"""What this process wishes of all its far sides beyond calls; see :mod:`easycluster.far.wishes`.

Far sides are told before the next call, and only if something has changed for them.  Plain calls do not look here:
a change marks each session as one whose next call takes the long way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from easycluster.client.process import live

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.session import NearSession

__all__ = ["WISHES", "changed", "current", "mark", "wish"]

WISHES = "wishes"
"""What a session whose far side is to be told has in its ``special``."""

# A value, or a function that gives it.
_wishes: dict[str, Any | Callable[[], Any]] = {}


def wish(name: str, value: Any | Callable[[], Any]) -> None:
    """Wish something of all far sides, those that are connected and those to come."""
    _wishes[name] = value
    changed()


def changed() -> None:
    """Look again at what wishes that are functions give, before the next call of each session."""
    for client in list(live):
        session = client._session
        if session is not None:
            session.special.add(WISHES)


def mark(session: NearSession) -> None:
    """Tell a new session's far side, if there is anything to tell."""
    if _wishes:
        session.special.add(WISHES)


def current() -> dict[str, Any]:
    """Return the wishes as they are sent."""
    return {name: value() if callable(value) else value for name, value in _wishes.items()}
