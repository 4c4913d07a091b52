from __future__ import annotations

import copy
import operator
import pickle
import re
import sys

import pytest
from support.joined_values import joined

from easycluster.errors import RemoteError, SerializationError, StaleProxy
from easycluster.objects.exports import ServerObject
from easycluster.objects.proxies import DefaultRemoteProxy, RemoteProxy, SelfIterProxy, proxy_class
from easycluster.objects.wrappers import take_keywords


class Node(ServerObject):
    export_methods = ("set_state", "fail")
    export_attrs = ("state",)
    export_attrs_cache = ("serial",)

    def __init__(self):
        self.state = "up"
        self.serial = "s1"

    def set_state(self, state, *, force=False):
        self.state = (state, force)
        return self.state

    def fail(self):
        raise ValueError("x")


class Auto(ServerObject):
    """Everything that Python does with an object."""

    def __init__(self, items=()):
        self.items = list(items)
        self.left_with = None

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def __setitem__(self, index, value):
        self.items[index] = value

    def __delitem__(self, index):
        del self.items[index]

    def __contains__(self, item):
        return item in self.items

    def __iter__(self):
        yield from self.items

    def __add__(self, other):
        return Auto(self.items + list(other))

    def __radd__(self, other):
        return list(other) + self.items

    def __iadd__(self, other):
        self.items += other
        return self

    def __call__(self, *args, **kwargs):
        return args, kwargs

    def __eq__(self, other):
        return self.items == getattr(other, "items", None)

    def __hash__(self):
        return 7

    def __bool__(self):
        return bool(self.items)

    def __str__(self):
        return "Auto!"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.left_with = (kind, str(error), traceback)
        return True


class Countdown(ServerObject):
    proxy_class = SelfIterProxy

    def __init__(self):
        self.left = 2

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


class SpecialProxy(DefaultRemoteProxy):
    special = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.special = {}

    def local(self):
        return f"local, then {self.raw_call_method('local', ())}"


class Special(ServerObject):
    proxy_class = SpecialProxy

    def local(self):
        return "remote"


@pytest.fixture
def ends():
    return joined()


@pytest.fixture
def near(ends):
    return ends[0]


def given(ends, obj):
    proxy = ends[1].give(obj)
    ends[0].calls.clear()
    return proxy


# -- classes made from lists ------------------------------------------------------------------------


def test_the_class_is_named_after_what_it_exports(ends):
    assert type(given(ends, Node())).__name__ == "dynamic_proxy_fail_set_state_state_serial"


def test_what_is_not_exported_is_an_attribute_error_here(ends):
    proxy = given(ends, Node())
    message = "'dynamic_proxy_fail_set_state_state_serial' object has no attribute 'power'"
    with pytest.raises(AttributeError, match=message):
        proxy.power()
    assert not ends[0].calls


def test_one_class_is_made_for_equal_lists():
    assert proxy_class("a,b|c|d") is proxy_class("a,b|c|d")
    assert proxy_class("a,b|c|d") is not proxy_class("a,b|c|")


def test_a_long_name_is_cut():
    assert len(proxy_class(",".join(f"method{n}" for n in range(99)) + "||").__name__) < 120


def test_attributes_are_fetched_set_and_deleted(ends):
    node = Node()
    proxy = given(ends, node)
    proxy.state = "down"
    assert (node.state, proxy.state) == ("down", "down")
    del proxy.state
    assert not hasattr(node, "state")


def test_a_cached_attribute_is_fetched_once_until_it_is_set(ends):
    proxy = given(ends, Node())
    assert [proxy.serial, proxy.serial] == ["s1", "s1"]
    assert ends[0].calls == [("get serial",)]
    proxy.serial = "s2"
    assert proxy.serial == "s2"


# -- calls ------------------------------------------------------------------------------------------


def test_keywords_of_a_remote_call_are_taken_out_and_others_pass(ends):
    proxy = given(ends, Node())
    assert proxy.set_state("off", force=True, threadid=3, origexc="quiet") == ("off", True)
    assert ends[0].calls == [("set_state", False, None, None, 3, "quiet")]


def test_only_these_keywords_are_taken():
    kwargs = {"nonblocking": 1, "oncomplete": 2, "onerror": 3, "threadid": 4, "origexc": 5, "timeout": 6}
    assert take_keywords(kwargs) == (1, 2, 3, 4, 5)
    assert kwargs == {"timeout": 6}


