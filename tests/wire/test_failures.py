"""An exception crosses with its type, arguments, state, relatives and source; nothing about it can break the sender."""

from __future__ import annotations

import gc
import importlib
import json
import linecache
import os
import pickle
import re
import subprocess
import sys
import textwrap
import traceback
import types
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster import errors
from easycluster.wire import failures
from easycluster.wire.failures import describe, rebuild

# The installed package, which need not lie beside these tests.
REPOSITORY = Path(errors.__file__).parents[1]


def cross(exc, **options):
    """Take an exception to another place and back: only the pickle of plain values survives the way."""
    return rebuild(pickle.loads(pickle.dumps(describe(exc))), host="gpu01", **options)


def raised(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except BaseException as exc:  # noqa: BLE001
        return exc
    raise AssertionError("nothing was raised")


def throw(exc, cause=None):
    if cause is not None:
        raise exc from cause
    raise exc


class Odd(Exception):
    """Its arguments are not those of its __init__, which the standard pickle cannot undo."""

    inits = 0

    def __init__(self, port, *, link):
        super().__init__(f"{port} is {link}")
        self.port, self.link = port, link
        Odd.inits += 1


class TwoBuiltins(RuntimeError, TimeoutError):
    """Only the second base can make it: that one has fields of its own in C."""


class Slotted(OSError):
    __slots__ = ("__secret", "lane")

    def __init__(self, lane):
        super().__init__(5, "lane is dark", "/dev/gpu0")
        self.lane = lane
        self.__secret = lane * 2

    def secret(self):
        return self.__secret


class Named(AttributeError):
    __slots__ = ("obj",)


def named():
    exc = Named("x")
    exc.obj = "lane"
    return exc


class Computed(Exception):
    """Writes nothing that a plain assignment could write."""

    def __init__(self, code):
        super().__init__(code)
        vars(self)["code"] = code

    code = property(lambda self: vars(self)["code"] + 1)

    def __setattr__(self, name, value):
        raise TypeError("read-only")


class NewTakesMore(Exception):
    def __new__(cls, one, two):
        return super().__new__(cls, one, two)

    def __init__(self, one, two):
        super().__init__(one)


class Guarded(Exception):
    """Holds what cannot be pickled and says itself how to be rebuilt."""

    def __init__(self, name):
        super().__init__(name)
        self.name, self.file = name, sys.stderr

    def __reduce__(self):
        return Guarded, (self.name,)


class Hostile(Exception):
    def broken(self, *args):
        sys.exit("never")

    __str__ = __repr__ = __reduce__ = __reduce_ex__ = __getattr__ = __setattr__ = __eq__ = __bool__ = broken
    __hash__ = None
    args = __cause__ = __context__ = __traceback__ = __notes__ = __class__ = property(broken)


class NeedsArgument(Exception):
    def __str__(self):
        return self.args[0].name


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("no")

    def __repr__(self):
        return "<a device>"


class HostileValue:
    def __reduce__(self):
        raise KeyboardInterrupt

    __repr__ = __reduce__


def made(cls, *args, **attributes):
    exc = cls(*args)
    vars(exc).update(attributes)
    return exc


def reach_nothing():
    return None.speed


def test_a_class_with_two_builtin_bases_keeps_its_type():
    back = cross(raised(throw, TwoBuiltins("too late")))

    assert type(back) is TwoBuiltins
    assert back.args == ("too late",)


COMMON = [
    pytest.param(ValueError("bad", 3, [1, {"a": None}]), [], id="arguments"),
    pytest.param(made(RuntimeError, "x", lane=3, log=["a"]), ["lane", "log"], id="attributes"),
    pytest.param(raised(open, "/no/such/file"), ["errno", "strerror", "filename"], id="OSError"),
    pytest.param(raised(os.rename, "/no/a", "/no/b"), ["errno", "filename", "filename2"], id="OSError-of-two-files"),
    pytest.param(OSError("only text"), ["errno", "strerror"], id="OSError-of-text"),
    pytest.param(ConnectionResetError(104, "reset"), ["errno", "strerror"], id="ConnectionResetError"),
    pytest.param(BlockingIOError(11, "busy", 7), ["errno", "characters_written"], id="BlockingIOError"),
    pytest.param(
        raised(b"ab\xff".decode, "ascii"), ["encoding", "object", "start", "end", "reason"], id="UnicodeDecodeError"
    ),
    pytest.param(raised("\xff".encode, "ascii"), ["encoding", "object", "start", "end"], id="UnicodeEncodeError"),
    pytest.param(
        raised(compile, "a = (1,\nb c", "far.py", "exec"),
        ["msg", "filename", "lineno", "offset", "text", "print_file_and_line"],
        id="SyntaxError",
    ),
    pytest.param(raised(compile, "if 1:\na", "far.py", "exec"), ["msg", "lineno", "text"], id="IndentationError"),
    pytest.param(KeyError("gpu"), [], id="KeyError"),
    pytest.param(StopIteration({"last": 1}), ["value"], id="StopIteration"),
    pytest.param(raised(__import__, "no_such_module"), ["name", "path", "msg"], id="ModuleNotFoundError"),
    pytest.param(raised(reach_nothing), ["name"], id="AttributeError"),
    pytest.param(
        raised(lambda: subprocess.run([sys.executable, "-c", "print(1); exit(3)"], check=True, capture_output=True)),
        ["returncode", "cmd", "output", "stderr", "stdout"],
        id="CalledProcessError",
    ),
    pytest.param(raised(json.loads, "{"), ["msg", "doc", "pos", "lineno", "colno"], id="JSONDecodeError"),
    pytest.param(errors.SpecError("h:x", 2, "bad", "write it"), ["spec", "position", "advice"], id="SpecError"),
    pytest.param(errors.CallTimeout("h", "f()", 2.0, "stack"), ["host", "timeout", "stack"], id="CallTimeout"),
    pytest.param(Odd(7, link="down"), ["port", "link"], id="odd-init"),
    pytest.param(Slotted(4), ["lane", "errno", "filename", "_Slotted__secret"], id="slots"),
    pytest.param(named(), ["obj"], id="slot-that-hides-a-member"),
    pytest.param(Computed(5), ["code"], id="property-and-setattr"),
    pytest.param(NewTakesMore(1, 2), [], id="odd-new"),
]


@pytest.mark.parametrize(("exc", "names"), COMMON)
def test_type_arguments_and_attributes_are_those_of_the_original(exc, names):
    got = cross(exc)
    assert type(got) is type(exc)
    assert got.args == exc.args
    assert [getattr(got, name) for name in names] == [getattr(exc, name) for name in names]
    assert str(got) == str(exc)
    assert repr(got) == repr(exc)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(plain), st.dictionaries(st.text(), plain), st.lists(st.text(), min_size=1))
