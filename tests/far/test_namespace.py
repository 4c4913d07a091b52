from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import traceback

import pytest
from support.interpreters import interpreters

import easycluster.far.namespace as namespace_module
from easycluster.far.modules import Block, define_common
from easycluster.far.namespace import Namespace, exec_return, get_global, set_global
from easycluster.transport.bundle import bundle_source

_numbers = itertools.count()


@pytest.fixture
def name():
    name = f"far_defs_{next(_numbers)}"
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def ns(name):
    return Namespace([name])


def blocks(name, *sources):
    return [Block(name, i, f"<{name} block {i + 1}>", source) for i, source in enumerate(sources)]


# --- definitions


def test_blocks_are_evaluated_in_order(ns, name):
    assert ns.update(blocks(name, "a = 1", "b = a + 1")) == 2
    assert ns.get_global("b") == 2


def test_block_seen_before_is_not_evaluated_again(ns, name):
    counting = "n = globals().get('n', 0) + 1"
    ns.update(blocks(name, counting))
    assert ns.update(blocks(name, counting, "x = 1")) == 1
    assert ns.get_global("n") == 1


def test_missing_block_is_noticed(ns, name):
    message = f"^definitions of '{name}' came out of order: block 2 after 0$"
    with pytest.raises(RuntimeError, match=message):
        ns.update(blocks(name, "a = 1", "b = 2")[1:])


def test_block_that_fails_names_block_and_line_and_is_tried_again(ns, name):
    sent = blocks(name, "x = 1", "y = 1\nimport no_such_driver\n", "z = 1")
    with pytest.raises(ModuleNotFoundError, match="no_such_driver") as caught:
        ns.update(sent)
    assert caught.value.__notes__ == [f"in {name} block 2, line 2: import no_such_driver"]
    with pytest.raises(ModuleNotFoundError):
        ns.update(sent)
    sys.modules["no_such_driver"] = os
    try:
        assert ns.update(sent) == 2
    finally:
        del sys.modules["no_such_driver"]


def test_lines_of_a_block_are_in_tracebacks(ns, name):
    ns.update(blocks(name, "def fail():\n    raise ValueError('here')\n"))
    with pytest.raises(ValueError, match="here") as caught:
        ns.get_global("fail")()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "raise ValueError('here')"


def test_whole_module_gets_its_own_name_and_its_names_are_global(ns, name):
    source = "class Gpu: pass\ndef where(): return __name__, __file__\n"
    ns.update([Block(name, 0, "/near/farlab/gpu.py", source, "farlab.gpu", False)])
    try:
        assert ns.get_global("Gpu").__module__ == "farlab.gpu"
        assert ns.get_global("where")() == ("farlab.gpu", "/near/farlab/gpu.py")
        assert sys.modules["farlab"].gpu.Gpu is ns.get_global("farlab.gpu.Gpu")
    finally:
        del sys.modules["farlab"], sys.modules["farlab.gpu"]


def test_whole_module_that_fails_is_not_left_behind(ns, name):
    with pytest.raises(ZeroDivisionError) as caught:
        ns.update([Block(name, 0, "/near/broken_gpu.py", "x = 1\n1 / 0\n", "broken_gpu")])
    assert "broken_gpu" not in sys.modules
    assert caught.value.__notes__ == ["in module 'broken_gpu' (/near/broken_gpu.py), line 2: 1 / 0"]


def test_definitions_module_in_a_package_that_is_missing_gets_one():
    ns = Namespace(["farpack.inner.code"])
    try:
        ns.update(blocks("farpack.inner.code", "class Gpu: pass"))
        assert ns.get_global("farpack.inner.code.Gpu").__module__ == "farpack.inner.code"
    finally:
        for module in ("farpack", "farpack.inner", "farpack.inner.code"):
            del sys.modules[module]


# --- names


def test_later_modules_are_looked_in_after_the_first(name):
    ns = Namespace([name, name + "_role"])
    ns.update(blocks(name, "a = 'first'"))
    ns.update(blocks(name + "_role", "a = 'second'\nb = 'second'\n"))
    assert (ns.get_global("a"), ns.get_global("b")) == ("first", "second")
    del sys.modules[name + "_role"]