def test_raw_call_method_passes_everything_on(ends):
    proxy = given(ends, Node())
    assert proxy.raw_call_method("set_state", ["x"], {"force": 1}, threadid=2, timeout=9.0) == ("x", 1)
    assert ends[0].calls == [("set_state", False, None, None, 2, True, 9.0)]


def test_raw_attributes_reach_what_is_not_exported(ends):
    node = Node()
    proxy = given(ends, node)
    proxy.raw_set_attribute("secret", 5, origexc=False)
    assert proxy.raw_get_attribute("secret", threadid=1) == node.secret == 5
    proxy.raw_del_attribute("secret")
    assert not hasattr(node, "secret")
    assert ends[0].calls == [
        ("set secret", ("origexc", False)),
        ("get secret", ("threadid", 1)),
        ("del secret",),
    ]


# -- dunders ----------------------------------------------------------------------------------------


def test_containers_and_operators_work(ends):
    auto = Auto([1, 2, 3])
    proxy = given(ends, auto)
    assert (len(proxy), proxy[0], proxy[1:], 2 in proxy, list(proxy)) == (3, 1, [2, 3], True, [1, 2, 3])
    proxy[0] = 9
    del proxy[1]
    assert auto.items == [9, 3]
    assert (proxy + [4]).items == [9, 3, 4]  # noqa: RUF005  # __add__ is what is tested
    assert [0] + proxy == [0, 9, 3]  # noqa: RUF005  # __radd__ is what is tested
    assert operator.iadd(proxy, [5]) is proxy
    assert proxy(1, a=2) == ((1,), {"a": 2})
    assert str(proxy) == "Auto!"
    assert bool(proxy) is True


def test_equality_and_hash_are_those_of_the_far_side_where_its_class_has_them(ends):
    first, second = given(ends, Auto([1])), given(ends, Auto([1]))
    assert first == second
    assert hash(first) == 7
    assert given(ends, Node()) != given(ends, Node())


def test_a_class_that_is_not_hashable_has_no_hashable_proxies(ends):
    class Odd(ServerObject):
        def __eq__(self, other):
            return True

    with pytest.raises(TypeError, match="unhashable"):
        hash(given(ends, Odd()))


def test_repr_stays_here(ends):
    assert repr(given(ends, Auto())) == "<RemoteProxy for oid 1 on gpu01:22>"
    assert not ends[0].calls


# -- context managers -------------------------------------------------------------------------------


def test_a_context_manager_learns_of_the_exception(ends):
    auto = Auto()
    with given(ends, auto) as inside:
        raise KeyError("gone")
    assert inside.left_with == (KeyError, "'gone'", None)


def test_a_context_manager_learns_of_an_exception_that_cannot_cross(ends):
    class LocalError(Exception):
        def __reduce__(self):
            raise RuntimeError("no")

    auto = Auto()
    with given(ends, auto):
        raise LocalError("gone")
    kind, text, _ = auto.left_with
    assert (kind, text) == (RemoteError, "LocalError: gone")


# -- unknown attributes -----------------------------------------------------------------------------


def test_unknown_methods_are_asked_for_once(ends):
    class Some(ServerObject):
        export_methods = ()

        def run(self, value):
            return value

    proxy = given(ends, Some())
    assert [proxy.run(1), proxy.run(2)] == [1, 2]
    assert [call[0] for call in ends[0].calls] == ["method run", "run", "run"]


def test_unknown_values_are_fetched_each_time(ends):
    auto = Auto()
    proxy = given(ends, auto)
    auto.level = 1
    assert proxy.level == 1
    auto.level = 2
    assert proxy.level == 2


def test_hasattr_and_getattr_with_a_default_work(ends):
    proxy = given(ends, Auto())
    assert not hasattr(proxy, "missing")
    assert getattr(proxy, "missing", 5) == 5


def test_unknown_attributes_are_set_and_deleted_on_the_far_side(ends):
    auto = Auto()
    proxy = given(ends, auto)
    proxy.level = 3
    assert auto.level == 3
    del proxy.level
    assert not hasattr(auto, "level")


def test_names_on_the_proxy_class_stay_here(ends):
    special = Special()
    proxy = given(ends, special)
    assert proxy.special == {}
    proxy.special = 5
    assert not hasattr(special, "special")
    assert proxy.local() == "local, then remote"


# -- proxy classes by name --------------------------------------------------------------------------


