from __future__ import annotations

import importlib
import inspect
import itertools
import linecache
import pickle
import re
import sys
import traceback
from pathlib import Path

import pytest

import easycluster
from easycluster.definitions import blocks_since, define_common, definitions_module, find_local_module

_numbers = itertools.count()


@pytest.fixture
def name():
    """A definitions module's name that nobody else uses."""
    name = f"defs_{next(_numbers)}"
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory on sys.path with a package of the user's."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "__init__.py").write_text("WHERE = __name__\n")
    (tmp_path / "mylab" / "gpu.py").write_text("class Gpu:\n    pass\n\ndef count():\n    return 2\n\n_hidden = 1\n")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "part.py").write_text("x = 1\n")
    (tmp_path / "fast.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for module in [module for module in sys.modules if module.partition(".")[0] in ("mylab", "plain")]:
        del sys.modules[module]


def test_definitions_are_importable_here(name):
    define_common("def addvals(a, b):\n    return a + b\n", name)
    assert importlib.import_module(name).addvals(1, 2) == 3


def test_default_module_is_an_attribute_of_its_package():
    define_common("remembered = 5")
    from easycluster.remote_code import remembered

    assert remembered == 5
    assert easycluster.remote_code is sys.modules["easycluster.remote_code"]


def test_definitions_module_begins_with_the_names_of_easycluster(name):
    module = definitions_module(name)
    assert module.easycluster is easycluster
    assert module.define_common is define_common


def test_instances_of_classes_defined_there_pickle_by_reference(name):
    define_common("class Port:\n    pass\n", name)
    port = sys.modules[name].Port()
    assert type(pickle.loads(pickle.dumps(port))) is sys.modules[name].Port


def test_blocks_are_kept_in_order(name):
    define_common("a = 1", name)
    define_common("b = a + 1", name)
    define_common("c = b + 1", name)
    assert [block.source for block in blocks_since(name)] == ["a = 1", "b = a + 1", "c = b + 1"]
    assert [block.source for block in blocks_since(name, 2)] == ["c = b + 1"]
    assert [block.position for block in blocks_since(name)] == [0, 1, 2]


def test_module_that_keeps_no_source_has_nothing_to_send(name):
    definitions_module(name, keep_source=False).define("a = 1")
    assert sys.modules[name].a == 1
    assert blocks_since(name) == []


def test_code_that_is_not_local_is_sent_but_not_evaluated(name):
    define_common("import gpu_driver_of_the_far_side", name, local=False)
    assert [block.source for block in blocks_since(name)] == ["import gpu_driver_of_the_far_side"]


def test_code_that_fails_here_is_not_sent(name):
    definitions_module(name)
    with pytest.raises(ZeroDivisionError):
        define_common("x = 1\ny = 1 / 0\n", name)
    assert blocks_since(name) == []


def test_error_of_a_block_names_block_and_line(name):
    define_common("x = 1", name)
    with pytest.raises(ZeroDivisionError) as caught:
        define_common("y = 2\ny = x / 0\n", name)
    assert caught.value.__notes__ == [f"in {name} block 2, line 2: y = x / 0"]
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno, frame.line) == (f"<{name} block 2>", 2, "y = x / 0")


def test_syntax_error_of_a_block_shows_its_line(name):
    with pytest.raises(SyntaxError) as caught:
        define_common("x = 1\nreturn x\n", name)
    assert (caught.value.filename, caught.value.lineno, caught.value.text) == (f"<{name} block 1>", 2, "return x")
    assert caught.value.__notes__ == [f"in {name} block 1, line 2: return x"]
    assert caught.value.args[1][3] == "return x"


def test_block_after_one_that_failed_has_a_name_of_its_own(name):
    with pytest.raises(NameError):
        define_common("nonsense", name)
    define_common("x = 1", name)
    assert blocks_since(name)[0].filename == f"<{name} block 2>"
    assert linecache.getline(f"<{name} block 1>", 1) == "nonsense"


def test_indented_text_is_taken_as_it_is_meant(name):
    define_common(
        """
        def twice(x):
            return 2 * x
        """,
        name,
    )
    assert sys.modules[name].twice(4) == 8


def test_source_of_a_definition_can_be_read(name):
    define_common("x = 1\n\ndef f():\n    return x\n", name)
    assert inspect.getsource(sys.modules[name].f) == "def f():\n    return x\n"


def test_flags_of_easyclusters_own_modules_do_not_leak_into_definitions(name):
    define_common("def f(x: int): ...\n", name)
    assert sys.modules[name].f.__annotations__ == {"x": int}


# --- files and modules