def test_name_of_easycluster_does_not_hide_a_definition_in_a_later_module(name):
    ns = Namespace([name, name + "_role"])
    ns.update(blocks(name + "_role", "def callback(): return 'mine'\n"))
    assert ns.get_global("callback")() == "mine"
    assert ns.get_global("define_common") is define_common
    ns.set_global("callback", 5)
    assert sys.modules[name + "_role"].callback == 5
    del sys.modules[name + "_role"]


def test_builtins_are_globals(ns):
    assert ns.get_global("len") is len
    assert ns.get_global("int.from_bytes")(b"\1", "big") == 1


def test_definition_hides_a_builtin_and_a_module(ns, name):
    ns.update(blocks(name, "def len(x): return -1\nsubprocess = 'mine'\n"))
    assert ns.get_global("len")("abc") == -1
    assert ns.get_global("subprocess") == "mine"


@pytest.mark.parametrize("dotted", ["os.path.join", "xml.dom.minidom.parseString", "concurrent.futures.Future"])
def test_modules_are_imported_on_first_use(ns, dotted):
    assert ns.get_global(dotted).__name__ == dotted.rpartition(".")[2]


def test_module_used_once_is_a_global_of_text_too(ns):
    ns.get_global("os.path.join")
    assert ns.eval("os.path.join('a', 'b')") == "a/b"


def test_rebound_global_is_seen_at_once(ns):
    ns.execblock("def f(): return 1")
    assert ns.get_global("f")() == 1
    ns.execblock("def f(): return 2")
    assert ns.get_global("f")() == 2


def test_set_global_binds_in_the_first_module(ns, name):
    ns.set_global("limit", 5)
    assert sys.modules[name].limit == 5
    assert ns.eval("limit + 1") == 6


def test_set_global_rebinds_where_the_name_lives(name):
    ns = Namespace([name, name + "_role"])
    ns.update(blocks(name + "_role", "limit = 1\ndef get(): return limit\n"))
    ns.set_global("limit", 7)
    assert ns.get_global("get")() == 7
    del sys.modules[name + "_role"]


def test_set_global_follows_dots(ns, name):
    ns.update(blocks(name, "class Config: speed = 1\n"))
    ns.set_global("Config.speed", 9)
    assert ns.eval("Config.speed") == 9


MISSING = [
    ("addvalls", "no 'addvalls' in {name}, builtins, and no module of that name; did you mean 'addvals'?"),
    ("zzqx.y", "no 'zzqx' in {name}, builtins, and no module of that name"),
    ("os.pth", "module 'os' has no attribute 'pth'; did you mean 'path'?"),
    ("xml.zzqx", "module 'xml' has no attribute 'zzqx'"),
    ("addvals.x", "'function' object has no attribute 'x'"),
    ("two words", "no 'two words' in {name}, builtins, and no module of that name"),
    ("", "no '' in {name}, builtins, and no module of that name"),
]


@pytest.mark.parametrize(("wanted", "message"), MISSING)
def test_missing_name_says_what_is_near(ns, name, wanted, message):
    ns.update(blocks(name, "def addvals(a, b): return a + b"))
    with pytest.raises(AttributeError) as caught:
        ns.get_global(wanted)
    assert str(caught.value) == message.format(name=name)


