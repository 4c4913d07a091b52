"""What docs/lab_labbox.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

from support.labboxes import require_labbox

from easycluster.cli.options import make_parser

PAGE = Path(__file__).resolve().parents[2] / "docs/lab_labbox.md"


def test_the_example_runs():
    require_labbox()
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(source, str(PAGE), "exec"), {"__name__": "page"})


def test_every_action_is_on_the_page(capsys):
    said = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
    named = {word.split()[0] for cell in said for word in re.findall(r"`([^`]+)`", cell)}
    parser = make_parser()
    commands = next(action for action in parser._actions if action.dest == "command")
    actions = next(action for action in commands.choices["labbox"]._actions if action.dest == "action")
    assert named == set(actions.choices)
