"""The reference of the plugin: options, ini values, fixtures, markers and hooks, from the plugin's own code."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from pytest_easycluster import hookspecs, options, plugin

HEAD = """\
# Every option, fixture, marker and hook of the plugin

Made by `python -m docs.make` from what the plugin registers; [the plugin](lab_plugin.md) says how they are used.
What the command line says overrides the environment, which overrides the ini file.
"""


class _Parser:
    """Takes what the plugin tells pytest's parser."""

    def __init__(self) -> None:
        self.options: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self.inis: dict[str, tuple[str, str, object]] = {}

    def getgroup(self, *words: object) -> _Parser:
        return self

    def addoption(self, *names: str, **said: Any) -> None:
        self.options.append((names, said))

    def addini(self, name: str, help: str, type: str | None = None, default: object = None) -> None:
        self.inis[name] = (help, type or "string", default)


def page() -> str:
    """The page."""
    parser = _Parser()
    plugin.pytest_addoption(parser)  # type: ignore[arg-type]
    return "\n".join(
        [HEAD, *_options(parser), "", *_inis(parser), "", *_fixtures(), "", *_markers(), "", *_hooks(), ""]
    )


def _options(parser: _Parser) -> list[str]:
    from_environment = {f"ec_{name.replace('-', '_')}" for name, *_ in options.SETTINGS} | {"ec_inventory", "ec_set"}
    lines = ["## Options", "", "| option | ini | environment | |", "|---|---|---|---|"]
    for names, said in parser.options:
        key = names[-1].removeprefix("--").replace("-", "_")
        takes = "" if said.get("action") in ("store_true", "store_false") else " " + _cell(said.get("metavar", "VALUE"))
        ini = f"`{key}`" if key in parser.inis else ""
        variable = f"`{key.upper()}`" if key in from_environment else ""
        lines.append(f"| `{', '.join(names)}{takes}` | {ini} | {variable} | {_cell(said['help'])} |")
    return lines


def _inis(parser: _Parser) -> list[str]:
    lines = ["## In the ini file", "", "| key | type | |", "|---|---|---|"]
    return lines + [f"| `{name}` | {kind} | {_cell(text)} |" for name, (text, kind, _) in sorted(parser.inis.items())]


def _fixtures() -> list[str]:
    lines = ["## Fixtures", "", "| fixture | scope | gives |", "|---|---|---|"]
    for node in ast.parse(inspect.getsource(plugin)).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for one in node.decorator_list:
            call = one.func if isinstance(one, ast.Call) else one
            if ast.unparse(call) == "pytest.fixture":
                words = {word.arg: word.value for word in one.keywords} if isinstance(one, ast.Call) else {}
                name = ast.literal_eval(words["name"]) if "name" in words else node.name
                scope = words.get("scope")
                said = "as the lab file says" if scope is not None and not isinstance(scope, ast.Constant) else ""
                said = said or (scope.value if isinstance(scope, ast.Constant) else "function")
                lines.append(f"| `{name}` | {said} | {_cell(_first_paragraph(ast.get_docstring(node)))} |")
    return lines


def _markers() -> list[str]:
    lines = ["## Markers", "", "| marker | |", "|---|---|"]
    for text in plugin.MARKERS:
        marker, _, says = text.partition(": ") if ")" not in text.partition(":")[0] else _after_call(text)
        lines.append(f"| `{_cell(marker)}` | {_cell(says)} |")
    return lines


def _after_call(text: str) -> tuple[str, str, str]:
    """The marker with its arguments, which may have a colon, and what it says."""
    depth = 0
    for index, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == ":" and not depth:
            return text[:index], ":", text[index + 2 :]
    return text, "", ""


def _hooks() -> list[str]:
    lines = ["## Hooks", ""]
    for name, function in vars(hookspecs).items():
        if name.startswith("pytest_easycluster_"):
            arguments = ", ".join(inspect.signature(function).parameters)
            lines += [f"- `{name}({arguments})`: {_first_paragraph(inspect.getdoc(function))}"]
    return lines


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
