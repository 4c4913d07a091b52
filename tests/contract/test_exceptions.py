"""Exceptions of the far side: raised here as they were there, and never the end of the session."""

from __future__ import annotations

import contextlib
import gc
import pickle
import subprocess
import sys
import threading
import traceback
import weakref

import pytest

from easycluster import Client, RemoteError, RemoteException, SerializationError, define_common

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

DEFINITIONS = "contract_exceptions"

define_common(
    """
    import os
    import sys
    import threading

    class Fault(Exception):
        def __init__(self, message, code):
            super().__init__(message)
            self.code = code

    class Odd(Exception):
        '''One that pickle cannot rebuild from its arguments.'''
        def __init__(self, left, right):
            super().__init__(f"{left} against {right}")
            self.left = left

    class Hostile(Exception):
        def __str__(self):
            raise RuntimeError("no text for you")
        __repr__ = __str__

        def __reduce__(self):
            raise RuntimeError("no pickle for you")

    class Unloadable:
        def __reduce__(self):
            return exec, ("raise OSError('not to be loaded')",)

    def throw(error):
        raise error

    def fault(code):
        error = Fault("broken", code)
        error.extra = {"unit": 7}
        raise error

    def with_lock():
        error = Fault("holds a lock", 1)
        error.lock = threading.Lock()
        error.unit = 7
        raise error

    def with_lock_argument():
        raise ValueError("locked", threading.Lock())

    def odd():
        raise Odd("red", "blue")

    def hostile():
        raise Hostile("x")

    def unknown_type():
        class Local(Exception):
            pass
        raise Local("made in a function")

    def noted():
        error = ValueError("with notes")
        error.__notes__ = ["first note", "second note"]
        raise error

    def inner():
        raise KeyError("inner")

    def caused():
        try:
            inner()
        except KeyError as exc:
            raise OSError(5, "outer") from exc

    def in_context():
        try:
            inner()
        except KeyError:
            raise TypeError("while handling")

    def suppressed():
        try:
            inner()
        except KeyError:
            raise TypeError("alone") from None

    def deep(n):
        return deep(n + 1)

    def nested(depth):
        value = []
        for _ in range(depth):
            value = [value]
        return value

    def echo(x):
        return x

    def lock():
        return threading.Lock()

    def unloadable():
        return [1, Unloadable()]

    def chatty_loop():
        a, b = ValueError("a"), ValueError("b")
        a.__cause__, b.__cause__ = b, a
        raise a
    """,
    DEFINITIONS,
)


@pytest.fixture
def alive(client):
    """The session, which must be of use after the test too."""
    pid = client.os.getpid()
    yield client
    assert client.echo("still here") == "still here"
    assert client.os.getpid() == pid


def caught(kind, function, *args, **kwargs):
    """Call what must raise exactly ``kind`` and return the exception."""
    with pytest.raises(kind) as info:
        function(*args, origexc="quiet", **kwargs)
    assert type(info.value) is kind
    return info.value


# The original ----------------------------------------------------------------------------------------


def test_the_original_type_is_raised_with_its_arguments(alive):
    error = caught(ValueError, alive.int, "x")
    assert error.args == ("invalid literal for int() with base 10: 'x'",)


def test_an_os_error_keeps_number_and_file(alive):
    error = caught(FileNotFoundError, alive.open, "/no/such/file")
    assert (error.errno, error.filename) == (2, "/no/such/file")


def test_a_unicode_error_keeps_its_parts(alive):
    error = caught(UnicodeDecodeError, alive.bytes.decode, b"\xff", "utf-8")
    assert (error.encoding, error.object, error.start) == ("utf-8", b"\xff", 0)


def test_an_exception_of_the_definitions_keeps_its_attributes(alive):
    from contract_exceptions import Fault

    error = caught(Fault, alive.fault, 42)
    assert (error.args, error.code, error.extra) == (("broken",), 42, {"unit": 7})


@pytest.mark.fault("odd-exception")
def test_a_type_that_pickle_cannot_rebuild_is_the_original_type_too(alive, outcome):
    from contract_exceptions import Odd

    with outcome.raises(Odd) as info:
        alive.odd(origexc="quiet")
    assert (str(info.value), info.value.left) == ("red against blue", "red")
    outcome.lives(alive)


