"""Objects that stay over there, and the proxies that stand for them here."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import re

import pytest

from easycluster import (
    DefaultRemoteProxy,
    FileProxy,
    GeneratorProxy,
    RemoteProxy,
    ServerObject,
    StaleProxy,
    define_common,
)

DEFINITIONS = "contract_objects"

define_common(
    """
    import array
    import collections
    import io
    import os
    import tempfile
    import types

    class Thing(ServerObject):
        kind = "thing"

        def __init__(self, value):
            self.value = value

        def get(self):
            return self.value

        def add(self, n=1, *, times=1):
            self.value += n * times
            return self.value

        def both(self, *args, **kwargs):
            return args, kwargs

        def me(self):
            return self

        def other(self):
            return Thing(self.value + 1)

        def fail(self):
            raise ValueError("of the thing", self.value)

        @property
        def doubled(self):
            return 2 * self.value

        @property
        def broken(self):
            raise LookupError("property")

        @classmethod
        def make(cls):
            return cls(0)

        @staticmethod
        def static(x):
            return x

        class Nested:
            pass

    class Listed(Thing):
        export_methods = ("get",)
        export_attrs = ("value",)

    class ListedMore(Listed):
        export_methods = ("get", "add")

    class Unlisted(Listed):
        def late(self):
            return "late"

    class AutoAndMore(Thing):
        export_methods = ("@auto",)
        export_attrs = ("value",)

    class Cached(ServerObject):
        export_methods = ("bump",)
        export_attrs = ()
        export_attrs_cache = ("serial",)

        def __init__(self):
            self.asked = 0
            self.number = 1

        @property
        def serial(self):
            self.asked += 1
            return self.number

        def bump(self):
            self.number += 1
            return self.asked

    class NamedProxy(RemoteProxy):
        proxy_methods = ("get",)
        proxy_attrs = ("value",)
        proxy_attrs_cache = ("kind",)

        def local(self):
            return "local", self.get()

    class Named(Thing):
        proxy_class = NamedProxy

    class ForgetfulProxy(DefaultRemoteProxy):
        note = None

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.note = "kept here"

    class Forgetful(Thing):
        proxy_class = ForgetfulProxy

    class Vector(ServerObject):
        def __init__(self, *items):
            self.items = list(items)

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
            return iter(list(self.items))

        def __add__(self, other):
            return Vector(*self.items, *(other.items if isinstance(other, Vector) else other))

        def __radd__(self, other):
            return Vector(*other, *self.items)

        def __iadd__(self, other):
            self.items.extend(other)
            return self

        def __eq__(self, other):
            return isinstance(other, Vector) and self.items == other.items

        def __hash__(self):
            return hash(tuple(self.items))

        def __lt__(self, other):
            return self.items < other.items

        def __call__(self, x):
            return [x, *self.items]

        def __bool__(self):
            return bool(self.items)

        def __str__(self):
            return f"Vector{tuple(self.items)}"

        def __int__(self):
            return sum(self.items)

        def __enter__(self):
            self.items.append("entered")
            return self

        def __exit__(self, kind, value, traceback):
            self.items.append((kind and kind.__name__, str(value)))
            return kind is KeyError

    class Plain:
        def __init__(self, value):
            self.value = value

        def get(self):
            return self.value

        def __eq__(self, other):
            return type(other) is type(self) and other.value == self.value

        __hash__ = None

    class Library(Plain):
        pass

    make_server_class(Library, export_methods=["get"], export_attrs=["value"])
    make_server_class(array.array)
    make_server_class(collections.Counter, export_methods=["most_common"], export_attrs=[])

    plain, single = Plain("copied"), Plain("stays")
    make_singleton(single)
    shared_list = make_singleton([1, 2])
    shared_dict = make_singleton({"a": 1})

    def get_plain(): return plain
    def get_single(): return single
    def get_list(): return shared_list
    def get_dict(): return shared_dict
    def new_list(): return [1, 2]

    def is_same(a, b): return a is b
    def values(things): return [thing.value for thing in things]
    def nest(x): return {"list": [x, (x, {"deep": x})], "again": x}
    def is_thing(x): return type(x) is Thing
    def type_name(x): return type(x).__name__
    def things(n): return [Thing(i) for i in range(n)]
    def echo(x): return x
    """,
    DEFINITIONS,
)


# What a proxy is -------------------------------------------------------------------------------------


def test_a_server_object_comes_back_as_a_proxy(client):
    thing = client.Thing(5)
    assert isinstance(thing, RemoteProxy)
    assert thing.get() == 5
    assert repr(thing) == f"<RemoteProxy for oid {thing.proxy_object_id} on {client.peername}>"


def test_objects_are_numbered_from_1(connect):
    client = connect()
    assert [repr(thing) for thing in client.things(2)] == [
        f"<RemoteProxy for oid 1 on {client.peername}>",
        f"<RemoteProxy for oid 2 on {client.peername}>",
    ]


def test_methods_take_arguments_and_keywords(client):
    thing = client.Thing(5)
    assert thing.add(2, times=3) == 11
    assert thing.both(1, a=2) == ((1,), {"a": 2})
    assert thing.both(timeout=3) == ((), {"timeout": 3})


def test_raw_call_method_passes_keywords_on_that_a_call_takes_out(client):
    words = {"nonblocking": 1, "oncomplete": 2, "threadid": 3, "origexc": 4, "timeout": 5}
    assert client.Thing(5).raw_call_method("both", (), words) == ((), words)


def test_a_method_that_returns_another_object_returns_a_proxy(client):
    assert client.Thing(5).other().other().get() == 7


def test_an_exception_of_a_method_is_raised_here(client):
    with pytest.raises(ValueError, match="of the thing") as caught:
        client.Thing(5).fail(origexc="quiet")
    assert caught.value.args == ("of the thing", 5)


def test_class_methods_and_static_methods_are_methods_of_the_proxy(client):
    thing = client.Thing(5)
    assert thing.make().get() == 0
    assert thing.static("x") == "x"


def test_attributes_and_properties_are_read(client):
    thing = client.Thing(5)
    assert (thing.value, thing.doubled, thing.kind) == (5, 10, "thing")


def test_attributes_are_set_and_deleted(client):
    thing = client.Thing(5)
    thing.value = 8
    thing.fresh = [1]
    assert (thing.get(), thing.doubled, thing.fresh) == (8, 16, [1])
    del thing.fresh
    assert not hasattr(thing, "fresh")


def test_a_missing_attribute_is_an_attribute_error_and_prints_nothing(client, capsys):
    thing = client.Thing(5)
    assert not hasattr(thing, "missing")
    with pytest.raises(AttributeError, match="'Thing' object has no attribute 'missing'"):
        thing.missing  # noqa: B018 - reading it is the test
    assert capsys.readouterr().err == ""


def test_a_property_that_fails_raises_its_exception(client, capsys):
    with pytest.raises(LookupError, match="property"):
        client.Thing(5).broken  # noqa: B018 - reading it is the test
    assert "LookupError: property" in capsys.readouterr().err


def test_raw_attributes_are_for_names_that_python_takes_otherwise(client):
    thing = client.Thing(5)
    thing.raw_set_attribute("value", 9)
    assert thing.raw_get_attribute("value") == 9
    assert thing.raw_get_attribute("value", nonblocking=True).wait() == 9
    thing.raw_del_attribute("value")
    assert not hasattr(thing, "value")


def test_calls_of_methods_may_be_nonblocking_or_in_another_thread(client):
    thing = client.Thing(5)
    responses = [thing.add(1, nonblocking=True) for _ in range(5)]
    assert [response.wait() for response in responses] == [6, 7, 8, 9, 10]
    assert thing.get(threadid=3) == 10


def test_a_proxy_cannot_be_copied_or_pickled_outside_of_a_call(client):
    thing = client.Thing(5)
    with pytest.raises(TypeError, match="cannot be copied or pickled here"):
        pickle.dumps(thing)
    with pytest.raises(TypeError, match="cannot be copied or pickled here"):
        copy.copy(thing)


# Identity --------------------------------------------------------------------------------------------


def test_one_object_has_one_proxy(client):
    thing = client.Thing(5)
    assert thing.me() is thing
    pair = client.echo([thing, thing])
    assert pair[0] is thing
    assert pair[1] is thing


def test_a_proxy_sent_back_is_the_original(client):
    thing = client.Thing(5)
    assert client.is_thing(thing)
    assert client.is_same(thing, thing)
    assert not client.is_same(thing, client.Thing(5))
    client.kept.value = thing
    assert client.kept.value is thing
    assert client.eval("kept.value") == 5


def test_proxies_in_nested_containers_are_the_originals(client):
    thing = client.Thing(5)
    assert client.values([thing, client.Thing(6)]) == [5, 6]
    assert client.values((thing,)) == [5]
    nested = client.nest(thing)
    assert nested["list"][0] is thing
    assert nested["list"][1][1]["deep"] is thing
    assert nested["again"] is thing


def test_many_objects_in_one_result(client):
    assert [thing.value for thing in client.things(50)] == list(range(50))


def test_an_attribute_of_an_object_may_be_a_proxy(client):
    one, two = client.Thing(1), client.Thing(2)
    one.value = two
    assert one.value is two
    one.value = [two, 3]
    assert one.get()[0] is two


def test_a_proxy_sent_to_another_connection_is_a_type_error_that_names_both(client, connect):
    thing, other = client.Thing(5), connect(label="other-host")
    for value in (thing, [thing], {"k": (thing,)}):
        with pytest.raises(TypeError, match=f"(?s){re.escape(client.peername)}.*other-host"):
            other.echo(value)
    assert other.echo(1) == 1


def test_a_proxy_is_stale_after_reconnect(connect):
    client = connect()
    thing = client.Thing(5)
    generator = client.eval("(x for x in range(3))")
    assert thing.proxy_connection is client
    client.reconnect()
    assert thing.proxy_connection is None
    for use in (thing.get, lambda: thing.value, lambda: setattr(thing, "value", 1), lambda: client.echo(thing)):
        with pytest.raises(StaleProxy, match=rf"{re.escape(client.peername)}: object 1 is gone"):
            use()
    with pytest.raises(StaleProxy):
        list(generator)
    assert client.Thing(6).get() == 6


def test_a_proxy_is_stale_after_close(connect):
    client = connect()
    thing = client.Thing(5)
    client.close()
    with pytest.raises(StaleProxy, match="object 1 is gone: its connection was closed"):
        thing.get()
    assert repr(thing) == f"<RemoteProxy for oid 1 on {client.peername}>"


# What is exported ------------------------------------------------------------------------------------


def test_auto_exports_what_the_class_defines_and_asks_for_the_rest(client):
    thing = client.Thing(5)
    assert isinstance(thing, DefaultRemoteProxy)
    assert "add" in thing.proxy_methods
    assert type(thing).__name__.startswith("dynamic_proxy_")


def test_export_lists_are_all_there_is(client):
    listed = client.Listed(5)
    assert (listed.get(), listed.value) == (5, 5)
    assert not isinstance(listed, DefaultRemoteProxy)
    with pytest.raises(AttributeError, match="'dynamic_proxy_get_value' object has no attribute 'add'"):
        listed.add(1)
    listed.value = 6
    assert listed.get() == 6


def test_a_subclass_with_lists_of_its_own_does_not_change_its_base(client):
    assert client.ListedMore(5).add(1) == 6
    assert not hasattr(client.Listed(5), "add")


def test_a_subclass_without_lists_has_those_of_its_base(client):
    unlisted = client.Unlisted(5)
    assert unlisted.get() == 5
    assert not hasattr(unlisted, "late")


def test_auto_methods_with_listed_attributes(client):
    thing = client.AutoAndMore(5)
    assert (thing.add(1), thing.value) == (6, 6)
    assert not hasattr(thing, "kind")


def test_a_cached_attribute_is_asked_for_once(client):
    cached = client.Cached()
    assert (cached.serial, cached.serial) == (1, 1)
    assert cached.bump() == 1
    assert cached.serial == 1


def test_a_class_names_its_proxy_class(client):
    from contract_objects import NamedProxy

    named = client.Named(5)
    assert type(named) is NamedProxy
    assert named.local() == ("local", 5)
    assert (named.value, named.kind) == (5, "thing")
    assert not hasattr(named, "add")


def test_a_proxy_class_may_have_attributes_of_its_own(client):
    forgetful = client.Forgetful(5)
    forgetful.note = "changed here"
    forgetful.value = 6
    assert (forgetful.note, forgetful.get()) == ("changed here", 6)
    assert not client.hasattr(forgetful, "note")


# Operators -------------------------------------------------------------------------------------------


def test_a_container_class_is_a_container_here(client):
    vector = client.Vector(1, 2, 3)
    assert len(vector) == 3
    assert vector[0] == 1
    assert vector[-2:] == [2, 3]
    vector[0] = 10
    del vector[1]
    assert list(vector) == [10, 3]
    assert 10 in vector
    assert 2 not in vector


def test_operators_reach_the_object(client):
    vector = client.Vector(1, 2)
    assert (vector + (3,)).items == [1, 2, 3]  # noqa: RUF005 - the operators are the test
    assert ((0,) + vector).items == [0, 1, 2]  # noqa: RUF005
    assert (vector + client.Vector(9)).items == [1, 2, 9]
    same = vector
    vector += [3]
    assert vector is same
    assert vector.items == [1, 2, 3]
    assert client.Vector(1) < client.Vector(2)
    assert vector("x") == ["x", 1, 2, 3]
    assert str(vector) == "Vector(1, 2, 3)"
    assert int(vector) == 6
    assert not client.Vector()


def test_equality_and_hash_are_those_of_the_object_if_its_class_defines_them(client):
    one, equal, other = client.Vector(1), client.Vector(1), client.Vector(2)
    assert one == equal
    assert one != other
    assert len({one, equal, other}) == 2
    assert client.Thing(1) != client.Thing(1)


def test_a_context_manager_is_one_here(client):
    vector = client.Vector()
    with vector as entered:
        assert entered is vector
    with vector:
        raise KeyError("swallowed")
    with pytest.raises(ValueError, match="not swallowed"), vector:
        raise ValueError("not swallowed")
    assert vector.items == [
        "entered",
        (None, "None"),
        "entered",
        ("KeyError", "'swallowed'"),
        "entered",
        ("ValueError", "not swallowed"),
    ]


def test_a_context_manager_ends_with_an_exception_that_cannot_cross(client):
    class Local(Exception):
        def __reduce__(self):
            raise RuntimeError("not to be pickled")

    vector = client.Vector()
    with pytest.raises(Local), vector:
        raise Local("here only")
    assert vector.items[-1][1] == "Local: here only"


def test_proxies_work_with_exit_stacks(client):
    vector = client.Vector()
    with contextlib.ExitStack() as stack:
        stack.enter_context(vector)
    assert vector.items == ["entered", (None, "None")]


# Existing classes and single objects -----------------------------------------------------------------


def test_a_registered_class_goes_by_reference_with_its_lists(client):
    library = client.Library(5)
    assert (library.get(), library.value) == (5, 5)
    assert client.type_name(library) == "Library"


def test_a_class_written_in_c_can_be_registered(client):
    array = client.array.array("B", b"1234")
    assert isinstance(array, RemoteProxy)
    array.append(53)
    assert len(array) == 5
    assert array[0] == 49
    assert array.tobytes() == b"12345"
    assert list(array) == [49, 50, 51, 52, 53]
    assert client.bytes(array) == b"12345"


def test_a_builtin_subclass_can_be_registered_with_lists(client):
    counter = client.collections.Counter("abca")
    assert counter.most_common(1) == [("a", 2)]
    assert not hasattr(counter, "elements")


def test_other_objects_of_the_class_of_a_singleton_are_copied(client):
    from contract_objects import Plain

    assert client.get_plain() == Plain("copied")
    single = client.get_single()
    assert isinstance(single, RemoteProxy)
    assert single.get() == "stays"
    assert client.get_single() is single
    assert client.is_same(single, client.get_single())


def test_a_list_and_a_dict_can_be_singletons(client):
    shared = client.get_list()
    assert isinstance(shared, RemoteProxy)
    shared.append(3)
    assert client.eval("list(shared_list)") == [1, 2, 3]
    assert (len(shared), shared[0]) == (3, 1)
    shared.pop()
    assert client.get_dict()["a"] == 1
    assert client.new_list() == [1, 2]
    assert client.echo([1, 2]) == [1, 2]
    assert client.nest(shared)["again"] is shared


def test_a_class_goes_by_itself_and_not_by_reference(client):
    from contract_objects import Thing

    assert client.eval("Thing") is Thing


def test_a_server_object_of_this_side_is_copied(client):
    from contract_objects import Thing

    thing = Thing(5)
    copied = client.echo(thing)
    assert isinstance(copied, RemoteProxy)
    assert copied.add(1) == 6
    assert thing.value == 5


def test_server_objects_are_usable_here_without_a_connection():
    from contract_objects import Thing

    assert issubclass(Thing, ServerObject)
    assert copy.copy(Thing(3)).get() == 3
    assert pickle.loads(pickle.dumps(Thing(3))).get() == 3


# Files and modules -----------------------------------------------------------------------------------


@pytest.fixture
def path(client):
    found = client.tempfile.mkdtemp() + "/file"
    yield found
    client.shutil.rmtree(client.os.path.dirname(found))


def test_a_file_is_written_and_read(client, path):
    file = client.open(path, "w")
    assert isinstance(file, FileProxy)
    assert file.write("one\ntwo\n") == 8
    assert (file.closed, file.name, file.mode) == (False, path, "w")
    file.close()
    assert file.closed
    assert client.open(path).read() == "one\ntwo\n"


def test_a_file_is_a_context_manager(client, path):
    with client.open(path, "wb") as file:
        file.write(b"\0\xff" * 100_000)
        file.seek(2)
        assert file.tell() == 2
    assert file.closed
    with client.open(path, "rb") as file:
        assert file.read() == b"\0\xff" * 100_000


def test_a_file_is_iterated_by_lines(client, path):
    with client.open(path, "w+") as file:
        file.writelines(["one\n", "two\n", "three"])
        file.seek(0)
        assert file.readline() == "one\n"
        assert list(file) == ["two\n", "three"]
        file.seek(0)
        assert file.readlines() == ["one\n", "two\n", "three"]


def test_a_file_reads_into_a_buffer_of_this_side(client, path):
    with client.open(path, "wb") as file:
        file.write(b"0123456789")
    buffer = bytearray(4)
    with client.open(path, "rb") as file:
        assert file.readinto(buffer) == 4
    assert buffer == b"0123"


def test_a_file_can_be_wrapped_and_sent_back(client, path):
    with client.open(path, "w") as file:
        client.print("printed", file=file)
    with client.open(path) as file:
        assert client.list(file) == ["printed\n"]


def test_a_file_over_there_that_is_missing_is_a_file_not_found_error(client, path):
    with pytest.raises(FileNotFoundError) as caught:
        client.open(path, origexc="quiet")
    assert caught.value.filename == path


def test_files_in_memory_are_copied(client):
    assert type(client.io.BytesIO(b"x")) is io.BytesIO
    assert client.io.StringIO("text").read() == "text"


def test_a_module_is_a_proxy(client):
    module = client.eval("os")
    assert isinstance(module, DefaultRemoteProxy)
    assert module.getpid() == client.os.getpid()
    assert module.path.join("a", "b") == "a/b"
    assert not hasattr(module, "no_such_name")


def test_a_lock_can_be_made_a_server_class_by_the_session(client):
    client.execblock("import threading\nmake_server_class(type(threading.Lock()))")
    with client.threading.Lock() as held:
        assert held is True
    lock = client.threading.Lock()
    assert lock.acquire()
    assert lock.locked()
    lock.release()


# What is refused -------------------------------------------------------------------------------------


def test_an_unknown_proxy_class_is_replaced_and_the_user_is_told(client):
    client.execblock("""
        class FarProxy(RemoteProxy):
            proxy_methods = ("get",)

        class Far(Thing):
            proxy_class = FarProxy
    """)
    with pytest.warns(RuntimeWarning, match="proxy class FarProxy of contract_objects is not defined here"):
        far = client.Far(5)
    assert far.get() == 5


def test_an_object_number_that_is_not_held_is_refused(client):
    with pytest.raises(OSError, match="object 99999 is not held any more"):
        client.send_request(99999, "get", (), origexc="quiet")
    assert client.echo(1) == 1


def test_a_generator_of_a_proxy_is_a_generator_proxy(client):
    assert isinstance(client.eval("(x for x in range(3))"), GeneratorProxy)