def test_any_plain_values_come_through(args, attributes, notes):
    got = cross(made(LookupError, *args, **{**attributes, "__notes__": notes}))
    assert got.args == tuple(args)
    assert vars(got) == {**attributes, "__notes__": notes}


def test_no_init_runs_here():
    exc = Odd(7, link="down")
    before = Odd.inits
    cross(exc)
    assert Odd.inits == before


def test_one_value_in_two_places_stays_one_value():
    shared = ["lane"]
    got = cross(made(ValueError, shared, same=shared))
    assert got.same is got.args[0]


def test_values_cross_by_the_pickler_that_is_given():
    failure = describe(ValueError("plain", ["x"]), dumps=lambda value: f"<{value}>".encode())
    assert rebuild(failure, loads=lambda data: data.decode().upper()).args == ("plain", "<['X']>")


# ---- What does not come back as it was ----


@pytest.mark.parametrize(
    ("exc", "message", "args_repr"),
    [
        (SystemExit(3), "SystemExit: 3", "(3,)"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "()"),
        (GeneratorExit("over"), "GeneratorExit: over", "('over',)"),
        (BaseException("odd"), "BaseException: odd", "('odd',)"),
    ],
)
def test_what_would_end_the_program_here_comes_as_a_remote_error(exc, message, args_repr):
    got = cross(raised(throw, exc))
    assert type(got) is errors.RemoteError
    assert (str(got), got.type_name, got.args_repr) == (message, type(exc).__name__, args_repr)
    assert got.traceback_text.splitlines()[-1] == message
    assert "    raise exc\n" in got.traceback_text
    assert got.__traceback__ is not None


