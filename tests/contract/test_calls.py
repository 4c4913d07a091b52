"""Calls by name and by path, text that is run over there, globals, modules and the root object."""

from __future__ import annotations

import os

import pytest

from easycluster import define_common, definitions_module

DEFINITIONS = ["contract_calls", "contract_calls_too"]

define_common(
    """
    import os
    import sys
    from types import SimpleNamespace

    limit = 10
    level = 1
    settings = SimpleNamespace(depth=3)

    def add(a, b=0):
        return a + b

    def both(*args, **kwargs):
        return args, kwargs

    def name(name, func=None, args=()):
        return name, func, args

    class Tools:
        names = ["step"]
        step = 2

        @staticmethod
        def double(x):
            return 2 * x

        class Inner:
            @classmethod
            def who(cls):
                return cls.__qualname__

    def give_up():
        exec_return("given up")
    """,
    DEFINITIONS[0],
)
define_common("def second(): return 'second'\ndef add(a, b): return 'hidden'", DEFINITIONS[1])


# Calls by name ---------------------------------------------------------------------------------------


def test_a_definition_is_called_by_name(client):
    assert client.add(2, 3) == 5


def test_arguments_and_keywords_arrive_as_they_were_given(client):
    assert client.both(1, "two", None, x=[3], y={"z": (4,)}) == ((1, "two", None), {"x": [3], "y": {"z": (4,)}})


def test_call_takes_the_name_as_text(client):
    assert client.call("add", 2, b=3) == 5


def test_parameters_may_have_the_names_of_ours(client):
    assert client.call("name", name="n", func="f", args=(1,)) == ("n", "f", (1,))


def test_raw_call_passes_keywords_on_that_a_call_takes_out(client):
    words = {"nonblocking": 1, "oncomplete": 2, "onerror": 3, "threadid": 4, "origexc": 5, "timeout": 6}
    assert client.raw_call("both", (), words) == ((), words)


def test_a_call_passes_timeout_on(client):
    assert client.both(timeout=5) == ((), {"timeout": 5})


def test_a_dotted_name_goes_through_classes(client):
    assert client.Tools.double(4) == 8
    assert client.Tools.Inner.who() == "Tools.Inner"


def test_a_dotted_name_goes_through_modules_that_nobody_imported(client):
    assert client.os.path.join("a", "b") == "a/b"
    assert client.xml.sax.saxutils.escape("<") == "&lt;"


def test_builtins_are_called_by_name(client):
    assert client.sorted([3, 1, 2], reverse=True) == [3, 2, 1]


def test_the_definitions_modules_are_searched_in_order(client):
    assert client.second() == "second"
    assert client.add(1, 1) == 2


def test_a_missing_name_is_an_attribute_error_that_suggests_one(client):
    with pytest.raises(AttributeError, match=r"no 'ad' in contract_calls, .*; did you mean 'add'\?"):
        client.ad(1, origexc="quiet")


def test_a_missing_attribute_of_a_module_is_an_attribute_error(client):
    with pytest.raises(AttributeError, match=r"module 'os' has no attribute 'getpidd'; did you mean 'getpid'\?"):
        client.os.getpidd(origexc="quiet")


def test_calls_run_in_another_process(client):
    assert client.os.getpid() != os.getpid()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**200,
        -1.5,
        1 + 2j,
        "text \0 \u20ac \U0001f600 \udc80",
        b"\0\xff",
        bytearray(b"\0\xff"),
        (),
        [[], {}],
        {1: {2}, "k": frozenset([3])},
        ...,
        slice(1, 2, 3),
        range(5),
        bytes(300_000),
        "x" * 300_000,
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}"[:30].encode("ascii", "backslashreplace").decode(),
)
def test_a_value_comes_back_equal_and_of_its_type(client, value):
    back = client.both(value)[0][0]
    assert (type(back), back) == (type(value), value)


def test_values_of_several_mib_cross_both_ways(client):
    data = os.urandom(3 << 20)
    assert client.both([data, bytearray(data)])[0][0] == [data, bytearray(data)]


def test_one_object_in_two_arguments_is_one_object_over_there(client):
    shared = [1]
    assert client.operator.is_(shared, shared)


# Text ------------------------------------------------------------------------------------------------


def test_eval_gives_the_value_of_an_expression_among_the_definitions(client):
    assert client.eval("add(limit, 5)") == 15


