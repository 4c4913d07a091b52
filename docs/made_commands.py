"""The reference of the ``easycluster`` command, from its parsers."""

from __future__ import annotations

import argparse

from easycluster.cli.options import make_parser

HEAD = """\
# Every command and option of `easycluster`

Made by `python -m docs.make` from the parsers of the command; `easycluster --help` and `easycluster COMMAND --help` say
the same. [Around the suite](lab_commands.md), [a laboratory in a box](lab_labbox.md) and [connections](connections.md)
say how they are used.
"""


def page() -> str:
    """The page."""
    parser = make_parser()
    parts = [HEAD, "## easycluster", ""]
    for group in parser._action_groups:
        rows = _rows(parser, group)
        if rows:
            parts += [f"{(group.title or '').capitalize()}:", "", *rows, ""]
    parts += _commands(parser, "easycluster")
    return "\n".join(parts).rstrip() + "\n"


def _commands(parser: argparse.ArgumentParser, above: str) -> list[str]:
    lines = []
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for name, command in action.choices.items():
            helps = {one.dest: one.help for one in action._choices_actions}
            lines += [f"## {above} {name}", "", _sentence(command.description or _capital(helps.get(name))), ""]
            usage = [one for one in command._actions if not one.option_strings and not _is_commands(one)]
            words = " ".join(_metavar(one) for one in usage)
            lines += [f"    {above} {name}{' ' + words if words else ''}", ""]
            rows = [line for group in command._action_groups for line in _rows(command, group, head=False)]
            if rows:
                lines += ["| | |", "|---|---|", *rows, ""]
            if command.epilog and "\n" not in command.epilog.strip():
                lines += [_cell(command.epilog), ""]
            lines += _commands(command, f"{above} {name}")
    return lines


def _is_commands(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _rows(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup, *, head: bool = True) -> list[str]:
    rows = []
    for action in group._group_actions:
        if action.help == argparse.SUPPRESS or _is_commands(action) or isinstance(action, argparse._HelpAction):
            continue
        takes = "" if action.nargs == 0 else f" {_metavar(action)}"
        what = ", ".join(action.option_strings) + takes if action.option_strings else _metavar(action)
        if not (action.help or action.option_strings):
            continue
        rows.append(f"| `{what.replace('|', chr(92) + '|')}` | {_cell(_help(parser, action))} |")
    return ["| | |", "|---|---|", *rows] if rows and head else rows


def _metavar(action: argparse.Action) -> str:
    said = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices is not None else action.dest.upper()
    )
    name = " ".join(said) if isinstance(said, tuple) else said
    many = action.nargs in ("*", "+", argparse.REMAINDER)
    return (
        f"[{name} ...]"
        if action.nargs == "*"
        else f"{name} ..."
        if many
        else f"[{name}]"
        if action.nargs == "?"
        else name
    )


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    said = {**vars(action), "prog": parser.prog}
    return (action.help or "") % said


def _capital(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _sentence(text: str | None) -> str:
    return _cell((text or "").split("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
