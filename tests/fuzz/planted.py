"""Targets with a fault in them, to see that a campaign finds it: code is broken here as it must never be."""

from __future__ import annotations

import importlib
import pickle
from types import SimpleNamespace

from easycluster.client import quick as near_quick
from easycluster.far import quick as far_quick
from easycluster.wire import values
from easycluster.wire.frames import FrameDecoder
from easycluster.wire.records import Mac

from .quick_targets import Call, Serve
from .targets import KEY, Server, Strangers, Target

__all__ = ["PLANTED"]

# A name that no tripwire knows.
_hidden_loads = pickle.loads


class Unpickling(Strangers):
    """A decoder that looks into a record before its tag was checked."""

    look = staticmethod(lambda data: values._loads(data))

    def __call__(self, data):
        def verify(_number, body, _tag):
            self.look(body)
            return False

        decoder = FrameDecoder(SimpleNamespace(verify=verify, open=lambda _number, _data: None))
        with self.tripwires.watching():
            decoder.receive_data(data[1:])
        return True


class UnpicklingPastNames(Unpickling):
    """The same, past every name: only the interpreter's own event tells."""

    look = staticmethod(lambda _data: _hidden_loads(b"cfractions\nFraction\n."))


class Importing(Server):
    """A handshake that imports what a client names."""

    def __call__(self, data):
        with self.tripwires.watching():
            importlib.import_module("stringprep")
        return True


class Crashing(Target):
    """A decoder that believes a length."""

    def seeds(self):
        return [b"\0\0\0\1good", b"\0\0\0\2good"]

    def __call__(self, data):
        return bool(data) and data[4:][data[3]] > 0


class Forging(Strangers):
    """Tags that are checked in their first byte only."""

    def _verify(self, mac):
        class Careless(Mac):
            def verify(self, number, data, tag):
                return self.tag(number, data)[:1] == bytes(tag)[:1]

        return super()._verify(Careless(KEY))


def _careless(quick, target):
    """Return the target with a quick way that believes every tag."""

    class Careless(target):
        def __init__(self):
            super().__init__()
            quick.same = lambda _ours, _theirs: True

    return Careless


PLANTED = {
    "careless-call": _careless(near_quick, Call),
    "careless-serve": _careless(far_quick, Serve),
    "unpickling": Unpickling,
    "unpickling-past-names": UnpicklingPastNames,
    "importing": Importing,
    "crashing": Crashing,
    "forging": Forging,
}