def test_execblock_gives_none(client):
    assert client.execblock("x = add(1, 2)") is None


def test_execblock_gives_what_was_passed_to_exec_return(client):
    block = """
        total = 0
        for i in range(10):
            total = add(total, i)
            if i == 4:
                exec_return(total)
    """
    assert client.execblock(block) == 10


def test_exec_return_works_inside_functions_and_without_a_value(client):
    assert client.execblock("give_up()") == "given up"
    assert client.execblock("exec_return()") is None


def test_exec_return_outside_of_a_block_is_an_error(client):
    with pytest.raises(RuntimeError, match=r"exec_return\(\) works only in code that execblock\(\) runs"):
        client.give_up(origexc="quiet")


def test_what_a_block_defines_is_called_by_name_afterwards(client):
    client.execblock("def defined_late(): return 'late'")
    assert client.defined_late() == "late"


def test_a_syntax_error_shows_the_line_of_the_text(client):
    with pytest.raises(SyntaxError) as caught:
        client.execblock("x = 1\ny = (\n", origexc="quiet")
    assert (caught.value.lineno, caught.value.text.strip()) == (2, "y = (")


# Modules ---------------------------------------------------------------------------------------------


def test_import_module_binds_the_name_for_text(client):
    with pytest.raises(NameError, match=r"import it first, there or with import_module\('fractions'\)"):
        client.eval("fractions.Fraction(1, 2)", origexc="quiet")
    client.import_module("fractions")
    assert str(client.eval("fractions.Fraction(1, 2)")) == "1/2"


def test_import_modules_imports_several(client):
    client.import_modules(["colorsys", "email.utils"])
    assert client.eval("(colorsys.__name__, email.utils.__name__)") == ("colorsys", "email.utils")


def test_a_module_that_is_missing_is_a_module_not_found_error(client):
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'") as caught:
        client.import_module("no_such_module", origexc="quiet")
    assert caught.value.name == "no_such_module"


# Globals ---------------------------------------------------------------------------------------------


def test_value_gets_a_global(client):
    assert client.os.sep.value == os.sep
    assert client.Tools.names.value == ["step"]


def test_value_sets_a_global(client):
    client.level.value = 20
    assert client.eval("level") == 20
    client.brand_new.value = [1]
    assert client.brand_new.value == [1]


def test_value_sets_an_attribute_of_a_global(client):
    client.settings.depth.value = 4
    client.Tools.step.value = 3
    assert client.eval("(settings.depth, Tools.step)") == (4, 3)


def test_value_of_a_missing_global_is_an_attribute_error_so_that_hasattr_works(client, capsys):
    assert not hasattr(client.no_such_name, "value")
    assert hasattr(client.limit, "value")
    assert getattr(client.os.no_such_name, "value", "default") == "default"
    assert capsys.readouterr().err == ""


def test_other_attributes_of_a_far_side_name_are_not_set(client):
    with pytest.raises(AttributeError, match=r"set settings\.depth\.value = \.\.\. to change"):
        client.settings.depth = 5


def test_each_connection_has_globals_of_its_own_and_reconnect_makes_them_anew(client, connect):
    other = connect()
    other.limit.value = 99
    assert client.limit.value == 10
    other.reconnect()
    assert other.limit.value == 10


# The root object -------------------------------------------------------------------------------------


def test_the_root_object_has_the_operations_as_methods(client):
    root = client.get_root()
    assert root.call("add", (2, 3)) == 5
    assert root.eval("1 + 1") == 2
    assert root.eval("exec_return(4)", mode="exec") == 4
    root.set_global("through_root", 7)
    assert root.get_global("through_root") == 7
    root.import_modules(["keyword"])
    assert client.eval("keyword.kwlist[0]") == "False"


def test_send_request_with_oid_0_is_a_call_of_the_root_object(client):
    assert client.send_request(0, "call", ("add", (1, 2))) == 3


# What the client itself is ---------------------------------------------------------------------------


def test_a_client_says_where_it_is_connected(client):
    assert client.connected
    assert client.peername in repr(client)
    assert client.server_python == client.eval("tuple(sys.version_info[:3])")


def test_special_names_are_never_far_side_globals(client):
    assert not hasattr(client, "__fspath__")
    assert not hasattr(client.os, "__len__")


def test_definitions_are_importable_here(client):
    from contract_calls import add

    assert add(1, 2) == client.add(1, 2)
    assert definitions_module("contract_calls").add is add
