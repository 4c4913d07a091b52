"""The modules of devices that are single files can be sent to any far side."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from support.interpreters import interpreters

import easycluster.devices
from easycluster.server import spawn_local

ROOT = Path(easycluster.devices.__file__).parent
FILES = sorted(ROOT.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_sent_needs_only_python_3_8_and_what_is_there(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    needed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            needed.add(node.module)
    ours = {name for name in needed if name.partition(".")[0] == "easycluster"}
    there = ("easycluster.devices", "easycluster.errors", "easycluster.far", "easycluster.objects")
    assert all(name.startswith(there) for name in ours)
    assert {name.partition(".")[0] for name in needed - ours} <= sys.stdlib_module_names


def test_all_of_them_are_imported_by_the_oldest_python_there_is():
    with spawn_local(python=next(iter(interpreters().values()))) as client:
        for path in FILES:
            if path.stem != "__init__":
                client.import_module(f"easycluster.devices.{path.stem}")
        line = client.call("easycluster.devices.lines.open_line", "command", words=["cat"])
        line.write(b"x\n")
        assert line.read(20.0)[:1] == b"x"
        line.close()
