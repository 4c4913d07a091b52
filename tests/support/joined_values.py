"""Two ends of a session without a link: values and references cross for real, calls run at once."""

from __future__ import annotations

from easycluster.objects.exports import get_method, iterate
from easycluster.objects.registry import Exports, Proxies
from easycluster.wire.values import PeerInfo, Values, this_python

__all__ = ["End", "joined"]


class End:
    """One end; as the connection of its proxies it carries their calls to the other end."""

    def __init__(self, peername, copies_server_objects=False):
        self.peername = peername
        self.exports, self.proxies = Exports(), Proxies(self)
        self.values = Values(
            self.exports,
            self.proxies,
            self,
            peer=PeerInfo(peername, this_python()),
            copies_server_objects=copies_server_objects,
        )
        self.calls = []
        self.other = None

    def give(self, value, name="value"):
        """Return what the other end receives for ``value``."""
        data, buffers = self.values.dumps(value, name)
        return self.other.values.loads(data, [bytearray(buffer) for buffer in buffers])

    def settle(self):
        """Tell the other end which of its objects nobody here refers to any more."""
        for oid, count in self.proxies.take_dropped():
            self.other.exports.release(oid, count)

    # What a proxy needs of its connection --------------------------------------------------------

    def send_request(self, oid, method, args, kwargs, *keywords):
        self.calls.append((method, *keywords))
        oid, method, args, kwargs = self.give((oid, method, args, kwargs))
        obj = self.other.exports.get(oid)
        if method == "__iter__":
            return self.other.give(iterate(obj))
        return self.other.give(getattr(obj, method)(*args, **kwargs))

    def get_attribute(self, oid, name, **keywords):
        self.calls.append((f"get {name}", *keywords.items()))
        return self.other.give(getattr(self.other.exports.get(oid), name))

    def set_attribute(self, oid, name, value, **keywords):
        self.calls.append((f"set {name}", *keywords.items()))
        setattr(self.other.exports.get(oid), name, self.give(value))

    def del_attribute(self, oid, name, **keywords):
        self.calls.append((f"del {name}", *keywords.items()))
        delattr(self.other.exports.get(oid), name)

    def get_method(self, oid, name):
        self.calls.append((f"method {name}",))
        is_method, value = get_method(self.other.exports.get(oid), name)
        return is_method, self.other.give(value)

    def stream(self, oid):
        self.calls.append((f"stream {oid}",))
        for item in self.other.exports.get(oid):
            yield self.other.give(item)


def joined(host="gpu01:22"):
    """Return the near and the far end of a session with ``host``."""
    near, far = End(host, copies_server_objects=True), End("controller")
    near.other, far.other = far, near
    return near, far