def test_a_class_that_is_missing_here_comes_as_a_remote_error_that_names_it():
    namespace = {"__name__": "gpu.driver"}
    exec("class DriverError(ValueError): pass", namespace)
    exc = namespace["DriverError"]("link down", 3)
    exc.__notes__ = ["port 7"]
    got = cross(raised(throw, exc, KeyError("cause")))
    assert type(got) is errors.RemoteError
    assert str(got) == "gpu.driver.DriverError: ('link down', 3)"
    assert (got.type_name, got.args_repr) == ("gpu.driver.DriverError", "('link down', 3)")
    assert got.__notes__ == ["port 7"]
    assert type(got.__cause__) is KeyError


def test_a_local_class_comes_as_a_remote_error():
    class Local(Exception):
        pass

    assert str(cross(Local("x"))).endswith("<locals>.Local: x")


def test_a_name_that_means_something_else_here_is_not_called():
    failure = describe(ValueError("x"))
    failure["nodes"][0]["type"] = ("os", "getpid")
    assert str(rebuild(failure)) == "os.getpid: x"


def test_an_argument_that_cannot_be_pickled_keeps_its_place_and_its_repr():
    got = cross(ValueError("bad", Unpicklable(), 3))
    assert type(got) is ValueError
    assert repr(got) == "ValueError('bad', <a device>, 3)"
    assert got.args[1].type_name == f"{__name__}.Unpicklable"


def test_an_attribute_that_cannot_be_pickled_keeps_its_repr():
    assert repr(cross(made(ValueError, "bad", device=Unpicklable())).device) == "<a device>"


def test_a_value_that_cannot_be_rebuilt_here_is_named():
    def refuse(data):
        raise ImportError("no gpu here")

    got = cross(made(ValueError, "bad", value=Path("x")), loads=refuse)
    assert repr(got.value) == f"<{type(Path()).__module__}.PosixPath object that could not be rebuilt here>"


def test_the_class_rebuilds_itself_where_its_state_cannot_cross():
    got = cross(Guarded("gpu0"))
    assert (type(got), got.name, got.file) == (Guarded, "gpu0", sys.stderr)


def test_a_class_whose_str_needs_what_was_lost_comes_as_a_remote_error():
    device = Unpicklable()
    device.name = "gpu0"
    got = cross(NeedsArgument(device))
    assert (type(got), str(got)) == (errors.RemoteError, f"{__name__}.NeedsArgument: gpu0")


def test_an_exception_that_resists_everything_is_still_named():
    got = cross(raised(throw, Hostile("x")))
    assert str(got) == f"{__name__}.Hostile: <exception str() failed>"
    assert got.__traceback__.tb_next.tb_frame.f_code.co_name == "throw"
    assert got.traceback_text.startswith("Traceback (most recent call last):\n")


def test_values_that_raise_when_touched_are_named():
    got = cross(ValueError(HostileValue()))
    assert repr(got.args[0]) == f"<{__name__}.HostileValue object whose repr() failed>"


def test_hostile_notes_do_no_harm():
    exc = made(ValueError, "x", __notes__=["good", HostileValue()])
    assert cross(exc).__notes__ == ["good", "<note str() failed>"]
    assert not hasattr(cross(made(ValueError, "x", __notes__=HostileValue())), "__notes__")


def test_huge_values_are_shortened(monkeypatch):
    monkeypatch.setattr(failures, "MAX_VALUE", 1_000_000)
    exc = ValueError("x" * 2_000_000, b"y" * 2_000_000, list(range(500_000)))
    failure = describe(exc)
    assert len(pickle.dumps(failure)) < 200_000
    assert [type(arg).__name__ for arg in rebuild(failure).args] == ["Lost"] * 3
    assert all(len(repr(arg)) < 2000 for arg in rebuild(failure).args)


