"""Code for the far side: from text, files and modules, sent on connect and later."""

from __future__ import annotations

import copy
import importlib
import itertools
import sys
import threading
import time
import traceback

import pytest

from easycluster import SINGLE, SerializationError, define_common, definitions_module

DEFINITIONS = ["contract_definitions", "contract_package.code"]

_numbers = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """A package that the definitions module ``contract_package.code`` lives in."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "contract_package").mkdir()
    (folder / "contract_package" / "__init__.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        define_common("def where():\n    return __name__\n", DEFINITIONS[1])
        yield folder


@pytest.fixture
def number():
    """For names of the test's own: what one test defines, all sessions after it have."""
    return next(_numbers)


@pytest.fixture
def name(number):
    """A definitions module of the test's own, for definitions that others must not get."""
    return f"contract_definitions_{number}"


define_common(
    """
    import collections
    import os

    class Point:
        def __init__(self, x, y):
            self.x = x
            self.y = y

        def __eq__(self, other):
            return type(other) is type(self) and vars(other) == vars(self)

        __hash__ = None

        def moved(self, dx):
            return Point(self.x + dx, self.y)

        class Inner:
            pass

    Pair = collections.namedtuple("Pair", "a b")

    def move(point, dx):
        assert type(point) is Point
        return point.moved(dx)

    def apply(function, *args):
        return function(*args)

    def twice(x):
        return 2 * x

    def get_twice():
        return twice

    def fails(x):
        # A comment that the traceback shows not.
        return 1 / x
    """,
    DEFINITIONS[0],
)


def test_definitions_are_sent_on_connect(client):
    assert client.twice(4) == 8


def test_a_definitions_module_in_a_package_keeps_its_name(client):
    assert client.where() == "contract_package.code"
    assert client.eval("__name__") == "contract_definitions"


def test_an_instance_crosses_both_ways_and_is_of_the_class_known_here(client):
    from contract_definitions import Pair, Point

    back = client.move(Point(1, 2), 10)
    assert type(back) is Point
    assert back == Point(11, 2)
    assert client.apply(Pair, 1, 2) == Pair(1, 2)


def test_classes_and_functions_are_pickled_by_reference_both_ways(client):
    from contract_definitions import Point, twice

    assert client.apply(twice, 4) == 8
    assert client.get_twice() is twice
    assert client.eval("Point") is Point
    assert client.eval("Point.Inner") is Point.Inner


def test_a_class_of_the_standard_library_is_pickled_by_reference(client):
    assert client.apply(copy.copy, [1]) == [1]
    assert client.eval("collections.OrderedDict") is importlib.import_module("collections").OrderedDict


def test_definitions_made_after_connect_are_there_after_update_definitions(client, number):
    define_common(f"def late_{number}():\n    return 'late'\n", DEFINITIONS[0])
    with pytest.raises(AttributeError, match=f"no 'late_{number}' in"):
        client.call(f"late_{number}", origexc="quiet")
    client.update_definitions()
    assert client.call(f"late_{number}") == "late"


def test_definitions_are_evaluated_once(client):
    define_common("counter = globals().get('counter', 0) + 1", DEFINITIONS[0])
    client.update_definitions()
    client.update_definitions()
    assert client.counter.value == definitions_module(DEFINITIONS[0]).counter


def test_a_redefined_function_is_the_new_one_at_once(client):
    define_common("def version():\n    return 1\n", DEFINITIONS[0])
    client.update_definitions()
    assert client.version() == 1
    define_common("def version():\n    return 2\n", DEFINITIONS[0])
    client.update_definitions()
    assert client.version() == 2


def test_after_reconnect_the_definitions_are_there(connect, name):
    client = connect(definitions=name)
    define_common("def late():\n    return 'late'\n", name)
    client.update_definitions()
    client.reconnect()
    assert client.late() == "late"


def test_definitions_for_the_far_side_only_are_not_evaluated_here(client):
    define_common("far_pid = os.getpid()", DEFINITIONS[0], local=False)
    client.update_definitions()
    assert client.far_pid.value == client.os.getpid()
    assert not hasattr(definitions_module(DEFINITIONS[0]), "far_pid")


def test_definitions_from_a_file_show_its_path_in_tracebacks(client, tmp_path):
    path = tmp_path / "gpu.py"
    path.write_text("import math\n\n\ndef root(x):\n    return math.sqrt(x)  # of a real number\n")
    define_common(path, DEFINITIONS[0])
    client.update_definitions()
    assert client.root(9) == 3
    with pytest.raises(ValueError, match=r"math domain error|nonnegative") as caught:
        client.root(-1, origexc="quiet")
    text = "".join(traceback.format_exception(caught.value))
    assert str(path) in text
    assert "return math.sqrt(x)  # of a real number" in text


