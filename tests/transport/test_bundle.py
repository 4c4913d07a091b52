from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.interpreters import interpreters

import easycluster.errors
from easycluster.far import hints
from easycluster.transport.bundle import LATER, bundle_source, shipped_modules
from easycluster.transport.carriers import LOAD

ROOT = Path(easycluster.errors.__file__).parent
SHIPPED = shipped_modules()


def run_far(code, python=sys.executable, path=(), with_code=False, compress=True):
    """Run ``code`` on a bare Python where the bundle has been run; return what it printed."""
    text = textwrap.dedent(code)
    # BUNDLE is source that finds its data wherever it is run, as often as one likes.
    program = (
        f"import sys; sys.path[:0] = {list(map(str, path))!r}; "
        "source, _, _data = sys.stdin.buffer.read().partition(b'\\0')\n"
        f"BUNDLE = 'import __main__; DATA = __main__._data\\n' + source.decode('ascii')\n{text}"
    )
    done = subprocess.run(
        [python, "-I", "-S", "-c", program],
        input=bundle_source(with_code, compress),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


@pytest.fixture
def installed_copy(tmp_path):
    package = tmp_path / "easycluster"
    package.mkdir()
    (package / "__init__.py").write_text("INSTALLED = True\n")
    (package / "old.py").write_text("")
    return tmp_path


def test_bundle_begins_with_ascii_source_and_is_the_same_each_time():
    source, zero, data = bundle_source(with_code=True, then="print('here')\n").partition(b"\0")
    assert (source.isascii(), zero, bool(data)) == (True, b"\0", True)
    assert source.endswith(b"install()\nprint('here')\n")
    assert bundle_source() is bundle_source()


def test_every_file_of_a_shipped_package_is_in_the_bundle():
    names = {"easycluster", "easycluster.errors", "easycluster.stream", "easycluster.version"}
    for package in ("far", "link", "objects", "wire"):
        names.add(f"easycluster.{package}")
        names |= {f"easycluster.{package}.{path.stem}" for path in (ROOT / package).glob("[!_]*.py")}
    assert names - {"easycluster.far.face"} == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_module_is_written_for_python_3_8(name):
    _, filename, source = SHIPPED[name]
    ast.parse(source, filename, feature_version=(3, 8))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_module_needs_only_the_standard_library_and_shipped_modules(name):
    needed = set()
    for node in ast.parse(SHIPPED[name][2]).body:
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "shipped modules import each other by absolute names"
            needed.add(node.module)
    ours = {module for module in needed if module.partition(".")[0] == "easycluster"}
    assert ours <= set(SHIPPED)
    assert {module.partition(".")[0] for module in needed - ours} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", interpreters())
def test_every_shipped_module_imports(version):
    lines = run_far(
        """
        exec(BUNDLE, globals())
        import importlib
        for name in TABLE:
            importlib.import_module(name)
            print(name)
        from easycluster import *
        print(ServerObject.__module__, RemoteProxy.__module__)
        """,
        python=interpreters()[version],
    )
    assert sorted(lines[:-1]) == sorted(SHIPPED)
    assert lines[-1] == "easycluster.objects.exports easycluster.objects.proxies"


def test_installed_copy_is_hidden(installed_copy):
    assert run_far(
        """
        exec(BUNDLE, {})
        import easycluster
        print(hasattr(easycluster, "INSTALLED"), easycluster.__file__)
        """,
        path=[installed_copy],
    ) == ["False <easycluster>/far/face.py"]


def test_installed_copy_is_hidden_even_if_it_was_imported_before(installed_copy):
    assert run_far(
        """
        import easycluster.old
        exec(BUNDLE, {})
        import easycluster
        print(hasattr(easycluster, "INSTALLED"), "easycluster.old" in sys.modules)
        """,
        path=[installed_copy],
    ) == ["False False"]


def test_submodule_of_an_installed_copy_is_not_found(installed_copy):
    assert run_far(
        """
        exec(BUNDLE, {})
        try:
            import easycluster.old
        except ModuleNotFoundError as exc:
            print(exc)
        """,
        path=[installed_copy],
    ) == ["No module named 'easycluster.old'"]


def test_running_it_twice_keeps_what_is_imported():
    assert run_far(
        """
        exec(BUNDLE, {})
        import easycluster
        exec(BUNDLE, {})
        print(sys.modules["easycluster"] is easycluster, len([f for f in sys.meta_path if hasattr(f, "digest")]))
        """
    ) == ["True 1"]


@pytest.mark.parametrize("with_code", [False, True])
@pytest.mark.parametrize("version", interpreters())
def test_tracebacks_and_inspect_show_shipped_source(version, with_code):
    lines = run_far(
        """
        exec(BUNDLE, {})
        import inspect, traceback
        from easycluster.far import modules
        print(inspect.getsource(modules.Block).splitlines()[0])
        try:
            modules.definitions("no.such.place")
        except ImportError as exc:
            print(*traceback.format_exc().splitlines(), sep="\\n")
        """,
        python=interpreters()[version],
        with_code=with_code,
    )
    assert lines[0] == "class Block(NamedTuple):"
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "<easycluster>/far/modules.py", line ')]
    assert "importlib.import_module(parent)" in lines[frames[0] + 1]


def test_only_what_is_imported_is_compiled():
    lines = run_far("exec(BUNDLE, {}); import easycluster; print(*sorted(m for m in sys.modules if 'easycl' in m))")
    assert lines == ["easycluster easycluster.far easycluster.far.hints easycluster.version"]


def test_a_process_that_runs_no_user_code_loads_no_proxies():
    lines = run_far("exec(BUNDLE, {}); import easycluster.errors; print('easycluster.objects' in sys.modules)")
    assert lines == ["False"]


CODE_IS_USED = """
    exec(BUNDLE, {})
    first, later = (codes.places for codes in sys.meta_path[0].codes)
    print(len(first) + len(later) == len(sys.meta_path[0].table))
    import easycluster.far.sources, easycluster.far.waiters
    print("easycluster.far.sources" in first, "easycluster.far.waiters" in later)
    print(easycluster.far.sources.compile_source.__code__.co_filename)
    """


@pytest.mark.parametrize("compress", [False, True])
def test_code_for_our_own_version_is_used_once(compress):
    lines = run_far(CODE_IS_USED, with_code=True, compress=compress)
    assert lines == ["True", "False False", "<easycluster>/far/sources.py"]


@pytest.mark.parametrize("version", [v for v, path in interpreters().items() if path != sys.executable])
def test_code_for_another_version_is_passed_over(version):
    lines = run_far(CODE_IS_USED, python=interpreters()[version], with_code=True)
    assert lines == ["False", "False False", "<easycluster>/far/sources.py"]


@pytest.mark.parametrize("with_code", [False, True])
@pytest.mark.parametrize("version", interpreters())
def test_a_start_needs_no_typing_and_nothing_of_what_comes_later(version, with_code):
    program = f"""
    exec(BUNDLE, {{}})
    before = set(sys.modules)
    exec({LOAD!r}, {{"settle": int}})
    print(*sorted(({{"typing"}} | {set(LATER)!r}) & set(sys.modules) - before))
    from easycluster.far.modules import Block
    print(Block("m", 0, "f", "s")[:4], Block.__doc__.splitlines()[0], Block.__module__)
    """
    lines = run_far(program, python=interpreters()[version], with_code=with_code)
    # There importlib.util imports it.
    typing = "typing" if version == "3.9" else ""
    assert lines == [
        typing,
        "('m', 0, 'f', 's') One piece of source, as it is kept here and sent to the far side. easycluster.far.modules",
    ]


def test_after_a_start_no_code_is_kept_but_what_may_be_imported_yet():
    program = f"""
    exec(BUNDLE, globals())
    exec({LOAD!r}, globals())
    first = sys.meta_path[0].codes[0]
    print(len(first.data) == sum(end - begin for begin, end in first.places.values()))
    print(set(first.places).isdisjoint(sys.modules), len(first.data) < 100_000)
    names = sorted(first.places)
    for name in names:
        __import__(name)
    print(len(first.data))
    """
    assert run_far(program, with_code=True) == ["True", "True True", "0"]


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() - {hints.__name__}))
def test_hints_stand_for_every_name_of_typing_that_is_used(name):
    for node in ast.walk(ast.parse(SHIPPED[name][2])):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            assert {alias.name for alias in node.names} <= vars(hints).keys()
        elif isinstance(node, ast.Import):
            assert "typing" not in {alias.name for alias in node.names}