def test_large_values_cross_whole():
    exc = made(ValueError, "x" * 2_000_000, output=b"y" * 2_000_000)
    assert (cross(exc).args, cross(exc).output) == (exc.args, exc.output)
    assert len("".join(failures.text(describe(exc)))) < 100_000


# ---- Cause, context, groups ----


def in_context(first, second):
    try:
        raise first
    except BaseException:  # noqa: BLE001
        raise second  # noqa: B904


def test_the_cause_comes_along_with_its_own_traceback():
    got = cross(raised(throw, ValueError("outer"), raised(throw, KeyError("inner"))))
    assert got.__cause__.args == ("inner",)
    assert got.__suppress_context__
    assert traceback.extract_tb(got.__cause__.__traceback__)[-1].filename == f"gpu01:{__file__}"


def test_the_context_comes_along_and_its_suppression():
    got = cross(raised(in_context, KeyError("first"), ValueError("second")))
    assert got.__context__.args == ("first",)
    assert (got.__cause__, got.__suppress_context__) == (None, False)
    assert cross(raised(throw, ValueError("alone"))).__context__ is None
    exc = raised(in_context, KeyError("first"), ValueError("second"))
    exc.__suppress_context__ = True
    assert cross(exc).__suppress_context__


def test_a_cycle_of_causes_stays_a_cycle():
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    got = cross(one)
    assert got.__cause__.__cause__ is got


def test_an_exception_that_is_its_own_cause_and_attribute_stays_so():
    exc = ValueError("x")
    exc.__cause__ = exc.again = exc
    got = cross(exc)
    assert got.__cause__ is got.again is got


def test_an_exception_that_is_its_own_argument_does_no_harm():
    exc = ValueError("x")
    exc.args = (exc,)
    assert str(cross(exc)) == "ValueError: <exception str() failed>"


def test_an_exception_among_the_arguments_keeps_its_traceback():
    got = cross(errors.RemoteException(raised(throw, KeyError("x")), ["text"]))
    assert (type(got.orig), got.text) == (KeyError, ["text"])
    assert got.orig.__traceback__ is not None


def test_a_chain_longer_than_the_stack_is_cut_and_does_no_harm():
    exc = last = ValueError(0)
    for number in range(1, 5000):
        last.__cause__ = ValueError(number)
        last = last.__cause__
    got, count = cross(exc), 0
    while got is not None:
        assert got.args == (count,)
        got, count = got.__cause__, count + 1
    assert count == failures.MAX_NODES


def test_exceptions_nested_deeper_than_the_stack_do_no_harm():
    exc = ValueError("innermost")
    for _ in range(400):
        exc = ValueError(exc)
    assert type(cross(exc)) is ValueError


def test_notes_come_along():
    assert cross(made(ValueError, "x", __notes__=["on port 7", "lane 2"])).__notes__ == ["on port 7", "lane 2"]


@pytest.fixture
def group_class():
    if sys.version_info < (3, 11):
        return pytest.importorskip("exceptiongroup").ExceptionGroup
    return ExceptionGroup  # noqa: F821


def test_a_group_comes_with_its_members_and_theirs(group_class):
    inner = group_class("inner", [raised(throw, KeyError("k")), Odd(7, link="down")])
    exc = raised(throw, group_class("outer", [inner, ValueError("v")]))
    exc.lane = 3
    got = cross(exc)
    assert (type(got), got.message, got.lane) == (group_class, "outer", 3)
    assert (got.exceptions[0].message, got.exceptions[1].args) == ("inner", ("v",))
    key_error, odd = got.exceptions[0].exceptions
    assert (key_error.args, odd.link) == (("k",), "down")
    assert traceback.extract_tb(key_error.__traceback__)[-1].name == "throw"


