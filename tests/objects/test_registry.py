from __future__ import annotations

import gc
import threading
import weakref

import pytest

from easycluster.errors import StaleProxy
from easycluster.objects.proxies import RemoteProxy
from easycluster.objects.registry import Exports, Proxies


class Thing:
    pass


class Connection:
    peername = "gpu01:22"


@pytest.fixture
def exports():
    return Exports()


@pytest.fixture
def proxies():
    return Proxies(Connection())


# -- exports ----------------------------------------------------------------------------------------


def test_objects_are_numbered_from_one_and_keep_their_number(exports):
    first, second = Thing(), Thing()
    assert [exports.export(thing) for thing in (first, second, first)] == [1, 2, 1]
    assert exports.get(2) is second
    assert len(exports) == 2


def test_an_object_is_held_until_as_many_references_are_released_as_were_sent(exports):
    thing = Thing()
    gone = weakref.ref(thing)
    exports.export(thing)
    exports.export(thing)
    del thing
    exports.release(1, 1)
    assert gone() is not None
    exports.release(1, 1)
    assert gone() is None
    assert not len(exports)


def test_a_reference_under_way_keeps_the_object_while_older_ones_are_released(exports):
    thing = Thing()
    exports.export(thing)
    exports.export(thing)
    exports.release(1, 1)
    assert exports.get(1) is thing


def test_an_object_exported_anew_has_a_new_number(exports):
    thing = Thing()
    exports.export(thing)
    exports.release(1, 1)
    assert exports.export(thing) == 2


def test_equal_objects_are_different_objects(exports):
    assert exports.export([]) != exports.export([])


def test_a_released_object_is_refused_by_name(exports):
    with pytest.raises(StaleProxy, match=r"^object 7 is not held any more where it lived$"):
        exports.get(7)


def test_releasing_what_is_unknown_does_nothing(exports):
    exports.release(7, 1)


def test_clear_lets_go_of_everything(exports):
    thing = Thing()
    gone = weakref.ref(thing)
    exports.export(thing)
    del thing
    exports.clear()
    assert gone() is None
    assert not len(exports)


def test_an_object_may_use_the_registry_while_it_goes(exports):
    class Last:
        def __del__(self):
            seen.append(exports.export(seen))

    seen = []
    exports.export(Last())
    exports.release(1, 1)
    assert seen == [2]


# -- proxies ----------------------------------------------------------------------------------------


def test_one_number_has_one_living_proxy(proxies):
    first = proxies.get(1, "run||")
    assert proxies.get(1, "run||") is first
    assert proxies.get(2, "run||") is not first
    assert isinstance(first, RemoteProxy)


def test_a_dead_proxy_gives_back_as_many_references_as_it_received(proxies):
    for _ in range(3):
        proxy = proxies.get(1, "run||")
    del proxy
    gc.collect()
    assert proxies.dropped
    assert proxies.take_dropped() == [(1, 3)]
    assert proxies.take_dropped() == []
    assert not len(proxies)


def test_a_proxy_made_after_an_older_one_died_counts_anew(proxies):
    proxies.get(1, "run||")
    gc.collect()
    second = proxies.get(1, "run||")
    assert proxies.take_dropped() == [(1, 1)]
    assert proxies.get(1, "run||") is second
    assert len(proxies) == 1


def test_references_nobody_received_are_given_back_too(proxies):
    proxies.drop(5, 2)
    assert proxies.take_dropped() == [(5, 2)]


def test_proxies_in_a_cycle_are_noticed_when_it_is_collected(proxies):
    proxy = proxies.get(1, "run||")
    proxy.cycle = proxy
    del proxy
    gc.collect()
    assert proxies.take_dropped() == [(1, 1)]


def test_detach_all_makes_every_living_proxy_stale(proxies):
    proxy = proxies.get(1, "run||")
    proxies.detach_all("gpu01 was rebooted")
    assert proxy.proxy_connection is None
    with pytest.raises(StaleProxy, match=r"^gpu01:22: object 1 is gone: gpu01 was rebooted$"):
        proxy.run()
    del proxy
    gc.collect()
    assert proxies.take_dropped() == [] or proxies.take_dropped() == []


def test_what_is_looked_at_after_detach_all_is_stale_at_once(proxies):
    """An answer may arrive before the session ends, and be looked at afterwards."""
    old = proxies.get(1, "run||")
    proxies.detach_all("gpu01 was rebooted")
    assert proxies.get(1, "run||") is old
    with pytest.raises(StaleProxy, match=r"^gpu01:22: object 2 is gone: gpu01 was rebooted$"):
        proxies.get(2, "run||").run()


def test_threads_get_the_same_proxy(proxies):
    barrier, got = threading.Barrier(4), []

    def ask():
        barrier.wait(timeout=10)
        got.append(proxies.get(1, "run||"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(proxy) for proxy in got}) == 1
