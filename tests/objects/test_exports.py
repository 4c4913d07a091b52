from __future__ import annotations

import array
import functools
import pickle
import re
import threading
import types

import pytest
from support.joined_values import joined

from easycluster.objects import exports
from easycluster.objects.exports import (
    ServerObject,
    callback,
    get_method,
    is_method,
    iterate,
    make_server_class,
    make_singleton,
    type_data,
)
from easycluster.objects.proxies import DefaultRemoteProxy, FileProxy, RemoteProxy
from easycluster.wire import pickling


@pytest.fixture(autouse=True)
def _forget_registrations(monkeypatch):
    """What a test registers is known to that test only."""
    monkeypatch.setattr(exports, "_registered", dict(exports._registered))
    monkeypatch.setattr(exports, "_singletons", {})
    required = set(pickling.required)
    pickling.required.clear()
    exports._by_type.clear()
    yield
    exports._by_type.clear()
    pickling.required.clear()
    pickling.required.update(required)


@pytest.fixture
def far():
    return joined()[1]


class NodeProxy(RemoteProxy):
    proxy_methods = ("flash",)


class Node(ServerObject):
    limit = 5
    unset = None

    def __init__(self):
        self.state = "up"

    def flash(self):
        return "flashed"

    def _private(self):
        pass

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def units():
        return "C"

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def cached(self):
        return 1

    @property
    def power(self):
        return 1

    class Inner:
        pass

    def __len__(self):
        return 3

    def __repr__(self):
        return "Node"

    def __del__(self):
        pass

    def __getattr__(self, name):
        raise AttributeError(name)

    def raw_call_method(self):
        """A name of the proxy's own interface."""


def lists(text):
    methods, attrs, cached = text.split("|")
    return methods.split(","), attrs, cached


# -- export lists -----------------------------------------------------------------------------------


def test_auto_exports_methods_and_dunders_but_not_the_life_cycle():
    assert lists(type_data(Node())) == (["__len__", "_private", "cached", "flash", "make", "units"], "@auto", "")


def test_lists_name_what_is_exported():
    class Some(Node):
        export_methods = ("flash",)
        export_attrs = ("state",)
        export_attrs_cache = ("limit",)

    assert type_data(Some()) == "flash|state|limit"


def test_a_single_name_needs_no_list():
    class Some(Node):
        export_methods = "flash"
        export_attrs = "state"

    assert type_data(Some()) == "flash|state|"


def test_auto_may_stand_beside_names():
    class Some(ServerObject):
        export_methods = ("@auto", "dynamic")
        export_attrs = ("@auto", "state")

        def flash(self):
            pass

    assert type_data(Some()) == "dynamic,flash|@auto,state|"


def test_a_subclass_inherits_the_lists():
    class Some(Node):
        export_methods = ("flash",)
        export_attrs = ()

    class Sub(Some):
        def more(self):
            pass

    assert type_data(Sub()) == type_data(Some()) == "flash||"


def test_a_subclass_with_lists_of_its_own_gets_those_also_after_the_base_was_used():
    class Some(Node):
        export_methods = ("flash",)
        export_attrs = ()

    class Sub(Some):
        export_methods = ("more",)

    assert type_data(Some()) == "flash||"
    assert type_data(Sub()) == "more||"


def test_auto_of_a_subclass_includes_its_own_methods_also_after_the_base_was_used():
    class Some(ServerObject):
        def one(self):
            pass

    class Sub(Some):
        def two(self):
            pass

    assert lists(type_data(Some()))[0] == ["one"]
    assert lists(type_data(Sub()))[0] == ["one", "two"]


def test_a_subclass_may_take_a_method_away():
    class Some(ServerObject):
        def one(self):
            pass

    class Sub(Some):
        one = None

    assert lists(type_data(Sub()))[0] == [""]


def test_a_proxy_class_wins_over_the_lists_beside_it():
    class Some(ServerObject):
        export_methods = ("flash",)
        proxy_class = NodeProxy

    assert type_data(Some()) == f"={__name__}:NodeProxy"


def test_lists_of_a_subclass_win_over_the_proxy_class_of_its_base():
    class Some(ServerObject):
        proxy_class = NodeProxy

    class Sub(Some):
        export_methods = ("flash",)
        export_attrs = ()

    assert type_data(Sub()) == "flash||"


@pytest.mark.parametrize("name", ["two words", "a,b", "", 5])
def test_a_name_that_is_none_is_refused(name):
    class Some(ServerObject):
        export_methods = (name,)

    message = f"{name!r} in export_methods is no name of an attribute; write a list of names, or '@auto'"
    with pytest.raises(ValueError, match=re.escape(message)):
        type_data(Some())


# -- inside a session -------------------------------------------------------------------------------


def test_another_base_with_a_pickle_of_its_own_does_not_get_in_the_way(far):
    class Table(array.array, ServerObject):
        export_methods = ("__len__",)

    class Odd(ServerObject):
        def __reduce_ex__(self, protocol):
            return str, ("copied",)

    for obj in (Table("i", [1, 2]), Odd(), type("Errors", (Exception, ServerObject), {})("x")):
        assert isinstance(far.give(obj), RemoteProxy)
    assert pickle.loads(pickle.dumps(Odd(), 5)) == "copied"


# -- make_server_class ------------------------------------------------------------------------------


class Existing:
    def work(self):
        return "done"