def test_members_that_would_end_the_program_become_remote_errors(group_class):
    base = group_class.__mro__[1]
    got = cross(base("over", [KeyboardInterrupt(), ValueError("v")]))
    assert type(got) is group_class
    assert [str(each) for each in got.exceptions] == ["KeyboardInterrupt", "v"]


def test_a_group_in_a_cycle_with_its_member_does_no_harm(group_class):
    member = ValueError("v")
    exc = group_class("g", [member])
    member.__context__ = exc
    got = cross(exc)
    assert got.exceptions[0].__context__ is got
    member.args = (exc,)
    assert str(cross(exc).exceptions[0]).endswith("ExceptionGroup: g (1 sub-exception)")


def test_a_group_of_very_many_says_how_many_are_left_out(group_class):
    got = cross(group_class("g", [ValueError(number) for number in range(1000)]))
    assert len(got.exceptions) == failures.MAX_NODES - 1
    assert got.__notes__ == ["501 more exceptions of this group were left out"]


# ---- Tracebacks ----


def test_frames_name_host_file_line_and_function():
    exc = raised(throw, ValueError("x"))
    want = [(f"gpu01:{entry.filename}", entry.lineno, entry.name, entry.line) for entry in exc_frames(exc)]
    assert [(entry.filename, entry.lineno, entry.name, entry.line) for entry in exc_frames(cross(exc))] == want


def exc_frames(exc):
    return traceback.extract_tb(exc.__traceback__)


def test_python_prints_it_as_if_it_had_happened_here():
    exc = raised(throw, ValueError("outer"), raised(throw, KeyError("inner")))
    want = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).replace('File "', 'File "gpu01:')
    got = cross(exc)
    assert "".join(traceback.format_exception(type(got), got, got.__traceback__)) == want


def test_text_is_what_the_far_python_prints():
    exc = raised(throw, ValueError("outer"), raised(throw, KeyError("inner")))
    assert failures.text(describe(exc)) == traceback.format_exception(type(exc), exc, exc.__traceback__)


def run_as(module, source, **names):
    """Run code as if it belonged to a module, which need not exist."""
    exec(compile(source, f"/far/{module}.py", "exec"), {"__name__": module, **names})


OURS = "easycluster.far.worker"
# Where a definitions module says it is from.
DEFINITIONS = types.SimpleNamespace(origin="easycluster definitions")


def users_frames(exc):
    """Names of the frames that are shown, which the text must have too."""
    failure = describe(exc)
    names = [entry.name for entry in exc_frames(rebuild(failure))]
    assert re.findall(r'File ".*", line \d+, in (.*)\n', "".join(failures.text(failure))) == names
    return names


def test_our_frames_that_lead_into_the_users_code_are_left_out():
    exc = raised(run_as, OURS, "call()", call=lambda: throw(ValueError("x")))
    assert users_frames(exc.with_traceback(exc.__traceback__.tb_next.tb_next)) == ["<lambda>", "throw"]


def test_our_frames_that_the_users_code_leads_into_are_left_out():
    exc = raised(run_as, OURS, "def find(): raise AttributeError('iner')\nfind()")
    assert users_frames(exc) == ["raised", "run_as"]


def test_an_error_that_is_all_ours_has_no_frames():
    exc = raised(run_as, OURS, "def find(): raise AttributeError('iner')\nfind()")
    failure = describe(exc.with_traceback(exc.__traceback__.tb_next.tb_next))
    assert rebuild(failure).__traceback__ is None
    assert failures.text(failure) == ["AttributeError: iner\n"]


def test_our_frames_between_the_users_are_hidden():
    exc = raised(run_as, OURS, "def call(): throw(ValueError())\ncall()", throw=throw)
    got = [(frame.f_code.co_name, "__tracebackhide__" in frame.f_globals) for frame in walk(cross(exc))]
    assert got == [("raised", False), ("run_as", False), ("<module>", True), ("call", True), ("throw", False)]


def walk(exc):
    return [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]


def test_the_machinery_of_an_import_that_fails_is_left_out():
    assert users_frames(raised(importlib.import_module, "no_such_module")) == ["raised"]


