"""Objects are held over there as long as they are of use here, and no longer."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from support.transports import SOON

from easycluster import CallTimeout, SerializationError, callback, define_common

DEFINITIONS = "contract_references"

define_common(
    """
    import threading
    import time
    import weakref

    living = weakref.WeakSet()
    changed = threading.Condition()

    def gone():
        with changed:
            changed.notify_all()

    class Counted(ServerObject):
        def __init__(self, number=0):
            self.number = number
            living.add(self)
            weakref.finalize(self, gone).atexit = False

        def me(self):
            return self

    class Unloadable:
        def __reduce__(self):
            return exec, ("raise OSError('not to be loaded')",)

    def count():
        return len(living)

    def wait_for_count(n, seconds):
        with changed:
            return changed.wait_for(lambda: len(living) == n, seconds)

    def make(n):
        return [Counted(i) for i in range(n)]

    def with_unloadable():
        return [Counted(), Unloadable()]

    def fail():
        error = ValueError("with an object")
        error.thing = Counted()
        raise error

    def late(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(end - time.monotonic())
            except BaseException:
                return make(3)

    def generate(n):
        for i in range(n):
            yield Counted(i)

    kept = []

    def keep(thing):
        kept.append(thing)

    def echo(x):
        return x
    """,
    DEFINITIONS,
)


@pytest.fixture(autouse=True)
def nothing_is_held_afterwards(client):
    yield
    gc.collect()
    client.execblock("import gc; kept.clear(); gc.collect()")
    assert client.wait_for_count(0, 2.0)


def test_an_object_lives_as_long_as_its_proxy(client):
    thing = client.Counted()
    for _ in range(10):
        assert client.count() == 1
    del thing
    client.echo(None)
    assert client.count() == 0


def test_objects_are_let_go_while_the_client_is_idle(client):
    things = client.make(100)
    gone = client.wait_for_count(0, SOON, nonblocking=True, threadid=1)
    del things
    assert gone.wait() is True


def test_objects_are_let_go_while_a_call_is_running(client):
    things = client.make(10)
    response = client.wait_for_count(0, SOON, nonblocking=True, threadid=1)
    things.clear()
    assert response.wait() is True


def test_many_objects_are_let_go_at_once(client):
    things = client.make(10_000)
    assert client.count() == 10_000
    del things
    client.echo(None)
    assert client.count() == 0


def test_an_object_received_many_times_is_let_go_once_its_proxy_dies(client):
    thing = client.Counted()
    for _ in range(50):
        assert thing.me() is thing
    assert client.echo([thing] * 10) == [thing] * 10
    assert client.count() == 1
    del thing
    client.echo(None)
    assert client.count() == 0


def test_an_object_is_not_lost_when_it_is_received_while_an_older_proxy_dies(client):
    client.execblock("global_thing = Counted(7)")
    for _ in range(100):
        response = client.echo(client.global_thing.value, nonblocking=True)
        gc.collect(0)
        assert response.wait().number == 7
    client.execblock("del global_thing")


def test_an_object_in_a_container_lives_as_long_as_its_proxy(client):
    first = client.make(3)[0]
    client.echo(None)
    assert client.count() == 1
    assert first.number == 0


def test_an_object_on_an_exception_lives_as_long_as_the_exception(client):
    with pytest.raises(ValueError, match="with an object") as caught:
        client.fail(origexc="quiet")
    assert caught.value.thing.number == 0
    assert client.count() == 1


def test_an_object_kept_over_there_outlives_its_proxy(client):
    client.keep(client.Counted(5))
    client.echo(None)
    assert client.count() == 1
    assert client.eval("kept[0]").number == 5


def test_results_that_nobody_took_are_let_go(client):
    response = client.make(5, nonblocking=True)
    client.echo(None)
    assert client.count() == 5
    del response
    client.echo(None)
    client.echo(None)
    assert client.count() == 0


def test_a_result_that_could_not_be_loaded_is_let_go(client):
    with pytest.raises(SerializationError):
        client.with_unloadable(origexc="quiet")
    client.echo(None)
    assert client.count() == 0


def test_the_result_of_a_call_that_ran_out_of_time_is_let_go(client):
    with pytest.raises(CallTimeout):
        client.raw_call("late", (SOON,), timeout=0.2)
    client.echo(None)
    client.echo(None)
    assert client.count() == 0


def test_what_a_generator_read_ahead_is_let_go_with_it(client):
    generator = client.generate(1000)
    for thing in generator:
        assert thing.number == 0
        break
    del thing, generator
    gc.collect()
    client.echo(None)
    client.echo(None)
    assert client.count() == 0


def test_proxies_may_die_in_any_thread(client):
    def use():
        for _ in range(50):
            assert client.Counted(3).number == 3

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.echo(None)
    assert client.count() == 0


def test_a_cycle_of_proxies_and_their_users_is_let_go_when_it_is_collected(client):
    class User:
        pass

    user = User()
    user.self, user.thing = user, client.Counted()
    del user
    gc.collect()
    client.echo(None)
    assert client.count() == 0


def test_a_callback_is_let_go_here_once_the_far_side_has_no_use_for_it(connect):
    def called():
        return "here"

    gone = threading.Event()
    weakref.finalize(called, gone.set).atexit = False
    client = connect()
    client.keep(callback(called))
    del called
    gc.collect()
    assert client.eval("kept[0]()") == "here"
    assert not gone.is_set()
    client.execblock("kept.clear()")
    client.echo(None)
    assert gone.wait(SOON)
