"""Two sessions joined by a memory pair: the far one answers in a thread of its own."""

from __future__ import annotations

import contextlib
import threading

from easycluster.link.operations import Op, PeerSession
from easycluster.link.pending import Waiter
from easycluster.objects.registry import Exports, Proxies
from easycluster.transport.memory import memory_pair
from easycluster.wire import failures
from easycluster.wire.frames import Kind
from easycluster.wire.values import PeerInfo, Values, this_python

__all__ = ["KEYS", "End", "ask", "ask_for", "joined"]

# Keys of the two directions of an authenticated link.
KEYS = bytes(range(32)), bytes(range(32, 64))


class End(PeerSession):
    """One end: it answers calls of the methods of ``tools``, one after the other."""

    def __init__(self, name, stream, tools, send_key=None, receive_key=None, max_frame=4 << 30):
        exports, proxies = Exports(), Proxies(self)
        self.peername = name
        values = Values(exports, proxies, self, peer=PeerInfo(name, this_python()))
        super().__init__(stream, values, send_key, receive_key, max_frame)
        self.inbox = Waiter()
        self.tools = tools

    def operations(self):
        return {
            **super().operations(),
            Op.CALL: lambda name, args: getattr(self.tools, name)(*args),
        }

    def route(self, message):
        return self.inbox

    def serve(self):
        """Answer until the link ends."""
        with contextlib.suppress(OSError):
            while True:
                self.answer(self.wait_item(self.inbox))


def ask(session, name, *args, deadline=None):
    """Call a method of the other end's tools from this thread and return its result."""
    return ask_for(session, (Op.CALL, name, args), deadline)


def ask_for(session, operation, deadline=None):
    """Have the other end do something and return its result."""
    pending = session.request(operation, deadline=deadline)
    message = session.wait_item(pending, deadline)
    while message[0] == Kind.CALL:
        session.answer(message)
        message = session.wait_item(pending, deadline)
    value = session.load(message)
    if message[0] == Kind.RAISE:
        raise failures.rebuild(value, loads=session.values.loads, host="the other end")
    return value


@contextlib.contextmanager
def joined(tools, near_tools=None, keys=(None, None), streams=None, **options):
    """Give the near and the far end; the far one is served by a thread."""
    near_stream, far_stream = streams or memory_pair()
    near = End("far", near_stream, near_tools, keys[0], keys[1], **options)
    far = End("near", far_stream, tools, keys[1], keys[0], **options)
    thread = threading.Thread(target=far.serve, name="far end")
    thread.start()
    try:
        yield near, far
    finally:
        for end in (near, far):
            end.end(EOFError())
        thread.join()
        for end in (near, far):
            end.join_watcher(5.0)
            end.close_stream()