def test_the_class_named_by_the_far_side_is_used(ends):
    assert type(given(ends, Special())).__name__ == "SpecialProxy"


def test_a_proxy_class_that_is_not_defined_here_falls_back_with_a_warning():
    with pytest.warns(RuntimeWarning, match=r"the proxy class Gone of easycluster.errors is not defined here"):
        assert proxy_class("=easycluster.errors:Gone") is DefaultRemoteProxy


def test_a_class_that_is_no_proxy_class_is_refused():
    with pytest.raises(SerializationError, match=r"int of builtins is no proxy class; derive it from RemoteProxy"):
        proxy_class("=builtins:int")


def test_a_redefined_proxy_class_is_used_at_once(monkeypatch):
    module = sys.modules[SpecialProxy.__module__]
    name = f"={SpecialProxy.__module__}:SpecialProxy"
    newer = type("SpecialProxy", (RemoteProxy,), {})
    assert proxy_class(name) is SpecialProxy
    monkeypatch.setattr(module, "SpecialProxy", newer)
    assert proxy_class(name) is newer


def test_wrappers_do_not_replace_what_the_class_defines():
    class Some(RemoteProxy):
        proxy_methods = "run"

        def run(self):
            return "mine"

    assert Some(None, 1).run() == "mine"
    assert Some.proxy_methods == ("run",)


# -- iterators and generators -----------------------------------------------------------------------


def test_an_iterator_iterates_itself(ends):
    proxy = given(ends, Countdown())
    assert iter(proxy) is proxy
    assert list(proxy) == [1, 0]


def test_a_generator_is_streamed_when_iterated_and_called_otherwise(ends):
    def numbers():
        received = yield 1
        try:
            yield received
        except ValueError as exc:
            yield str(exc)
        yield 4

    proxy = given(ends, numbers())
    assert next(proxy) == 1
    assert proxy.send("x") == "x"
    assert proxy.throw(ValueError("thrown")) == "thrown"
    assert list(proxy) == [4]
    assert [call[0] for call in ends[0].calls] == ["__next__", "send", "throw", "stream 1"]


def test_a_generator_lives_while_it_is_iterated(ends):
    near, far = ends
    iterator = iter(far.give(number for number in range(3)))
    assert next(iterator) == 0
    near.settle()
    assert list(iterator) == [1, 2]
    del iterator
    near.settle()
    assert not len(far.exports)


def test_a_closed_generator_ends(ends):
    proxy = given(ends, (number for number in range(3)))
    proxy.close()
    with pytest.raises(StopIteration):
        next(proxy)


def test_a_file_reads_into_a_local_buffer_and_closes_with_its_block(ends, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abcdef")
    buffer = bytearray(4)
    with open(path, "rb") as file, given(ends, file) as proxy:
        assert proxy.readinto(buffer) == 4
        assert (bytes(buffer), proxy.tell(), proxy.closed) == (b"abcd", 4, False)
    assert file.closed


# -- the end ----------------------------------------------------------------------------------------


def test_connection_and_number_are_known(ends):
    proxy = given(ends, Node())
    assert proxy.proxy_connection is ends[0]
    assert proxy.proxy_object_id == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda proxy: proxy.set_state(1),
        lambda proxy: proxy.state,
        lambda proxy: setattr(proxy, "state", 1),
        lambda proxy: delattr(proxy, "state"),
        lambda proxy: proxy.raw_call_method("x", ()),
        lambda proxy: proxy.raw_get_attribute("x"),
    ],
)
def test_a_detached_proxy_refuses_every_use(ends, use):
    proxy = given(ends, Node())
    proxy._detach("its worker died")
    proxy._detach("a second time")
    with pytest.raises(StaleProxy, match=re.escape("gpu01:22: object 1 is gone: its worker died")):
        use(proxy)
    assert proxy.proxy_connection is None
    assert repr(proxy) == "<RemoteProxy for oid 1 on gpu01:22>"


def test_a_detached_default_proxy_refuses_unknown_attributes(ends):
    proxy = given(ends, Auto())
    proxy._detach()
    with pytest.raises(StaleProxy, match="its connection was closed"):
        proxy.anything  # noqa: B018


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps, lambda v: pickle.dumps(v, 5)])
def test_a_proxy_cannot_be_copied_or_pickled_outside_its_session(ends, duplicate):
    with pytest.raises(TypeError, match="cannot be copied or pickled here: it stands for an object of another process"):
        duplicate(given(ends, Node()))