def test_a_called_process_error_keeps_its_output(alive):
    error = caught(subprocess.CalledProcessError, alive.subprocess.check_output, ["sh", "-c", "echo out; exit 3"])
    assert (error.returncode, error.output) == (3, b"out\n")


def test_an_exception_sent_as_argument_is_raised_as_it_was(alive):
    assert caught(LookupError, alive.throw, LookupError("a", 1)).args == ("a", 1)


def test_notes_are_kept(alive):
    assert caught(ValueError, alive.noted).__notes__ == ["first note", "second note"]


def test_cause_and_context_are_kept_with_their_own_tracebacks(alive):
    error = caught(OSError, alive.caused)
    assert repr(error.__cause__) == "KeyError('inner')"
    assert traceback.extract_tb(error.__cause__.__traceback__)[-1].name == "inner"
    error = caught(TypeError, alive.in_context)
    assert repr(error.__context__) == "KeyError('inner')"
    assert error.__cause__ is None


def test_raise_from_none_stays_alone(alive):
    assert caught(TypeError, alive.suppressed).__suppress_context__


def test_a_call_inside_an_except_block_here_keeps_the_context_from_there(alive):
    try:
        raise RuntimeError("here")
    except RuntimeError:
        error = caught(OSError, alive.caused)
    assert repr(error.__cause__) == "KeyError('inner')"


def test_a_cycle_of_causes_ends(alive):
    error = caught(ValueError, alive.chatty_loop)
    assert repr(error.__cause__) == "ValueError('b')"


def test_an_exception_group_is_a_group_of_originals(alive):
    if alive.server_python < (3, 11):
        pytest.skip("the far side has no groups")
    group = caught(ExceptionGroup, alive.execblock, "raise ExceptionGroup('two', [ValueError(1), Fault('deep', 3)])")
    assert group.message == "two"
    assert [(type(error).__name__, error.args) for error in group.exceptions] == [
        ("ValueError", (1,)),
        ("Fault", ("deep",)),
    ]
    assert group.exceptions[1].code == 3


def test_a_group_with_a_keyboard_interrupt_is_not_raised_as_one(alive):
    if alive.server_python < (3, 11):
        pytest.skip("the far side has no groups")
    with pytest.raises(Exception, match="mixed") as info:
        alive.execblock("raise BaseExceptionGroup('mixed', [KeyboardInterrupt(), ValueError(1)])", origexc="quiet")
    assert isinstance(info.value, Exception)


def test_stop_iteration_stays_one(alive, capsys):
    with pytest.raises(StopIteration):
        alive.next(iter([]))
    assert capsys.readouterr().err == ""


# Tracebacks ------------------------------------------------------------------------------------------


def test_the_traceback_goes_on_into_the_far_side_with_its_source(alive):
    error = caught(OSError, alive.caused)
    text = "".join(traceback.format_exception(error))
    assert 'raise OSError(5, "outer") from exc' in text
    assert 'raise KeyError("inner")' in text
    assert f'File "{alive.peername}:(contract_exceptions block 1)", line ' in text
    assert "easycluster/far" not in text


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize("origexc", ["quiet", False])
def test_a_failing_call_lets_go_of_what_its_caller_holds_without_a_collection(alive, nonblocking, origexc):
    class Held:
        pass

    def fail():
        held = Held()
        refs.append(weakref.ref(held))
        alive.int("x", origexc=origexc, nonblocking=nonblocking).wait()

    refs = []
    gc.disable()
    try:
        with contextlib.suppress(ValueError, RemoteException):
            fail()
        assert refs[0]() is None
    finally:
        gc.enable()


# What is reported, and how ---------------------------------------------------------------------------


def test_the_far_side_traceback_is_printed_to_stderr(alive, capsys):
    with pytest.raises(ValueError, match="invalid literal"):
        alive.execblock("int('x')")
    text = capsys.readouterr().err
    assert text.startswith(f"*** Remote exception from {alive.peername}:\nTraceback (most recent call last):\n")
    assert "ValueError: invalid literal for int() with base 10: 'x'" in text


def test_quiet_prints_nothing(alive, capsys):
    caught(ValueError, alive.int, "x")
    assert capsys.readouterr() == ("", "")


