"""What ``import easycluster`` costs: nothing but the package itself, until a name is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import easycluster

# What a script that connects may never need.
HEAVY = (
    "argparse",
    "asyncio",
    "cloudpickle",
    "easycluster.lab",
    "easycluster.transport.bundle",
    "execnet",
    "multiprocessing",
    "pathlib",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
    "yaml",
)


def imported_by(code: str) -> set[str]:
    """Return the modules that a line of Python imports, beyond what Python itself starts with."""
    script = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    # Without site: what lies in site-packages may import anything.
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {script}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def homes_for_type_checkers() -> dict[str, str]:
    """Return where type checkers find the names that are loaded when they are used."""
    tree = ast.parse(Path(easycluster.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(each.module) for each in imports for alias in each.names} | {"Any": ""}


def test_importing_the_package_imports_next_to_nothing():
    assert imported_by("import easycluster") == {"__future__", "easycluster", "easycluster.version"}


def test_the_version_and_the_list_of_names_import_nothing_more():
    code = (
        "import easycluster; easycluster.__version__, easycluster.DEFAULT_PORT, dir(easycluster), easycluster.__all__"
    )

    assert imported_by(code) == imported_by("import easycluster")


def test_the_errors_come_without_clients():
    found = imported_by("import easycluster; easycluster.CallTimeout, easycluster.errors.Unsupported")

    assert {name for name in found if name.startswith("easycluster.")} == {"easycluster.errors", "easycluster.version"}


def test_the_client_comes_without_what_few_connections_need():
    assert not imported_by("from easycluster import Client").intersection(HEAVY)


@pytest.mark.parametrize("name", easycluster.__all__)
def test_a_name_is_the_one_of_its_module(name):
    home = homes_for_type_checkers().get(name, "easycluster.version")

    expected = easycluster.errors if name == "errors" else getattr(importlib.import_module(home), name)

    assert getattr(easycluster, name) is expected
    assert name in dir(easycluster)


def test_type_checkers_see_every_name_that_is_loaded_late():
    for_type_checkers = {
        name: home for name, home in homes_for_type_checkers().items() if name not in ("Any", "errors")
    }

    assert for_type_checkers == {name: f"easycluster.{home}" for name, home in easycluster._HOMES.items()}


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'easycluster' has no attribute 'Clinet'"):
        easycluster.Clinet  # noqa: B018

    with pytest.raises(ImportError, match="cannot import name 'Clinet' from 'easycluster'"):
        from easycluster import Clinet  # noqa: F401