def test_file_keeps_its_path_in_tracebacks(name, tmp_path):
    path = tmp_path / "gpu.py"
    path.write_text("# a comment\ndef fail():\n    raise ValueError('gpu')\n")
    define_common(path, name)
    with pytest.raises(ValueError, match="gpu") as caught:
        sys.modules[name].fail()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == str(path)


def test_file_is_read_in_its_own_encoding(name, tmp_path):
    path = tmp_path / "latin.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nword = 'Gerät'\n".encode("latin-1"))
    define_common(path, name)
    assert sys.modules[name].word == "Gerät"


def test_file_defined_twice_is_sent_once_unless_it_changed(name, tmp_path):
    path = tmp_path / "gpu.py"
    path.write_text("class Gpu: pass\n")
    define_common(path, name)
    first = sys.modules[name].Gpu
    define_common(path, name)
    assert sys.modules[name].Gpu is first
    path.write_text("class Gpu: x = 1\n")
    define_common(path, name)
    assert [block.source for block in blocks_since(name)] == ["class Gpu: pass\n", "class Gpu: x = 1\n"]


def test_error_in_a_file_names_file_and_line(name, tmp_path):
    path = tmp_path / "gpu.py"
    path.write_text("import os\nimport no_such_driver\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        define_common(path, name)
    assert caught.value.__notes__ == [f"in {path} (definitions of {name}), line 2: import no_such_driver"]


def test_text_from_a_file_has_the_lines_of_that_file(name, tmp_path):
    path = tmp_path / "lab.yaml"
    define_common("def fail():\n    return 1 / 0\n", name, filename=path, first_line=12)
    with pytest.raises(ZeroDivisionError) as caught:
        sys.modules[name].fail()
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno, frame.line) == (str(path), 13, "return 1 / 0")
    assert inspect.getsource(sys.modules[name].fail) == "def fail():\n    return 1 / 0\n"


def test_every_part_of_a_file_keeps_its_lines(name, tmp_path):
    path = tmp_path / "lab.yaml"
    for number, line in enumerate((20, 1, 10)):
        define_common(f"def part_{number}():\n    pass\n", name, filename=path, first_line=line)
    for number in range(3):
        source = inspect.getsource(getattr(sys.modules[name], f"part_{number}"))
        assert source == f"def part_{number}():\n    pass\n"


def test_a_part_of_a_file_defined_twice_is_sent_once_unless_it_moved_or_changed(name, tmp_path):
    for text, line in [("x = 1", 3), ("x = 1", 3), ("x = 1", 4), ("x = 2", 4)]:
        define_common(text, name, filename=tmp_path / "lab.yaml", first_line=line)
    assert [(block.source, block.first_line) for block in blocks_since(name)] == [
        ("x = 1", 3),
        ("x = 1", 4),
        ("x = 2", 4),
    ]


def test_error_in_a_part_of_a_file_names_file_and_line(name, tmp_path):
    path = tmp_path / "lab.yaml"
    with pytest.raises(SyntaxError) as caught:
        define_common("x = 1\nreturn x\n", name, filename=path, first_line=7)
    assert (caught.value.filename, caught.value.lineno, caught.value.text) == (str(path), 8, "return x")
    assert caught.value.__notes__ == [f"in {path} (definitions of {name}), line 8: return x"]


def test_only_text_may_be_said_to_be_from_a_file(name, tmp_path):
    with pytest.raises(TypeError, match=r"^filename= says where text is from, but the code is a PosixPath$"):
        define_common(tmp_path / "gpu.py", name, filename="lab.yaml")
    with pytest.raises(ValueError, match=r"^first_line counts from 1, so it cannot be 0$"):
        define_common("x = 1", name, filename="lab.yaml", first_line=0)


def test_module_is_sent_whole_under_its_own_name(name, project):
    from mylab import gpu

    define_common(gpu, name)
    [block] = blocks_since(name)
    assert (block.target, block.package, block.filename) == ("mylab.gpu", False, str(project / "mylab" / "gpu.py"))
    assert block.source == (project / "mylab" / "gpu.py").read_text()


def test_public_names_of_a_module_are_in_the_definitions_module_too(name, project):
    from mylab import gpu

    define_common(gpu, name)
    assert sys.modules[name].Gpu is gpu.Gpu
    assert not hasattr(sys.modules[name], "_hidden")


def test_script_itself_is_refused(name):
    with pytest.raises(ValueError, match=r"move the code to a file and pass its path or module$"):
        define_common(sys.modules["__main__"], name)


def test_module_without_source_is_refused(name):
    with pytest.raises(ValueError, match=r"^module 'sys' has no Python source \(built in\); only source can be sent$"):
        define_common(sys, name)