def test_origexc_false_gives_a_remote_exception_with_original_and_text(alive, capsys):
    with pytest.raises(RemoteException) as info:
        alive.fault(3, origexc=False)
    assert info.value.orig.code == 3
    assert isinstance(info.value.text, list)
    assert info.value.text[0] == "Traceback (most recent call last):\n"
    assert info.value.text[-1] == "contract_exceptions.Fault: broken\n"
    assert "error = Fault" not in "".join(info.value.text)
    assert "raise error" in "".join(info.value.text)
    assert str(info.value) == "broken"
    assert capsys.readouterr().err == ""


def test_wait_may_choose_differently_from_the_call(alive, capsys):
    response = alive.int("x", nonblocking=True)
    with pytest.raises(RemoteException):
        response.wait(origexc=False)
    with pytest.raises(ValueError, match="invalid literal"):
        response.wait(origexc="quiet")
    assert capsys.readouterr().err == ""


def test_report_exception_may_be_overridden(connect, capsys):
    class Collecting(Client):
        def report_exception(self, exc):
            reports.append(exc)

    reports = []
    client = connect(Collecting)
    with pytest.raises(ValueError, match="invalid literal"):
        client.int("x")
    with pytest.raises(ValueError, match="invalid literal"):
        client.int("x", origexc="quiet")
    (report,) = reports
    assert isinstance(report, RemoteException)
    assert isinstance(report.orig, ValueError)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda far: far.no_such_name(origexc=False), "no 'no_such_name' in"),
        (lambda far: far.os.path.jion("a", origexc=False), "did you mean 'join'?"),
        (lambda far: far.len(origexc=False), "takes exactly one argument"),
        (lambda far: far.import_module("no_such_module", origexc=False), "No module named 'no_such_module'"),
        (lambda far: far.lock(origexc=False), "cannot pickle '_thread.lock' object"),
        (lambda far: far.eval("1 +", origexc=False), "invalid syntax"),
    ],
)
def test_an_error_without_users_frames_over_there_shows_none_and_names_the_host(alive, ask, message):
    with pytest.raises(RemoteException) as info:
        ask(alive)
    assert "<easycluster>" not in "".join(info.value.text)
    assert message in info.value.text[-1]
    error = info.value.orig
    assert error.__traceback__ is None
    assert error.__notes__ == [f"raised on {alive.peername}"]


# What cannot be what it was --------------------------------------------------------------------------


def test_an_attribute_that_cannot_cross_is_lost_and_the_rest_stays(alive):
    from contract_exceptions import Fault

    error = caught(Fault, alive.with_lock)
    assert (error.args, error.unit) == (("holds a lock",), 7)


def test_an_argument_that_cannot_cross_is_text(alive):
    with pytest.raises(Exception, match="locked") as info:
        alive.with_lock_argument(origexc="quiet")
    assert "ValueError" in "".join(traceback.format_exception_only(info.value))
    assert "raise ValueError" in "".join(traceback.format_exception(info.value))


@pytest.mark.fault("missing-class")
def test_a_type_that_this_side_lacks_is_a_remote_error_that_names_it(alive, outcome):
    with outcome.raises(RemoteError) as info:
        alive.unknown_type(origexc="quiet")
    error = info.value
    assert error.type_name == "contract_exceptions.unknown_type.<locals>.Local"
    assert str(error) == "contract_exceptions.unknown_type.<locals>.Local: made in a function"
    assert "made in a function" in error.traceback_text
    assert traceback.extract_tb(error.__traceback__)[-1].name == "unknown_type"
    outcome.lives(alive)


@pytest.mark.fault("exception")
def test_an_exception_that_resists_pickle_is_a_remote_error(alive, outcome):
    with outcome.raises(RemoteError, match="contract_exceptions.Hostile"):
        alive.hostile(origexc="quiet")
    outcome.lives(alive)


def test_an_exception_without_text_and_pickle_still_names_its_type(alive):
    with pytest.raises(RemoteException) as info:
        alive.hostile(origexc=False)
    assert info.value.orig.type_name == "contract_exceptions.Hostile"
    assert "Hostile" in info.value.text[-1]
    assert 'raise Hostile("x")' in "".join(info.value.text)


