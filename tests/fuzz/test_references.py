"""References, sent to and fro, dropped, and under way: objects stay themselves, and are let go in the end."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.joined_values import End

from easycluster.errors import SerializationError, StaleProxy
from easycluster.objects.exports import ServerObject
from easycluster.objects.proxies import RemoteProxy

SIDES = st.sampled_from([0, 1])


class Thing(ServerObject):
    def __init__(self, number):
        self.number = number

    def what(self):
        return self.number


class Unreadable:
    """Arrives nowhere: what was sent beside it is given back."""

    def __reduce__(self):
        return int, ("no number",)


class References(RuleBasedStateMachine):
    """Two ends with messages under way between them, in the order in which they were sent."""

    def __init__(self):
        super().__init__()
        self.ends = End("far"), End("near")
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]
        self.numbers = itertools.count(1)
        # By side: its own objects, and the proxies that somebody there holds, both by the object's number.
        self.own = {}, {}
        self.held = {}, {}
        # By side that sends: ("value", pickle, what is in it) and ("release", pairs).
        self.under_way = deque(), deque()

    def send(self, side, chosen, broken=False):
        value = [self.own[side].get(number) or self.held[side][number] for number in chosen]
        data, _ = self.ends[side].values.dumps([*value, Unreadable()] if broken else value)
        self.under_way[side].append(("value", data, chosen, broken))

    def choose(self, data, side):
        known = sorted([*self.own[side], *self.held[side]])
        return data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4)) if known else []

    @rule(side=SIDES)
    def make(self, side):
        number = next(self.numbers)
        self.own[side][number] = Thing(number)

    @rule(side=SIDES, data=st.data(), broken=st.booleans())
    def say(self, side, data, broken):
        self.send(side, self.choose(data, side), broken)

    @precondition(lambda self: any(self.under_way))
    @rule(side=SIDES, thrown_away=st.booleans())
    def hear(self, side, thrown_away):
        """The other side takes the next message that ``side`` has sent."""
        if not self.under_way[side]:
            return
        kind, *message = self.under_way[side].popleft()
        receiver = self.ends[1 - side]
        if kind == "release":
            for oid, count in message[0]:
                receiver.exports.release(oid, count)
            return
        data, numbers, broken = message
        if thrown_away:
            receiver.values.discard(data)
            return
        if broken:
            with pytest.raises(SerializationError):
                receiver.values.loads(data)
            return
        for number, got in zip(numbers, receiver.values.loads(data), strict=True):
            mine = self.own[1 - side].get(number)
            if mine is not None:
                assert got is mine
                continue
            assert isinstance(got, RemoteProxy)
            assert self.held[1 - side].setdefault(number, got) is got

    @rule(side=SIDES, data=st.data())
    def drop(self, side, data):
        if self.held[side]:
            del self.held[side][data.draw(st.sampled_from(sorted(self.held[side])))]

    @rule(side=SIDES, data=st.data())
    def drop_in_a_cycle(self, side, data):
        """Let go of a proxy that only the garbage collector can free, some time later."""
        if self.held[side]:
            proxy = self.held[side].pop(data.draw(st.sampled_from(sorted(self.held[side]))))
            proxy.cycle = proxy

    @rule()
    def collect_garbage(self):
        gc.collect()

    @rule(side=SIDES)
    def give_back(self, side):
        """Send what was dropped; what is dropped while it is under way goes with the next."""
        pairs = self.ends[side].proxies.take_dropped()
        assert all(count > 0 for _oid, count in pairs)
        if pairs:
            self.under_way[side].append(("release", pairs))

    @precondition(lambda self: not any(self.under_way))
    @rule(side=SIDES, data=st.data())
    def call(self, side, data):
        if self.held[side]:
            number = data.draw(st.sampled_from(sorted(self.held[side])))
            assert self.held[side][number].what() == number

    @rule(side=SIDES)
    def forget_an_object_nobody_else_knows(self, side):
        """The peer's references alone keep an object."""
        for number in list(self.own[side])[:1]:
            thing = weakref.ref(self.own[side][number])
            is_known = number in self.held[1 - side]
            del self.own[side][number]
            assert not is_known or thing() is not None
            if thing() is not None:
                self.own[side][number] = thing()

    @invariant()
    def what_is_held_is_there(self):
        for side in (0, 1):
            for number, proxy in self.held[side].items():
                assert self.ends[1 - side].exports.get(proxy._oid) is self.own[1 - side][number]

    @invariant()
    def every_reference_is_somewhere(self):
        """What an owner counts is what proxies hold, what is under way, and what was dropped and not sent yet."""
        for side in (0, 1):
            exports, proxies = self.ends[side].exports, self.ends[1 - side].proxies
            counts = {oid: export.count for oid, export in exports._by_oid.items()}
            assert all(count > 0 for count in counts.values())
            for each in list(proxies._by_oid.values()):
                if each not in proxies.dropped:
                    counts[each.oid] = counts.get(each.oid, 0) - each.count
            for each in proxies.dropped:
                counts[each.oid] = counts.get(each.oid, 0) - each.count
            for kind, *message in self.under_way[1 - side]:
                for oid, count in message[0] if kind == "release" else ():
                    counts[oid] = counts.get(oid, 0) - count
            for kind, *message in self.under_way[side]:
                for number in message[1] if kind == "value" else ():
                    if number in self.own[side]:
                        oid = exports._by_id[id(self.own[side][number])].oid
                        # pickle writes an object that is there twice once.
                        counts[oid] -= 1 / message[1].count(number)
            assert not any(round(count, 6) for count in counts.values()), counts

    def teardown(self):
        proxies = [(side, proxy) for side in (0, 1) for proxy in self.held[side].values()]
        if proxies:
            # Its session over, a proxy says so, and cannot be sent either.
            side, proxy = proxies[0]
            end = self.ends[side]
            end.proxies.detach_all()
            end.stale_proxy = lambda oid: StaleProxy(f"object {oid} is gone")
            with pytest.raises(StaleProxy):
                proxy.what()
            with pytest.raises(StaleProxy):
                end.values.dumps([proxy])
            return
        for side in (0, 1):
            while self.under_way[side]:
                self.hear(side, False)
        self.held[0].clear()
        self.held[1].clear()
        for _ in range(3):
            gc.collect()
            for side in (0, 1):
                self.give_back(side)
                while self.under_way[side]:
                    self.hear(side, False)
        assert [len(end.exports) for end in self.ends] == [0, 0]
        assert [len(end.proxies) for end in self.ends] == [0, 0]


@pytest.fixture
def quick_collections():
    """Leave out of the collections what was there before; each would take 20 ms otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("quick_collections")
def test_any_order_of_sending_dropping_and_giving_back():
    run_state_machine_as_test(
        References,
        settings=settings(
            max_examples=50, stateful_step_count=35, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_a_reference_to_what_is_let_go_is_refused():
    near, far = End("far"), End("near")
    near.other, far.other = far, near
    thing = Thing(1)
    proxy = near.give([thing])[0]
    data, _ = far.values.dumps([proxy])
    near.exports.release(proxy._oid, 1)
    with pytest.raises(StaleProxy):
        near.values.loads(data)