def test_our_frames_are_left_out_of_causes_and_group_members_too(group_class):
    ours = raised(run_as, OURS, "1 / 0")
    exc = raised(throw, group_class("g", [raised(run_as, OURS, "2 / 0")]), ours)
    text = "".join(failures.text(describe(exc)))
    assert text.count("ZeroDivisionError") == 2
    assert OURS not in text


@pytest.mark.parametrize(
    ("module", "spec", "want"),
    [
        ("easycluster.remote_code", DEFINITIONS, ["<module>", "inner"]),
        ("easycluster.of_the_user", DEFINITIONS, ["<module>", "inner"]),
        ("easycluster_roles.gpu", None, ["<module>", "inner"]),
        ("easycluster.far.worker", None, []),
    ],
)
def test_definitions_below_our_name_are_the_users(module, spec, want):
    exc = raised(run_as, module, "def inner():\n  raise ValueError\ninner()", __spec__=spec)
    assert users_frames(exc.with_traceback(exc.__traceback__.tb_next.tb_next)) == want


@pytest.mark.parametrize("function", [reach_nothing, eval("lambda: None.speed")])
def test_frames_of_the_near_side_are_its_own_again_when_they_come_back(function):
    """The exception of a callback goes to the far side and, through the code there, back."""

    def raise_again(exc):
        raise exc

    there = raised(raise_again, rebuild(describe(raised(function)), host="the near side"))
    assert exc_frames(there)[-1].filename.startswith("the near side:")
    frames = exc_frames(cross(there))
    assert frames[0].filename == f"gpu01:{__file__}"
    assert frames[-1].filename == exc_frames(there)[-1].filename[len("the near side:") :]
    assert frames[-1].line == exc_frames(there)[-1].line


def test_what_is_not_a_file_loses_its_angle_brackets():
    """pytest leaves out frames that have both of them in places."""
    exc = raised(eval, compile("1 / 0", "<eval 1>", "eval"))
    assert exc_frames(exc)[-1].filename == "<eval 1>"
    assert exc_frames(cross(exc))[-1].filename == "gpu01:(eval 1)"


def test_compiled_text_without_source_still_has_its_frames():
    exc = raised(run_as, "lab.step", "\n\ndef f(): raise ValueError\nf()")
    assert [(entry.filename, entry.lineno, entry.name, entry.line) for entry in exc_frames(cross(exc))[-2:]] == [
        ("gpu01:/far/lab.step.py", 4, "<module>", ""),
        ("gpu01:/far/lab.step.py", 3, "f", ""),
    ]


class BrokenLoader:
    def get_source(self, name):
        raise ZeroDivisionError


def test_a_loader_that_fails_costs_only_the_source():
    exc = raised(run_as, "broken", "1 / 0", __loader__=BrokenLoader())
    assert [entry.name for entry in exc_frames(cross(exc))] == ["raised", "run_as", "<module>"]


def test_without_a_label_the_source_of_our_own_files_stays_as_it_is():
    before = linecache.getlines(__file__)
    rebuild(describe(raised(throw, ValueError("x"))))
    assert linecache.getlines(__file__) == before


def test_what_the_far_side_calls_itself_is_the_label_where_none_is_given():
    exc = raised(throw, ValueError("x"))
    failure = describe(exc, host="worker 7")
    assert exc_frames(rebuild(failure))[0].filename == f"worker 7:{__file__}"
    assert exc_frames(rebuild(failure, host="gpu01"))[0].filename == f"gpu01:{__file__}"


def test_source_that_has_changed_since_is_shown_as_it_is_now(tmp_path):
    path = tmp_path / "step.py"
    for value in ("'one'", "'two'"):
        path.write_text(f"def f():\n    raise ValueError({value})\n")
        namespace = {}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        assert exc_frames(cross(raised(namespace["f"])))[-1].line == f"raise ValueError({value})"


def recurse(depth):
    return recurse(depth - 1) if depth else throw(ValueError("deep"))