def test_module_that_cannot_be_imported_says_why(ns, tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_driver\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_driver"):
        ns.get_global("half_installed.start")


def test_import_modules_binds_the_first_name(ns):
    ns.import_modules(["xml.dom", "json"])
    assert ns.eval("xml.dom.__name__, json.loads('1')") == ("xml.dom", 1)


def test_import_of_a_missing_module_says_so(ns):
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_driver'$"):
        ns.import_module("no_such_driver")


# --- text


@pytest.mark.parametrize(("expr", "value"), [("1 + 1", 2), ("  1 + 1", 2), ("(1 +\n 1)", 2), ("\n 2\n", 2)])
def test_eval_gives_the_value(ns, expr, value):
    assert ns.eval(expr) == value


def test_execblock_gives_none_without_exec_return(ns):
    assert ns.execblock("x = 5") is None
    assert ns.eval("x") == 5


EXEC_RETURN = [
    "exec_return(5)",
    "def f():\n    exec_return(5)\nf()\nraise AssertionError",
    "try:\n    exec_return(5)\nexcept Exception:\n    raise AssertionError",
    "try:\n    exec_return(5)\nfinally:\n    y = 1",
    "for i in range(10):\n    if i == 5:\n        exec_return(i)",
    "\n    if True:\n        exec_return(5)\n",
    "list(exec_return(x) for x in [5])",
]


@pytest.mark.parametrize("code", EXEC_RETURN)
def test_exec_return_ends_the_block_with_a_value(ns, code):
    assert ns.execblock(code) == 5


def test_exec_return_ends_the_inner_block_only(ns, name):
    ns.set_global("inner", lambda: ns.execblock("exec_return(1)"))
    assert ns.execblock("exec_return(inner() + 1)") == 2


def test_exec_return_outside_a_block_is_an_error(ns):
    message = r"^exec_return\(\) works only in code that execblock\(\) runs, in the thread that runs it$"
    with pytest.raises(RuntimeError, match=message):
        exec_return(5)
    ns.execblock("x = 1")
    with pytest.raises(RuntimeError, match=message):
        exec_return(5)


def test_exec_return_in_another_thread_is_an_error(ns):
    caught = []

    def attempt():
        try:
            exec_return(1)
        except RuntimeError as exc:
            caught.append(exc)

    ns.set_global("attempt", attempt)
    ns.execblock("import threading\nt = threading.Thread(target=attempt)\nt.start()\nt.join()")
    assert len(caught) == 1


SYNTAX = [
    ("eval", "1 +", 1, "1 +"),
    ("eval", "x = 1", 1, "x = 1"),
    ("execblock", "x = 1\nif x\n    y = 2\n", 2, "if x"),
    ("execblock", "x = 1\nreturn x", 2, "return x"),
    ("execblock", "x = 1\ndef f():\n  nonlocal y\n", 3, "  nonlocal y"),
    ("execblock", "def f(a):\n  global a\n", 2, "  global a"),
]


@pytest.mark.parametrize(("how", "text", "line", "shown"), SYNTAX)
def test_syntax_error_shows_the_text(ns, how, text, line, shown):
    with pytest.raises(SyntaxError) as caught:
        getattr(ns, how)(text)
    assert caught.value.filename == f"<{how} 1>"
    assert (caught.value.lineno, caught.value.text.rstrip("\n")) == (line, shown)
    assert caught.value.args[1][3].rstrip("\n") == shown


UNDEFINED = [
    ("addvalls(1, 2)", "name 'addvalls' is not defined; did you mean 'addvals'?"),
    ("lenn('x')", "name 'lenn' is not defined; did you mean 'len'?"),
    ("json.loads('1')", "name 'json' is not defined; import it first, there or with import_module('json')"),
    ("zzqx", "name 'zzqx' is not defined"),
    ("role_thing", "name 'role_thing' is not defined; it is defined in '{name}_role', not in '{name}'"),
    ("calls_undefined()", "name 'lenn' is not defined"),
]


@pytest.mark.parametrize(("expr", "message"), UNDEFINED)
def test_undefined_name_says_what_may_be_meant(name, expr, message):
    ns = Namespace([name, name + "_role"])
    ns.update(blocks(name, "def addvals(a, b): return a + b\ndef calls_undefined(): return lenn('x')\n"))
    ns.update(blocks(name + "_role", "role_thing = 1"))
    with pytest.raises(NameError) as caught:
        ns.eval(expr)
    assert str(caught.value) == message.format(name=name)
    del sys.modules[name + "_role"]


def test_lines_of_a_text_are_in_tracebacks(ns):
    with pytest.raises(ZeroDivisionError) as caught:
        ns.execblock("def f():\n    return 1 / 0\nf()")
    frames = traceback.extract_tb(caught.value.__traceback__)[-2:]
    assert [(f.filename, f.lineno, f.line) for f in frames] == [
        ("<execblock 1>", 3, "f()"),
        ("<execblock 1>", 2, "return 1 / 0"),
    ]


def test_source_of_a_function_made_by_a_text_can_be_read(ns):
    ns.execblock("def f():\n    return 1\n")
    assert inspect.getsource(ns.get_global("f")) == "def f():\n    return 1\n"


def test_same_text_is_compiled_once(ns):
    ns.execblock("def f(): pass")
    first = ns.get_global("f").__code__
    ns.execblock("def f(): pass")
    assert ns.get_global("f").__code__ is first


def test_old_texts_are_let_go(ns, monkeypatch):
    monkeypatch.setattr(namespace_module, "MAX_TEXTS", 3)
    for number in range(10):
        ns.eval(f"{number} + 0")
    assert [text for _, text in ns._texts] == ["7 + 0", "8 + 0", "9 + 0"]


def test_large_texts_do_not_pile_up(ns, monkeypatch):
    monkeypatch.setattr(namespace_module, "MAX_TEXT_SIZE", 120)
    for number in range(5):
        ns.eval(f"{number} + len('{'x' * 40}')")
    assert len(ns._texts) == 2
    assert ns._text_size <= 120


def test_threads_share_a_namespace(ns):
    results = []
    threads = [threading.Thread(target=lambda n=n: results.append(ns.eval(f"{n} * 2"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * 2 for n in range(8)]


# --- get_global and set_global for user code


def test_get_global_without_context_looks_in_builtins_and_modules():
    assert get_global("len") is len
    assert get_global("os.path.join", auto_import=True) is os.path.join
    with pytest.raises(AttributeError):
        get_global("os.path.join")


def test_set_global_without_dots_needs_a_context(ns):
    with pytest.raises(TypeError, match=r"^set_global\('x'\) needs context=, the module to bind it in$"):
        set_global("x", 1)
    set_global("x", 1, ns.module)
    assert ns.eval("x") == 1


# --- on every interpreter that can be a far side

SCRIPT = '''
import pickle, sys, traceback
source, _, DATA = sys.stdin.buffer.read().partition(b"\\0")
exec(source, {"DATA": DATA})
from easycluster.far.modules import Block
from easycluster.far.namespace import Namespace

MAIN = "easycluster.remote_code"
ns = Namespace()
ns.update([
    Block(MAIN, 0, "<block 1>", "class Port(ServerObject):\\n    pass\\nclass Plain:\\n    pass\\n"),
    Block(MAIN, 1, "/near/gpu.py", "import os\\ndef fail():\\n    raise ValueError(1)\\n", "gpu_code"),
    Block("role", 0, "<role block 1>", "def count():\\n    return 2\\n"),
])
assert pickle.loads(pickle.dumps(ns.get_global("Plain")())).__class__ is sys.modules[MAIN].Plain
assert ns.get_global("Port").__module__ == MAIN
assert ns.get_global("count")() == 2
assert ns.get_global("os.path.join")("a", "b") == "a/b"
assert ns.get_global("xml.etree.ElementTree.fromstring")("<a/>").tag == "a"
assert ns.get_global("gpu_code.fail") is ns.get_global("fail")
assert ns.execblock("""
    def f():
        try:
            exec_return(5)
        except Exception:
            return 6
    f()
""") == 5
try:
    ns.get_global("fail")()
except ValueError:
    assert "    raise ValueError(1)" in traceback.format_exc(), traceback.format_exc()
for text, shown in (("1 +", "1 +"), ("[i for i in (yield)]", None), ("lenn(1)", None)):
    try:
        ns.eval(text)
    except SyntaxError as exc:
        assert shown is None or exc.text.rstrip() == shown
    except NameError as exc:
        assert str(exc) == "name 'lenn' is not defined; did you mean 'len'?"
        assert traceback.format_exc().count("did you mean") == 1
        assert traceback.format_exc().count("Did you mean") == 0
try:
    ns.execblock("x = 1\\nreturn x")
except SyntaxError as exc:
    assert exc.text == "return x" and exc.args[1][3] == "return x", exc.args
try:
    ns.update([Block(MAIN, 2, "<block 3>", "x = 1\\nimport no_such_driver\\n")])
except ImportError as exc:
    assert exc.__notes__ == ["in block 3, line 2: import no_such_driver"], exc.__notes__
from easycluster.far.importer import ControllerFinder
near = {
    "ctl": (True, "/near/ctl/__init__.py", ""),
    "ctl.gpu": (False, "/near/ctl/gpu.py", "from . import __name__ as up\\n"),
}
ControllerFinder(near.get).install()
assert ns.get_global("ctl.gpu.up") == "ctl"
print("ok")
'''


@pytest.mark.parametrize("version", interpreters())
def test_far_side_of_any_version(version):
    done = subprocess.run(
        [interpreters()[version], "-I", "-S", "-c", textwrap.dedent(SCRIPT)],
        input=bundle_source(),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout.decode(), done.stderr.decode()) == ("ok\n", "")