def test_instances_of_a_registered_class_and_its_subclasses_go_by_reference(far):
    class Existing:
        def work(self):
            return "done"

    class Sub(Existing):
        def more(self):
            return "more"

    assert make_server_class(Existing) is Existing
    assert far.give(Existing()).work() == "done"
    assert far.give(Sub()).more() == "more"
    assert not pickling.required


def test_a_registered_class_takes_lists_and_proxy_class(far):
    class Existing:
        def flash(self):
            return "flashed"

    make_server_class(Existing, ["flash"], [])
    assert type_data(Existing()) == "flash||"
    make_server_class(Existing, proxy_class=NodeProxy)
    assert type(far.give(Existing())).__name__ == "NodeProxy"


def test_a_builtin_class_is_used_through_a_proxy(far):
    make_server_class(array.array)
    values = array.array("B", [1, 2])
    proxy = far.give(values)
    proxy.append(3)
    proxy[0] = 9
    assert (list(proxy), len(proxy), proxy.typecode) == ([9, 2, 3], 3, "B")
    assert values.tolist() == [9, 2, 3]


def test_subclasses_of_a_registered_builtin_class_go_by_reference_too(far):
    class Samples(array.array):
        pass

    make_server_class(array.array)
    assert isinstance(far.give([Samples("B")])[0], RemoteProxy)


def test_the_near_side_copies_what_the_far_side_refers_to():
    near, far = joined()
    make_server_class(array.array)
    assert near.give(array.array("B", [1])) == array.array("B", [1])
    assert isinstance(far.give(array.array("B", [1])), RemoteProxy)


def test_only_a_class_can_be_registered():
    with pytest.raises(TypeError, match=r"takes a class, not 5; make_singleton takes a single object"):
        make_server_class(5)


# -- make_singleton ---------------------------------------------------------------------------------


SINGLES = [
    lambda: [1, 2],
    lambda: {"a": 1},
    lambda: {1},
    lambda: bytearray(b"x"),
    lambda: array.array("B", [1]),
    lambda: types.SimpleNamespace(a=1),
    lambda: threading.Event(),
    lambda: Existing(),
    lambda: type("Made", (), {}),
    lambda: lambda: 1,
]


@pytest.mark.parametrize("make", SINGLES)
def test_a_single_object_goes_by_reference_wherever_it_stands(make):
    near, far = joined()
    single = make_singleton(make())
    proxy, again = far.give([single, {"k": single}])
    assert isinstance(proxy, RemoteProxy)
    assert again["k"] is proxy
    assert near.give(proxy) is single


@pytest.mark.parametrize("make", SINGLES[:6])
def test_others_of_its_class_are_copied(far, make):
    single, other = make_singleton(make()), make()
    got = far.give([single, other, other])
    assert got[1] == other
    assert got[1] is got[2]


def test_a_list_is_changed_through_its_proxy(far):
    single = make_singleton([1])
    proxy = far.give(single)
    proxy.append(2)
    assert single == [1, 2]
    assert (len(proxy), proxy[1]) == (2, 2)


def test_a_single_object_may_have_lists_or_a_proxy_class():
    first, second = Existing(), Existing()
    make_singleton(first, ["work"], [])
    make_singleton(second, proxy_class=NodeProxy)
    assert type_data(first) == "work||"
    assert type_data(second) == f"={__name__}:NodeProxy"
    assert type_data(Existing()) is None


def test_a_single_object_is_not_kept_alive():
    single = make_singleton(Existing())
    del single
    assert not exports._singletons


@pytest.mark.parametrize("single", [[1, 2], {"a": 1, "b": 2}, {1, 2}, (1, 2), "ab", array.array("B", [1, 2])])
def test_a_container_is_iterated_through_its_proxy(far, single):
    assert list(far.give(make_singleton(single))) == list(single)


def test_an_iterator_written_in_python_is_returned_as_it_is():
    class Items(ServerObject):
        def __iter__(self):
            return numbers

    numbers = iter([1, 2])
    assert iterate(Items()) is numbers


# -- callbacks --------------------------------------------------------------------------------------


def test_a_callback_can_be_called_here():
    def function(a, b=2):
        """Add."""
        return a + b

    wrapped = callback(function)
    assert wrapped(1, b=5) == 6
    assert wrapped.__doc__ == "Add."
    assert repr(wrapped) == f"callback({function!r})"


def test_a_callback_takes_something_callable():
    with pytest.raises(TypeError, match=r"callback takes something callable, not 5"):
        callback(5)


def test_a_callback_cannot_be_pickled_outside_a_call():
    with pytest.raises(TypeError, match=r"can only be sent in a call"):
        pickle.dumps(callback(len), 5)


# -- what is registered by default ------------------------------------------------------------------


def test_generators_files_and_modules_are_known(tmp_path):
    prefix = f"={RemoteProxy.__module__}:"
    assert type_data(x for x in ()) == prefix + "GeneratorProxy"
    assert type_data(types) == prefix + DefaultRemoteProxy.__name__
    for mode in ("w", "wb", "rb"):
        with open(tmp_path / "f", mode) as file:
            assert type_data(file) == prefix + FileProxy.__name__


# -- a proxy's question -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (len, True),
        ([].append, True),
        (Existing().work, True),
        (lambda: 1, True),
        ("".__len__, True),
        (Node.cached, True),
        (5, False),
        (Existing, False),
        (Existing(), False),
    ],
)
def test_methods_are_told_from_values(value, expected):
    assert is_method(value) is expected
    answer = get_method(types.SimpleNamespace(attr=value), "attr")
    assert answer == ((True, None) if expected else (False, value))


def test_a_missing_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError):
        get_method(Existing(), "missing")