def ping(depth, exc=None):
    return pong(depth - 1, exc) if depth else throw(exc or ValueError("deep"))


def pong(depth, exc):
    return ping(depth, exc)


def test_a_thousand_frames_of_recursion_are_folded():
    got = exc_frames(cross(raised(recurse, 800)))
    assert [entry.name for entry in got] == [
        *("raised", "recurse", "recurse", "recurse"),
        "[previous frame repeated 797 more times]",
        *("recurse", "throw"),
    ]


def test_recursion_through_two_functions_is_folded():
    names = [entry.name for entry in exc_frames(cross(raised(ping, 400)))]
    assert names[1:8] == ["ping", "pong"] * 3 + ["[previous 2 frames repeated 397 more times]"]


def test_an_endless_recursion_comes_back_as_such():
    def endless():
        endless()

    failure = describe(raised(endless))
    got = rebuild(failure)
    assert type(got) is RecursionError
    assert len(exc_frames(got)) < 20
    assert len(pickle.dumps(failure)) < 20_000


def test_a_hundred_thousand_frames_do_no_harm():
    exc = ValueError("x")
    for _ in range(200):
        exc = raised(ping, 200, exc)
    assert len(exc_frames(exc)) > 50_000
    failure = describe(exc)
    assert len(pickle.dumps(failure)) < 300_000
    assert failures.text(failure)[-1] == "ValueError: x\n"


def test_the_middle_of_a_long_traceback_is_left_out():
    exc = ValueError("x")
    for number in range(300):
        exc = raised(run_as, f"step{number}", "throw(exc)", throw=throw, exc=exc)
    got = exc_frames(cross(exc))
    assert len(got) == 201
    assert got[100].name == f"[{len(exc_frames(exc)) - 200} frames left out]"


def test_a_rebuilt_exception_dies_without_the_garbage_collector():
    gc.disable()
    try:
        got = cross(raised(throw, Odd(7, link="down")))
        watch = weakref.ref(got)
        del got
        assert watch() is None
    finally:
        gc.enable()


def test_it_says_where_it_happened_when_it_is_raised_here():
    with pytest.raises(ValueError, match="x") as caught:
        raise cross(raised(throw, ValueError("x")))
    assert [entry.path if isinstance(entry.path, str) else entry.path.name for entry in caught.traceback] == [
        "test_failures.py",
        f"gpu01:{__file__}",
        f"gpu01:{__file__}",
    ]


# ---- In front of people, and between Python versions ----


def test_pytest_shows_the_far_function_and_its_failing_line(pytester):
    pytester.makepyfile(
        far_code="""
        import json

        class Gpu:
            def rebuild(self, ports):
                up = [port for port in ports if port > 1]
                self.check(up,
                           ports)

            def check(self, up, ports):
                # every port has to come up
                if len(up) != len(ports):
                    try:
                        json.loads("{")
                    except ValueError as exc:
                        raise RuntimeError("port down") from exc
        """,
        test_it=f"""
        import pickle, sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from easycluster.wire import failures
        import far_code

        def call():
            __tracebackhide__ = True
            try:
                far_code.Gpu().rebuild([1, 2])
            except RuntimeError as exc:
                failure = failures.describe(exc, skip_frames=lambda frame: frame.f_code.co_name == "call")
            raise failures.rebuild(failure, host="gpu01")

        def test_rebuild():
            call()
        """,
    )
    result = pytester.runpytest_subprocess("-p", "no:easycluster", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "gpu01:*/json/decoder.py:*: JSONDecodeError",
            "The above exception was the direct cause of the following exception:",
            "    def test_rebuild():",
            ">       call()",
            "gpu01:*/far_code.py:6: in rebuild",
            "    self.check(up,",
            "    def check(self, up, ports):",
            "        # every port has to come up",
            "        if len(up) != len(ports):",
            ">               raise RuntimeError(*port down*) from exc",
            "E               RuntimeError: port down",
            "gpu01:*/far_code.py:15: RuntimeError",
        ]
    )


