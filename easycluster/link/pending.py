"""What threads wait for: answers to requests, and requests of the peer.

This module is shipped to the far side.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Optional, Tuple

if TYPE_CHECKING:
    from easycluster.wire.frames import Frame

__all__ = ["Expired", "Items", "Pending", "Waiter", "wake"]

_monotonic = time.monotonic


class Expired(Exception):
    """A wait reached its deadline.  Never leaves EasyCluster: callers make a CallTimeout of it."""


class Items(list):  # type: ignore[type-arg]  # Python 3.8 cannot say of what
    """A deque of a frame or none: an empty deque has room for 64 and takes 600 bytes."""

    __slots__ = ()

    def popleft(self) -> Any:
        """Take the first one off."""
        return self.pop(0)


class Waiter:
    """Something that a thread waits for: frames that were put into its hands.

    Attributes:
        items: The frames.  A tuple of one or none where most are answered with a VALUE.
    """

    __slots__ = ("items", "lock")

    def __init__(self) -> None:
        self.items: Any = deque()
        # Held while a thread sleeps on it; whoever has news releases it.
        self.lock: Optional[Any] = None

    def take(self) -> Frame:
        """Take the first frame; a VALUE in a tuple stays, so that any number may take it.

        Raises:
            IndexError: If there is none.
        """
        items = self.items
        frame: Frame = items[0] if items.__class__ is tuple else items.popleft()
        return frame


class Pending(Waiter):
    """A request that was sent and whose answer has not been taken.

    Attributes:
        request: Its id.
        operation: Number of the operation and what it is about, for messages.
        blocking: Whether a thread is sure to wait for it: callbacks may run there.
        on_done: Called once, with this object, in the thread that handles completions.
    """

    __slots__ = ("blocking", "on_done", "operation", "request", "started")

    # Whether nobody has to hear at once that the answer is here.
    quiet = False

    def __init__(self, operation: Tuple[Any, ...], blocking: bool) -> None:
        super().__init__()
        self.request = 0
        self.operation = operation[:3]
        self.blocking = blocking
        self.on_done: Optional[Callable[[Pending], None]] = None
        self.started = _monotonic()


def wake(lock: Optional[Any]) -> None:
    """Release a lock on which a thread may sleep."""
    if lock is None:
        return
    try:
        lock.release()
    except RuntimeError:
        # It is free already: its owner is awake.
        pass
