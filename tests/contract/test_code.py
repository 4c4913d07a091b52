"""Code that crosses: modules of the controller that the far side imports, functions and classes by value."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap

import pytest

from easycluster import Client, SerializationError, define_common

DEFINITIONS = "contract_code"

define_common(
    """
    import sys

    def apply(function, *args, **kwargs):
        return function(*args, **kwargs)

    def keep(value):
        global kept
        kept = value

    def give_back():
        return kept

    def import_in_a_thread(name):
        import importlib
        import threading
        caught = []
        def run():
            try:
                importlib.import_module(name)
            except ImportError as exc:
                caught.append(str(exc))
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(10)
        return caught

    def hide_cloudpickle():
        sys.path[:] = [path for path in sys.path if "site-packages" not in path]
        sys.modules.pop("cloudpickle", None)
    """,
    DEFINITIONS,
)


class Curious(Client):
    """A client that notes which modules it is asked for."""

    def __init__(self, *args, **options):
        self.asked = []
        super().__init__(*args, **options)

    def _fetch_module(self, name):
        self.asked.append(name)
        return super()._fetch_module(name)


# Modules ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write modules to a folder of the import path: ``files({"name.py": text})``."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(texts):
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_beside_the_test_is_imported_on_the_far_side(connect, files):
    files({"ec_gauge.py": "def read():\n    return 42\n"})
    client = connect()
    client.import_module("ec_gauge")
    assert client.ec_gauge.read() == 42
    assert client.eval("ec_gauge.__file__").endswith("ec_gauge.py")


def test_a_module_that_a_module_needs_comes_too(connect, files):
    files(
        {
            "ec_meter.py": "import ec_units\ndef read():\n    return ec_units.volts(3)\n",
            "ec_units.py": "def volts(n): return f'{n} V'\n",
        }
    )
    assert connect().ec_meter.read() == "3 V"


def test_a_package_comes_with_relative_imports_and_subpackages(connect, files):
    files(
        {
            "ec_bench/__init__.py": "from .power import on\n",
            "ec_bench/power.py": (
                "from . import relays\nfrom .deep.inner import name\ndef on():\n    return relays.close(), name\n"
            ),
            "ec_bench/relays.py": "def close(): return 'closed'\n",
            "ec_bench/deep/__init__.py": "",
            "ec_bench/deep/inner.py": "from .. import relays\nname = __name__\n",
        }
    )
    client = connect()
    assert client.ec_bench.on() == ("closed", "ec_bench.deep.inner")
    assert client.eval("__import__('ec_bench.deep.inner').__path__") == []


def test_a_definition_may_import_a_module_of_the_controller_when_it_runs(connect, files):
    files({"ec_late.py": "value = 7\n"})
    client = connect()
    assert client.execblock("import ec_late\nexec_return(ec_late.value)") == 7


def test_a_class_of_such_a_module_is_the_same_on_both_sides(connect, files):
    files({"ec_shape.py": "class Point:\n    def __init__(self, x):\n        self.x = x\n"})
    import ec_shape

    client = connect()
    point = client.ec_shape.Point(3)
    assert type(point) is ec_shape.Point
    assert client.apply(lambda p: p.x + 1, point) == 4


def test_an_instance_brings_its_module(connect, files):
    files({"ec_form.py": "class Form:\n    size = 4\n    def area(self):\n        return self.size ** 2\n"})
    import ec_form

    client = connect()
    client.keep(ec_form.Form())
    assert client.kept.area() == 16


def test_a_function_of_such_a_module_is_called_over_there(connect, files):
    files({"ec_where.py": "import os\ndef pid():\n    return os.getpid()\n"})
    import ec_where

    client = connect()
    assert client.apply(ec_where.pid) == client.os.getpid() != ec_where.pid()


def test_a_traceback_shows_the_lines_of_such_a_module(connect, files, capsys):
    folder = files({"ec_faulty.py": "def fail():\n    raise ValueError('here')  # the line\n"})
    with pytest.raises(ValueError, match="here"):
        connect().ec_faulty.fail()
    shown = capsys.readouterr().err
    assert f'File "{folder}/ec_faulty.py", line 2, in fail' in shown
    assert "# the line" in shown


def test_a_module_with_an_error_shows_it(connect, files):
    files({"ec_broken.py": "import sys\nraise RuntimeError('half way')\n"})
    with pytest.raises(RuntimeError, match="half way"):
        connect().import_module("ec_broken", origexc="quiet")


def test_a_module_that_nobody_has_is_an_import_error(connect):
    client = connect(Curious)
    with pytest.raises(ModuleNotFoundError, match="No module named 'ec_nowhere'"):
        client.import_module("ec_nowhere", origexc="quiet")
    assert client.asked == ["ec_nowhere"]


def test_the_controller_is_asked_once_for_what_it_does_not_have(connect):
    client = connect(Curious)
    for _ in range(3):
        client.execblock("try:\n    import ec_optional\nexcept ImportError:\n    pass")
    assert client.asked == ["ec_optional"]


def test_the_controller_is_not_asked_for_the_standard_library(connect):
    client = connect(Curious)
    client.import_modules(["json", "xml.dom.minidom", "asyncio", "sqlite3", "concurrent.futures", "email.mime.text"])
    with pytest.raises(ImportError):
        client.import_module("winreg", origexc="quiet")
    assert client.asked == []


def test_installed_modules_of_the_controller_are_not_sent(connect):
    client = connect(Curious)
    client.hide_cloudpickle()
    with pytest.raises(ModuleNotFoundError, match="No module named 'pytest'"):
        client.import_module("pytest", origexc="quiet")
    assert client.asked == ["pytest"]


def test_a_module_is_not_fetched_by_a_far_side_thread_that_nobody_waits_for(connect, files):
    files({"ec_thread.py": "value = 1\n"})
    client = connect()
    (message,) = client.import_in_a_thread("ec_thread")
    assert "No module named 'ec_thread'" in message
    client.import_module("ec_thread")
    assert client.eval("ec_thread.value") == 1


# Functions and classes by value ----------------------------------------------------------------------


def module_level(number):
    return number + OFFSET


OFFSET = 100


def test_a_lambda_runs_on_the_far_side(client):
    assert client.apply(lambda: __import__("os").getpid()) == client.os.getpid()


def test_a_closure_brings_what_it_holds(client):
    base = {"value": 10}

    def add(number):
        return base["value"] + number

    assert client.apply(add, 5) == 15


def test_a_nested_function_may_call_itself(client):
    def factorial(number):
        return 1 if number < 2 else number * factorial(number - 1)

    assert client.apply(factorial, 20) == 2432902008176640000


def test_defaults_decorators_and_partial_functions_cross(client):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return "decorated", function(*args, **kwargs)

        return wrapper

    @decorate
    def add(a, b=2, *, c=3):
        return a + b + c

    assert client.apply(functools.partial(add, 10), c=5) == ("decorated", 17)


def test_a_generator_function_runs_over_there(client):
    def numbers(stop):
        yield from range(stop)

    assert list(client.apply(numbers, 5)) == [0, 1, 2, 3, 4]


def test_a_function_brings_its_globals_and_modules(client):
    namespace = {"__name__": "__main__"}
    exec("import math\nfactor = 2\ndef area(r):\n    return factor * math.floor(math.pi * r)", namespace)
    assert client.apply(namespace["area"], 2) == 12


def test_a_function_in_a_container_crosses(client):
    def twice(number):
        return 2 * number

    client.keep({"steps": [twice, lambda number: number + 1]})
    assert client.eval("kept['steps'][1](kept['steps'][0](5))") == 11


def test_a_local_class_and_its_instances_cross(client):
    class Box:
        def __init__(self, content):
            self.content = content

        def open(self):
            return self.content

    client.keep(Box)
    assert client.execblock("exec_return(kept('gift').open())") == "gift"
    assert client.apply(lambda box: box.open(), Box(5)) == 5
    assert type(client.apply(lambda box: box, Box(6))) is Box


def test_an_exception_of_a_function_by_value_shows_its_line(client, capsys):
    def fail():
        raise ValueError("by value")  # this line

    with pytest.raises(ValueError, match="by value"):
        client.apply(fail)
    assert ", in fail" in capsys.readouterr().err


def test_a_function_made_on_the_far_side_comes_here(client):
    double = client.eval("lambda number: 2 * number")
    assert double(21) == 42


def test_cloudpickle_comes_from_this_side_only_once_it_is_needed(connect):
    client = connect(Curious)
    client.hide_cloudpickle()
    client.keep([1, {"plain": "values"}])
    assert client.eval("'cloudpickle' in sys.modules") is False
    assert client.asked == []
    assert client.apply(lambda: 1) == 1
    assert client.apply(lambda: 2) == 2
    assert client.asked.count("cloudpickle") == 1
    assert all(name.startswith("cloudpickle") for name in client.asked)


def test_what_a_function_holds_must_be_able_to_cross(client):
    import threading

    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        client.apply(lambda: lock)
    assert client.eval("1 + 1") == 2


def test_functions_of_a_script_cross_by_value(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os

            from easycluster import callback, define_common
            from easycluster.server import spawn_local

            define_common("def apply(function, *args): return function(*args)")
            STEP = 5

            class Pair:
                def __init__(self, a, b):
                    self.a, self.b = a, b

            def step(number):
                return number + STEP, os.getpid()

            def swap(pair):
                return Pair(pair.b, pair.a)

            if __name__ == "__main__":
                with spawn_local() as host:
                    number, pid = host.apply(step, 1)
                    pair = host.apply(swap, Pair("left", "right"))
                    name = host.apply(callback(lambda: __name__))
                    print(number, pid != os.getpid(), type(pair) is Pair, pair.a, name)
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("6 True True right __main__\n", "")