def interpreters():
    """Return the Pythons that a far side may have and that are found here."""
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    return [path for path in found if tuple(map(int, path.parts[-3].split(".")[:2])) >= (3, 8)]


FAR = textwrap.dedent(
    """
    import json, pickle, socket, sys
    sys.path.insert(0, sys.argv[1])
    from easycluster.wire import failures

    class Local(OSError):
        __slots__ = ("lane",)

    def reach(port):
        return {}[
            port]

    def attempt(function):
        try:
            function()
        except BaseException as exc:
            return failures.describe(exc, skip_frames=lambda frame: frame.f_code.co_name == "attempt")

    def chained():
        try:
            reach(7)
        except KeyError as exc:
            raise OSError(5, "dark", "/dev/gpu0") from exc

    def local():
        exc = Local(1, "x")
        exc.lane = 2
        raise exc

    def timed_out():
        raise socket.timeout("late")

    def endless():
        endless()

    cases = [chained, local, timed_out, endless, lambda: sys.exit(4), lambda: b"\\xff".decode("ascii"),
             lambda: json.loads("["), lambda: compile("a b", "x.py", "exec"), lambda: None.speed]
    if sys.version_info >= (3, 11):
        cases.append(lambda: attempt_group())
        def attempt_group():
            raise ExceptionGroup("g", [ValueError(1), KeyError(2)])
    got = [attempt(case) for case in cases]
    for failure in got:
        failures.rebuild(failure, host="here")   # as a far side does with what a callback raised
    sys.stdout.buffer.write(pickle.dumps(got, 4))
    """
)


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: path.parts[-3])
def test_every_far_python_describes_what_this_one_rebuilds(python, tmp_path):
    script = tmp_path / "far.py"
    script.write_text(FAR)
    output = subprocess.run([python, script, REPOSITORY], check=True, capture_output=True, timeout=60).stdout
    got = [rebuild(failure, host="gpu01") for failure in pickle.loads(output)]
    chained, local, timed_out, endless, exited, decode, loads, syntax, attribute, *group = got
    assert (type(chained), chained.errno, chained.filename) == (OSError, 5, "/dev/gpu0")
    assert type(chained.__cause__) is KeyError
    *_, last = exc_frames(chained.__cause__)
    assert (last.filename, last.name, last.line) in [
        (f"gpu01:{script}", "reach", "return {}["),
        (f"gpu01:{script}", "reach", "port]"),
    ]
    assert (type(local), str(local)) == (errors.RemoteError, "Local: [Errno 1] x")
    assert (type(timed_out), timed_out.args) == (TimeoutError, ("late",))
    assert type(endless) is RecursionError
    assert len(exc_frames(endless)) < 20
    assert (type(exited), str(exited)) == (errors.RemoteError, "SystemExit: 4")
    assert (decode.object, decode.start, decode.encoding) == (b"\xff", 0, "ascii")
    assert (type(loads), loads.pos) == (json.JSONDecodeError, 1)
    assert (type(syntax), syntax.filename, syntax.text.strip()) == (SyntaxError, "x.py", "a b")
    assert str(attribute) == "'NoneType' object has no attribute 'speed'"
    for each in group:
        assert [type(member).__name__ for member in getattr(each, "exceptions", [])] in ([], ["ValueError", "KeyError"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda failure: None,
        lambda failure: {},
        lambda failure: {**failure, "nodes": []},
        lambda failure: {**failure, "nodes": [{**failure["nodes"][0], "cause": 7}]},
        lambda failure: {**failure, "nodes": [{**failure["nodes"][0], "suppress": None}]},
    ],
)
def test_a_description_that_makes_no_sense_is_an_error_that_says_so(spoil):
    failure = describe(raised(throw, ValueError("x")))
    exc = rebuild(spoil(failure), host="gpu01")
    assert type(exc) is errors.RemoteError
    assert "raised on gpu01, but what came of it cannot be read" in str(exc)
    assert ("ValueError: x" in exc.traceback_text) == ("text" in (spoil(failure) or ()))