@pytest.mark.parametrize(
    ("block", "name"),
    [
        pytest.param("sys.exit(3)", "SystemExit", marks=pytest.mark.fault("sys-exit")),
        pytest.param("raise KeyboardInterrupt", "KeyboardInterrupt", marks=pytest.mark.fault("far-interrupt")),
        pytest.param("raise GeneratorExit('x')", "GeneratorExit", marks=pytest.mark.fault("base-exception")),
        pytest.param(
            "class Stop(BaseException): pass\nraise Stop('now')", "Stop", marks=pytest.mark.fault("base-exception")
        ),
    ],
)
def test_what_would_end_a_process_is_an_error_that_names_it(alive, block, name, outcome):
    with outcome.raises(RemoteError) as info:
        alive.execblock(block, origexc="quiet")
    error = info.value
    assert name in str(error)
    assert error.type_name.rpartition(".")[2] == name
    outcome.lives(alive)


@pytest.mark.fault("recursion")
def test_endless_recursion_is_a_recursion_error(alive, outcome):
    with outcome.raises(RecursionError) as info:
        alive.deep(0, origexc="quiet")
    assert "".join(traceback.format_exception(info.value)).count("return deep(n + 1)") < 50
    outcome.lives(alive)


@pytest.mark.fault("deep")
def test_a_result_that_is_nested_too_deeply_is_an_error(alive, outcome):
    with outcome.raises(SerializationError, match="nested too deeply"):
        alive.nested(20_000, origexc="quiet")
    outcome.lives(alive)


@pytest.mark.fault("deep")
def test_an_argument_that_is_nested_too_deeply_is_an_error(alive, outcome):
    value = []
    for _ in range(20_000):
        value = [value]
    with outcome.raises(SerializationError, match="nested too deeply"):
        alive.echo(value, origexc="quiet")
    outcome.lives(alive)


@pytest.mark.fault("result")
def test_a_result_that_cannot_be_pickled_is_an_error_that_names_it(alive, outcome):
    with outcome.raises(SerializationError, match="cannot pickle '_thread.lock' object"):
        alive.lock(origexc="quiet")
    outcome.lives(alive)


@pytest.mark.fault("argument")
def test_an_argument_that_cannot_be_pickled_is_an_error_that_says_where_it_is(alive, outcome):
    with outcome.raises(SerializationError) as info:
        alive.echo([1, {"lock": threading.Lock()}])
    assert "args[0][1]['lock']: cannot pickle '_thread.lock' object" in str(info.value)
    outcome.lives(alive)


def test_a_client_is_no_argument_and_says_so_itself(alive):
    for value in (alive, [alive.os], alive.echo(1, nonblocking=True)):
        error = caught(SerializationError, alive.echo, value)
        assert "connected> cannot be pickled: a connection belongs to its process" in str(error)


@pytest.mark.fault("unloadable")
def test_a_result_that_fails_to_load_is_an_error(alive, outcome):
    with outcome.raises(SerializationError, match="not to be loaded"):
        alive.unloadable(origexc="quiet")
    outcome.lives(alive)


@pytest.mark.fault("unloadable")
def test_an_argument_that_fails_to_load_is_an_error(alive, outcome):
    from contract_exceptions import Unloadable

    with outcome.raises(SerializationError, match="not to be loaded"):
        alive.echo(Unloadable(), origexc="quiet")
    outcome.lives(alive)


def test_setting_a_global_that_cannot_be_pickled_is_an_error(alive):
    with pytest.raises(SerializationError, match=r"cannot pickle"):
        alive.some_global.value = sys._getframe()


def test_an_exception_group_here_may_hold_what_came_from_there(alive):
    errors = [caught(ValueError, alive.int, "x"), caught(KeyError, alive.inner)]
    group = BaseExceptionGroup("both hosts", errors)
    assert "KeyError: 'inner'" in "".join(traceback.format_exception(group))


def test_an_exception_from_there_can_be_pickled_here(alive):
    error = pickle.loads(pickle.dumps(caught(RemoteError, alive.unknown_type)))
    assert (type(error), error.type_name) == (RemoteError, "contract_exceptions.unknown_type.<locals>.Local")


def test_pytest_shows_the_far_side_source(alive, request):
    with pytest.raises(ZeroDivisionError) as info:
        alive.execblock("def divide(x):\n    return 1 / x\n\ndivide(0)", origexc="quiet")
    shown = str(info.getrepr(style="long"))
    assert "    return 1 / x" in shown
    assert f"{alive.peername}:(execblock" in shown