def test_definitions_from_a_module_have_their_own_module_over_there(client, package, number):
    (package / f"module_{number}.py").write_text("class Thing:\n    size = 3\n\ndef make():\n    return Thing()\n")
    module = importlib.import_module(f"module_{number}")
    define_common(module, DEFINITIONS[0])
    client.update_definitions()
    assert type(client.make()) is module.Thing
    assert client.eval("Thing.__module__") == f"module_{number}"


def test_far_side_tracebacks_show_source_lines_and_functions(client):
    with pytest.raises(ZeroDivisionError) as caught:
        client.fails(0, origexc="quiet")
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "fails"
    assert frames[-1].line == "return 1 / x"
    assert client.peername in frames[-1].filename


def test_inspect_finds_the_source_on_both_sides(client):
    import inspect

    from contract_definitions import twice

    client.import_module("inspect")
    assert client.eval("inspect.getsource(twice)") == inspect.getsource(twice) == "def twice(x):\n    return 2 * x\n"


# What goes wrong -------------------------------------------------------------------------------------


def test_definitions_that_fail_over_there_say_which_line_and_are_tried_again_by_the_next_update(connect, name):
    client = connect(definitions=name)
    define_common("before = 1\ndouble = 2 * base\n", name, local=False)
    with pytest.raises(NameError, match="base") as caught:
        client.update_definitions(origexc="quiet")
    assert caught.value.__notes__ == [f"in {name} block 1, line 2: double = 2 * base"]
    assert client.eval("before") == 1
    client.base.value = 4
    client.update_definitions()
    assert client.double.value == 8


def test_definitions_that_fail_during_connect_fail_the_connect(connect, name, capfd):
    define_common("raise ValueError('not on this machine')", name, local=False)
    with pytest.raises(ValueError, match="not on this machine"):
        connect(definitions=name)


def test_a_syntax_error_is_raised_where_the_definitions_are_made_and_nothing_is_sent(client, number):
    with pytest.raises(SyntaxError) as caught:
        define_common(f"def broken_{number}(:\n    pass\n", DEFINITIONS[0])
    assert (caught.value.lineno, caught.value.text.strip()) == (1, f"def broken_{number}(:")
    assert "block" in caught.value.filename
    client.update_definitions()
    assert client.eval("1") == 1


def test_an_instance_of_a_class_that_this_side_lacks_is_a_clear_error_and_the_session_lives(client):
    client.execblock("class OnlyThere: pass")
    with pytest.raises(SerializationError, match=r"cannot be rebuilt here: .*OnlyThere.*; what it names must exist on"):
        client.OnlyThere()
    assert client.twice(1) == 2


def test_an_instance_of_a_class_that_the_far_side_lacks_is_a_clear_error_and_the_session_lives(client, package):
    (package / "only_here.py").write_text("class Here:\n    pass\n")
    module = importlib.import_module("only_here")
    del sys.modules["only_here"]
    (package / "only_here.py").unlink()
    sys.modules["only_here"] = module
    with pytest.raises(SerializationError, match=r"only_here"):
        client.apply(len, [module.Here()], origexc="quiet")
    assert client.twice(1) == 2


def test_far_side_code_may_define_for_itself(client):
    client.execblock(f"define_common('def inner():\\n    return 5\\n', {DEFINITIONS[0]!r})")
    assert client.inner() == 5


def test_a_name_in_use_by_a_module_is_refused_for_definitions(connect):
    with pytest.raises(ImportError, match="'json' is a module already"):
        connect(definitions="json")


def test_calls_of_other_threads_wait_for_the_definitions(connect, name, tmp_path):
    go = tmp_path / "go"
    go.touch()
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
    define_common(f"{wait}def late(): return 5\n", name)
    client = connect(definitions=name)
    before = client._session
    go.unlink()
    answers = []
    connecting = threading.Thread(target=client.reconnect)
    # A far-side thread of its own, which does not wait for the one that evaluates definitions.
    calling = threading.Thread(target=lambda: answers.append(client.call("late", threadid=SINGLE, origexc="quiet")))
    connecting.start()
    try:
        while client._session is before or not client.connected:
            assert connecting.is_alive()
            time.sleep(0.001)
        calling.start()
        calling.join(0.2)
        assert calling.is_alive()
    finally:
        go.touch()
        connecting.join()
    calling.join()
    assert answers == [5]
