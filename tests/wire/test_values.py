from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import gc
import io
import os
import pickle
import sys
import threading
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.joined_values import joined

from easycluster.errors import EasyClusterError, SerializationError, StaleProxy
from easycluster.objects.exports import ServerObject, callback
from easycluster.wire import pickling
from easycluster.wire.values import BULK, PeerInfo, this_python

BIG = bytes(range(256)) * 1024


class Counter(ServerObject):
    def __init__(self):
        self.count = 0

    def add(self, more):
        self.count += more
        return self.count


class Plain:
    def __init__(self, value):
        self.value = value


class Array:
    """Pickles its bytes out of band, as numpy does."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce_ex__(self, protocol):
        return Array, (pickle.PickleBuffer(self.buffer),)


class FailsToLoad:
    def __reduce__(self):
        return _fail, ()


def _fail():
    raise SystemExit("not here")


class RefusesToPickle:
    def __getstate__(self):
        raise RuntimeError("not today")


class Holder:
    def __init__(self, **parts):
        self.__dict__.update(parts)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int


@pytest.fixture
def ends():
    return joined()


@pytest.fixture(autouse=True)
def _forget_what_other_tests_require():
    required = set(pickling.required)
    pickling.required.clear()
    yield
    pickling.required.clear()
    pickling.required.update(required - {pickling.WARY})


# -- by value ---------------------------------------------------------------------------------------


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.frozensets(scalars)
    ),
    max_leaves=20,
)


@given(plain)
def test_plain_data_arrives_equal_and_of_the_same_types(value):
    near, _ = joined()
    assert repr(near.give(value)) == repr(value) or near.give(value) == value


def test_plain_data_is_exactly_what_pickle_makes_of_it(ends):
    call = ("add", (2, 3), {})
    assert ends[0].values.dumps(call) == (pickle.dumps(call, 5), ())


@pytest.mark.parametrize(
    "value",
    [
        ("__main__", b"__main__", "\x93"),
        Point(1, 2),
        Colour.RED,
        collections.OrderedDict(a=1),
        len,
        os.path.join,
        Point,
        type(None),
        NotImplemented,
        ...,
        ValueError("x").args,
        complex(1, 2),
        range(3),
        1 << 1000,
    ],
)
def test_a_value_arrives_equal(ends, value):
    assert ends[0].give(value) == value
    assert ends[1].give([value]) == [value]


@pytest.mark.parametrize("view", [{1: 2}.keys(), {1: 2}.items()])
def test_views_of_dictionaries_arrive(ends, view):
    assert ends[1].give(view) == view


def test_a_view_of_values_arrives(ends):
    got = ends[1].give({1: 2, 3: 2}.values())
    assert list(got) == [2, 2]
    assert type(got) is type({}.values())


def test_an_object_that_occurs_twice_is_one_object_there(ends):
    twice = Plain(1)
    first, second = ends[0].give([twice, twice])
    assert first is second


# -- buffers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(
    "place", [lambda v: v, lambda v: ("f", (v,), {}), lambda v: ("f", (), {"a": v}), lambda v: (v, 1)]
)
def test_large_bytes_travel_beside_the_pickle_and_keep_their_type(ends, kind, place):
    value = place(kind(BIG))
    for _ in range(2):  # the second time, they are looked for before they are pickled
        data, buffers = ends[0].values.dumps(value)
        assert len(data) < 300
        assert [bytes(buffer) for buffer in buffers] == [BIG]
        got = ends[1].values.loads(data, [bytearray(buffer) for buffer in buffers])
        assert got == value
        assert repr(got)[:20] == repr(value)[:20]


def test_a_large_bytearray_becomes_the_very_buffer_that_came(ends):
    data, _ = ends[0].values.dumps(bytearray(BIG))
    arrived = bytearray(BIG)
    assert ends[1].values.loads(data, [arrived]) is arrived


def test_large_bytes_are_not_copied_where_bytes_arrived(ends):
    data, _ = ends[0].values.dumps(BIG)
    assert ends[1].values.loads(data, [BIG]) is BIG


def test_buffers_are_views_and_not_copies(ends):
    content = bytearray(BIG)
    _, (buffer,) = ends[0].values.dumps(Array(content))
    content[0] = 77
    assert buffer[0] == 77


def test_small_buffers_stay_in_the_pickle(ends):
    data, buffers = ends[0].values.dumps(Array(bytearray(BULK - 1)))
    assert not buffers
    assert len(data) > BULK - 1


def test_a_bare_pickle_buffer_crosses(ends):
    data, buffers = ends[0].values.dumps(pickle.PickleBuffer(BIG))
    assert len(buffers) == 1
    assert bytes(ends[1].values.loads(data, buffers)) == BIG


def test_large_text_and_large_lists_stay_in_the_pickle(ends):
    value = ["x" * BULK, list(range(BULK))]
    data, buffers = ends[0].values.dumps(value)
    assert not buffers
    assert ends[1].values.loads(data) == value


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abc"),
        memoryview(bytearray(b"abc")),
        memoryview(BIG),
        memoryview(bytes(24)).cast("i"),
        memoryview(bytes(24)).cast("i", (2, 3)),
        memoryview(b"abcdef")[::2],
        memoryview(b""),
    ],
)
def test_a_memoryview_arrives_as_a_memoryview(ends, view):
    got = ends[0].give(("f", (view,), {}))[1][0]
    assert got == view
    assert got.shape == view.shape


def test_pickles_may_arrive_in_any_kind_of_buffer(ends):
    data, _ = ends[0].values.dumps([1, Point(1, 2)])
    for kind in (bytes, bytearray, memoryview):
        assert ends[1].values.loads(kind(data)) == [1, Point(1, 2)]


def test_after_large_bytes_other_values_go_the_plain_way_again(ends):
    # A quick way has pickled them before they were noticed.
    ends[0].values.finish_dumps((BIG, 1), "value", pickle.dumps((BIG, 1), 5), None)
    assert pickling.required == {pickling.WARY}
    for _ in range(70):
        ends[0].values.dumps(1)
    assert not pickling.required


# -- by reference -----------------------------------------------------------------------------------


def test_a_server_object_arrives_as_a_proxy_and_comes_back_as_itself(ends):
    near, far = ends
    counter = Counter()
    proxy = far.give(counter)
    assert repr(proxy) == "<RemoteProxy for oid 1 on gpu01:22>"
    assert proxy.add(2) == counter.count == 2
    assert near.give(proxy) is counter
    assert near.give({"deep": [(proxy,)]})["deep"][0][0] is counter


def test_one_object_has_one_proxy(ends):
    counter = Counter()
    first, second = ends[1].give([counter, counter])
    assert first is second
    assert ends[1].give(counter) is first


def test_server_objects_made_on_the_near_side_are_copied(ends):
    got = ends[0].give(Counter())
    assert type(got) is Counter
    assert not len(ends[0].exports)


def test_a_callback_is_called_where_it_was_made(ends):
    near, far = ends
    seen = []
    proxy = near.give((callback(seen.append),))[0]
    proxy("x")
    assert seen == ["x"]
    assert far.give(proxy) == seen.append


def test_two_callbacks_of_one_function_are_one_object(ends):
    def function():
        return 1

    near, far = ends
    proxy = near.give(callback(function))
    assert near.give(callback(function)) is proxy
    assert far.give(proxy) is function


def test_a_proxy_is_refused_by_another_host(ends):
    proxy = ends[1].give(Counter())
    other, _ = joined("gpu02:22")
    message = (
        "<RemoteProxy for oid 1 on gpu01:22> cannot be sent to gpu02:22: its object lives on gpu01:22; "
        "use it there, or fetch plain data from it first"
    )
    with pytest.raises(TypeError) as caught:
        other.values.dumps([proxy])
    assert str(caught.value) == message


def test_a_stale_proxy_is_refused(ends):
    near, far = ends
    proxy = far.give(Counter())
    near.proxies.detach_all("the worker was replaced")
    with pytest.raises(StaleProxy, match="gpu01:22: object 1 is gone: the worker was replaced"):
        near.values.dumps([proxy])


def test_a_reference_to_a_released_object_is_refused(ends):
    near, far = ends
    proxy = far.give(Counter())
    far.exports.clear()
    with pytest.raises(StaleProxy, match="object 1 is not held any more where it lived"):
        near.give(proxy)


def test_a_reference_cannot_be_loaded_outside_its_session(ends):
    data, _ = ends[1].values.dumps(Counter())
    with pytest.raises(SerializationError, match="only inside its session"):
        pickle.loads(data)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v, 5))])
def test_outside_a_session_a_server_object_is_copied_as_any_object(duplicate):
    counter = Counter()
    counter.add(3)
    twin = duplicate(counter)
    assert twin is not counter
    assert (type(twin), twin.count) == (Counter, 3)


def test_an_object_that_pickles_a_server_object_itself_gets_a_copy(ends):
    class Boxed:
        def __init__(self, inside):
            self.inside = inside

        def __reduce__(self):
            return bytes, (pickle.dumps(self.inside, 5),)

    assert type(pickle.loads(ends[1].give(Boxed(Counter())))) is Counter


def test_a_value_that_talks_to_another_session_while_it_is_pickled(ends):
    class Nested:
        def __reduce__(self):
            return str, (repr(other_far.give([Counter(), BIG])[0]),)

    _, other_far = joined("gpu02:22")
    first, text, second = ends[1].give([Counter(), Nested(), Counter()])
    assert [first.proxy_object_id, second.proxy_object_id] == [1, 2]
    assert text == "<RemoteProxy for oid 1 on gpu02:22>"


def test_references_are_counted_by_those_sent(ends):
    near, far = ends
    counter = Counter()
    proxy = far.give([counter, counter])[0]
    assert far.give(counter) is proxy
    del proxy
    gc.collect()
    assert near.proxies.take_dropped() == [(1, 2)]


@pytest.mark.parametrize("poison", [threading.Lock(), RefusesToPickle()])
def test_references_of_a_value_that_could_not_be_sent_are_taken_back(ends, poison):
    with pytest.raises(SerializationError):
        ends[1].values.dumps([Counter(), callback(len), poison])
    assert not len(ends[1].exports)
    assert not pickling.met


def test_references_are_taken_back_when_pickling_is_interrupted(ends):
    class Interrupts:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ends[1].values.dumps([Counter(), Interrupts()])
    assert not len(ends[1].exports)
    assert not pickling.met


def test_references_in_a_value_that_could_not_be_rebuilt_are_given_back(ends):
    near, far = ends
    known = Counter()
    proxy = far.give(known)
    data, _ = far.values.dumps([known, FailsToLoad(), Counter()])
    with pytest.raises(SerializationError):
        near.values.loads(data)
    near.settle()
    assert len(far.exports) == 1
    assert proxy.add(1) == 1
    del proxy
    gc.collect()
    near.settle()
    assert not len(far.exports)


def test_a_discarded_value_gives_its_references_back_and_runs_nothing(ends):
    near, far = ends
    data, _ = far.values.dumps({"a": [Counter(), FailsToLoad()], "b": Array(bytearray(BIG))})
    near.values.discard(data)
    near.settle()
    assert not len(far.exports)


# -- generators, files, modules ---------------------------------------------------------------------


def test_a_generator_goes_by_reference_in_both_directions(ends):
    for end in ends:
        numbers = (number for number in range(3))
        proxy = end.give(numbers)
        assert end.other.give(proxy) is numbers
        assert list(proxy) == [0, 1, 2]


def test_a_file_goes_by_reference(ends, tmp_path):
    with open(tmp_path / "log", "w+") as log:
        proxy = ends[1].give({"log": log})["log"]
        proxy.write("a\nb\n")
        proxy.seek(0)
        assert list(proxy) == ["a\n", "b\n"]
        assert proxy.name == log.name
        assert ends[0].give(proxy) is log


def test_a_file_in_memory_is_plain_data(ends):
    got = ends[1].give(io.BytesIO(b"abc"))
    assert got.read() == b"abc"
    assert type(got) is io.BytesIO


def test_a_module_goes_by_reference(ends):
    proxy = ends[1].give(os.path)
    assert proxy.join("a", "b") == os.path.join("a", "b")
    assert proxy.sep == os.sep
    assert ends[0].give(proxy) is os.path


# -- functions and classes by value -----------------------------------------------------------------


def test_an_importable_function_goes_by_name(ends):
    data, _ = ends[0].values.dumps(_fail)
    assert b"cloudpickle" not in data


def test_a_function_without_a_name_of_its_own_goes_by_value(ends):
    step = 5
    got = ends[0].give(lambda number: number + step)
    assert got(2) == 7


def test_a_class_of_a_script_goes_by_value(ends, monkeypatch):
    script = types.ModuleType("__main__")
    exec("class Job:\n    def run(self): return 'done'\n", script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", script)
    data, buffers = ends[0].values.dumps([script.Job()])
    assert b"cloudpickle" in data
    assert ends[1].values.loads(data, buffers)[0].run() == "done"


def test_a_function_by_value_keeps_references_and_finds_modules_by_name(ends):
    near, far = ends
    counter = Counter()
    proxy = far.give(counter)
    twice, path = near.give(lambda: proxy.add(1)), near.give(lambda: os.path)
    assert twice() == 1
    assert path() is os.path


def test_cloudpickle_is_obtained_before_it_is_needed(ends):
    near, far = ends
    obtained = []
    far.values.obtain_cloudpickle = lambda: obtained.append(1)
    assert near.give(lambda: 1)() == 1
    assert obtained == [1]


def test_cloudpickle_is_not_obtained_for_what_cannot_be_pickled_anyway(ends):
    ends[0].values.obtain_cloudpickle = None
    with pytest.raises(SerializationError, match="cannot pickle"):
        ends[0].values.dumps([threading.Lock()])


def test_a_missing_cloudpickle_is_named(ends):
    def missing():
        raise ImportError("No module named 'cloudpickle'")

    ends[0].values.obtain_cloudpickle = missing
    with pytest.raises(SerializationError, match=r"needs cloudpickle here: No module named 'cloudpickle'; install it"):
        ends[0].values.dumps(lambda: 1)


def _nested_function():
    def inner():
        return 1

    return inner


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (_nested_function(), "function '_nested_function.<locals>.inner' of module "),
        ({"jobs": [(_nested_function(),)]}, "function '_nested_function.<locals>.inner' of module "),
        (Plain(_nested_function()), "function '_nested_function.<locals>.inner' of module "),
        (type("Made", (), {}), "class 'Made' of module "),
        (type("Made", (), {})(), "class 'Made' of module "),
        ([_fail.__code__], "code object '_fail' of "),
    ],
)
@pytest.mark.parametrize("python", [("cpython", 3, 99, 1), ("pypy", *sys.version_info[:2], 1), None])
def test_code_for_another_python_is_refused_before_anything_is_sent(ends, value, what, python):
    ends[0].values.peer = PeerInfo("gpu01:22", python)
    ends[0].values.obtain_cloudpickle = None
    with pytest.raises(SerializationError) as caught:
        ends[0].values.dumps(value)
    text = str(caught.value)
    assert text.startswith(what)
    assert f"from {sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} to " in text
    assert text.endswith(" on gpu01:22, whose byte code differs; put it into define_common, which sends its source")
    assert python is None or f"{python[0]} {python[1]}.{python[2]} on" in text


def test_this_python_tells_implementation_version_and_magic():
    assert this_python()[:3] == (sys.implementation.name, *sys.version_info[:2])
    assert 3000 < this_python()[3] < 65536


# -- what cannot cross ------------------------------------------------------------------------------


def _names(_):
    return ("", "name", "args", "kwargs")


LOCK = threading.Lock()
ADVICE = "; send plain data instead, or make it a ServerObject where it lives"


@pytest.mark.parametrize(
    ("value", "name", "path"),
    [
        (LOCK, "result", "result"),
        ([1, LOCK], "result", "result[1]"),
        ((0, "f", ({"lock": LOCK},), {}), _names, "args[0]['lock']"),
        ((0, "f", (), {"lock": LOCK}), _names, "kwargs['lock']"),
        (Holder(a=1, inner=Holder(lock=LOCK)), "value", "value.inner.lock"),
        ([0] * 1000 + [{"x": [LOCK]}] + [0] * 1000, "value", "value[1000]['x'][0]"),
        ({1, LOCK}, "value", "value element"),
    ],
)
def test_the_message_names_the_path_to_what_cannot_be_pickled(ends, value, name, path):
    with pytest.raises(SerializationError) as caught:
        ends[0].values.dumps(value, name)
    assert str(caught.value) == f"{path}: cannot pickle '_thread.lock' object{ADVICE}"


def test_what_a_class_says_itself_is_told(ends):
    with pytest.raises(SerializationError) as caught:
        ends[0].values.dumps((0, "f", (RefusesToPickle(),), {}), _names)
    assert str(caught.value) == f"args[0]: RuntimeError: not today{ADVICE}"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_structure_that_contains_itself_and_a_lock_is_refused(ends):
    ring = {"lock": LOCK}
    ring["self"] = ring
    with pytest.raises(SerializationError, match=r"cannot pickle '_thread.lock' object"):
        ends[0].values.dumps(ring)


def test_a_value_nested_too_deeply_is_refused(ends):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match=r"^value: nested too deeply to be pickled for gpu01:22; flatten it"):
        ends[0].values.dumps(deep)
    while deep:  # letting go of it at once would recurse
        deep = deep.pop()


def test_an_error_of_ours_passes_unchanged(ends):
    class Raises:
        def __reduce__(self):
            raise EasyClusterError("as it is")

    with pytest.raises(EasyClusterError, match=r"^as it is$"):
        ends[0].values.dumps([Raises()])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps(Plain(1), 5).replace(b"Plain", b"Gone!"), "Gone!"),
        (pickle.dumps(Plain(1), 5).replace(Plain.__module__.encode(), b"x" * len(Plain.__module__)), "No module named"),
        (b"", "EOFError"),
        (b"\x93", "a value from gpu01:22 cannot be rebuilt here"),
        (b"rubbish", "a value from gpu01:22 cannot be rebuilt here"),
        (pickle.dumps(FailsToLoad(), 5), "SystemExit: not here"),
    ],
)
def test_a_value_that_cannot_be_rebuilt_is_an_error_that_says_what(ends, data, words):
    with pytest.raises(SerializationError, match=words):
        ends[0].values.loads(data)
    assert not pickling.at_load
    assert ends[0].values.loads(pickle.dumps(1)) == 1


def test_a_missing_class_is_explained(ends):
    data = pickle.dumps(Plain(1), 5).replace(b"Plain", b"Gone!")
    with pytest.raises(SerializationError, match=r"must exist on both sides, for instance by define_common$"):
        ends[0].values.loads(data)


def test_many_threads_pickle_references_at_once(ends):
    near, far = ends
    counters = [Counter() for _ in range(20)]
    failures = []

    def cross():
        for _ in range(50):
            got = far.give([counters, "x" * 10])
            back = near.give(got)
            if back[0] != counters:
                failures.append(back)

    threads = [threading.Thread(target=cross) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(near.proxies) <= len(far.exports) == 20
    assert not pickling.met
    assert not pickling.at_load


@pytest.mark.parametrize("number", ["1", [1], 0, -1, 1 << 63, 1 << 4000, True, None, 1.0])
def test_what_is_no_number_of_an_object_is_not_given_back(ends, number):
    class Odd:
        def __reduce__(self):
            return pickling.peer_object, (number, "run||")

    near, _far = ends
    data = pickle.dumps([Odd(), 1], 5)
    near.values.discard(data)
    assert near.proxies.take_dropped() == []