def test_text_that_is_a_file_name_is_refused(name):
    with pytest.raises(ValueError, match="looks like a file name") as caught:
        define_common("remote/gpu.py", name)
    assert str(caught.value).endswith("; pass pathlib.Path('remote/gpu.py') to define what is in it")


def test_anything_else_is_refused(name):
    with pytest.raises(TypeError, match=r"^definitions are text, a pathlib.Path or a module, not bytes$"):
        define_common(b"x = 1", name)


# --- lazy evaluation


def test_lazy_code_is_evaluated_when_a_name_is_needed(name):
    module = definitions_module(name)
    module.define("ran = True\nclass Gpu: pass\n", local="lazy")
    assert "ran" not in vars(module)
    assert module.Gpu.__module__ == name
    assert vars(module)["ran"]


def test_lazy_code_can_be_imported_from_and_unpickled(name):
    definitions_module(name).define("class Gpu: pass\n", local="lazy")
    pickled = f"c{name}\nGpu\n.".encode()
    assert pickle.loads(pickled) is sys.modules[name].Gpu


def test_lazy_code_that_fails_affects_only_who_needs_it(name):
    module = definitions_module(name)
    module.define("before = 1")
    module.define("import no_such_driver\nclass Gpu: pass\n", local="lazy")
    assert module.before == 1
    assert not hasattr(module, "__path__")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_driver"):
            _ = module.Gpu
    assert len(blocks_since(name)) == 2


def test_lazy_code_is_evaluated_before_code_that_follows_it(name):
    module = definitions_module(name)
    module.define("x = 1", local="lazy")
    module.define("y = x + 1")
    assert module.y == 2


def test_missing_name_is_an_attribute_error_after_lazy_code(name):
    module = definitions_module(name)
    module.define("x = 1", local="lazy")
    with pytest.raises(AttributeError, match=f"^module '{name}' has no attribute 'y'$"):
        _ = module.y
    assert module.x == 1


# --- names of definitions modules

REFUSED = [
    ("json", r"^'json' is a module already \(.*__init__.py\); choose another name for the definitions$"),
    ("sys", r"^'sys' is a module already \(built in\); choose another name"),
    ("os.path", r"^'os.path' is a module already"),
    ("os.getcwd", r"^'os' already has something named 'getcwd'; choose another name for the definitions$"),
    (
        "no_such_package.code",
        r"^the package 'no_such_package' of the definitions module 'no_such_package.code' cannot be ",
    ),
    ("easycluster.two words", r"^'easycluster.two words' cannot be imported by that name"),
    ("", r"^'' cannot be imported by that name"),
]


@pytest.mark.parametrize(("refused", "message"), REFUSED)
def test_name_is_refused(refused, message):
    with pytest.raises(ImportError, match=message):
        definitions_module(refused)


def test_same_name_gives_the_same_module(name):
    assert definitions_module(name) is definitions_module(name)


# --- modules that a far side may ask for


def test_module_of_the_user_is_found_without_importing_it(project):
    assert find_local_module("mylab.gpu") == (
        False,
        str(project / "mylab" / "gpu.py"),
        (project / "mylab" / "gpu.py").read_text(),
    )
    assert "mylab" not in sys.modules


def test_package_is_found(project):
    assert find_local_module("mylab") == (True, str(project / "mylab" / "__init__.py"), "WHERE = __name__\n")


def test_package_without_init_is_found(project):
    assert find_local_module("plain") == (True, str(project / "plain"), "")
    assert find_local_module("plain.part").source == "x = 1\n"


@pytest.mark.parametrize(
    "name",
    ["json", "sys", "_socket", "pytest", "_pytest.fixtures", "easycluster.keys", "__main__", "nowhere", "a-b", ""],
)
def test_module_is_not_sent(name):
    assert find_local_module(name) is None


def test_extension_module_cannot_be_sent(project):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (project / f"fast{suffix}").write_bytes(b"")
    message = f"the controller has module 'fast' as {project}/fast{suffix}; only Python source can be sent"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}"):
        find_local_module("fast")


def test_only_modules_under_given_roots_are_sent(project):
    assert find_local_module("mylab", roots=[project]) is not None
    assert find_local_module("mylab", roots=[project / "other"]) is None
    assert find_local_module("json", roots=[Path(linecache.__file__).parent]) is not None


def test_definitions_survive_that_sys_modules_is_put_back(monkeypatch):
    module = easycluster.definitions_module("easycluster.remote_code")
    monkeypatch.delitem(sys.modules, "easycluster.remote_code")
    assert easycluster.definitions_module("easycluster.remote_code") is module
    assert sys.modules["easycluster.remote_code"] is module
