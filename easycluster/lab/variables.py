"""``${NAME}`` in an inventory: variables, the environment, and what each host brings; secrets stay secrets.

Forms: ``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}``; ``$$`` is a literal ``$``; any other ``$`` stands for
itself, so that shell commands read as written.  A name is looked up among what the host brings (``host``, ``n``,
``inventory_dir``), then the variables of the file, then the environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from easycluster.lab.positions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easycluster.lab.positions import Leaf, Place, Problems

HIDDEN = "***"

_FORM = re.compile(
    r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<how>[-?])(?P<rest>[^{}]*))?\}|(?P<odd>\{[^}]*\}?))"
)


class Secret:
    """A text that never shows: ``str`` and ``repr`` give ``***``; :meth:`reveal` gives the text itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret of the inventory is not pickled; send what needs it by other means")


@dataclass(frozen=True)
class Expanded:
    """A scalar after substitution; secret if any part of it was."""

    text: str
    secret: bool


@dataclass(frozen=True)
class Scope:
    """What ``${NAME}`` means at one point of the inventory.

    Attributes:
        variables: The variables of the file that hold here, not yet expanded.
        brought: ``host``, ``n``, ``inventory_dir``: plain texts.
        environ: The environment.
        strict: False to pass over variables that are not set; for what no host uses.
        secrets: Collects the text of every secret that was expanded.
    """

    variables: Mapping[str, Leaf]
    brought: Mapping[str, str]
    environ: Mapping[str, str]
    strict: bool = True
    secrets: set[str] = field(default_factory=set)

    def expand(self, leaf: Leaf, problems: Problems) -> Expanded | None:
        """The leaf with its variables filled in, or None if one of them is not set (a problem is noted)."""
        expanded = self._expand(leaf, problems, ())
        if expanded is not None and expanded.secret and expanded.text:
            self.secrets.add(expanded.text)
        return expanded

    def _expand(self, leaf: Leaf, problems: Problems, inside: tuple[str, ...]) -> Expanded | None:
        if leaf.is_unreadable:
            return None
        if "$" not in leaf.text:
            return Expanded(leaf.text, leaf.secret)
        parts: list[str] = []
        secret, end, complete = leaf.secret, 0, True
        for match in _FORM.finditer(leaf.text):
            parts.append(leaf.text[end : match.start()])
            end = match.end()
            if match.group() == "$$":
                parts.append("$")
                continue
            value = self._value(match, leaf, problems, inside)
            if value is None:
                complete = False
                continue
            secret = secret or value.secret
            parts.append(value.text)
        return Expanded("".join([*parts, leaf.text[end:]]), secret) if complete else None

    def _value(self, match: re.Match[str], leaf: Leaf, problems: Problems, inside: tuple[str, ...]) -> Expanded | None:
        name, how, rest = match["name"], match["how"], match["rest"]
        if name is None:
            place = _inner_place(leaf, match, problems)
            problems.add(
                place, f"{match.group()!r} is not a variable", "write ${NAME}, ${NAME:-default} or ${NAME:?message}"
            )
            return None
        if name in self.brought:
            return Expanded(self.brought[name], secret=False)
        if name in self.variables:
            if name in inside:
                problems.add(self.variables[name].place, f"variable {name!r} is made from itself")
                return None
            return self._expand(self.variables[name], problems, (*inside, name))
        # As in the shell, ':-' and ':?' also act on a variable that is set but empty.
        text = self.environ.get(name, "")
        if text or (name in self.environ and how is None):
            return Expanded(text, secret=False)
        if how == "-":
            return Expanded(rest, secret=False)
        if not self.strict:
            return None
        # The whole value is named as the place: it is what people look for, and where !secret stands.
        message = f"variable {name} is not set" + (f": {rest}" if how == "?" and rest else "")
        known = {one: other.place for one, other in self.variables.items() if other is not leaf}
        advice = f"export {name}, or write ${{{name}:-default}}"
        hint = "" if rest else did_you_mean(name, known) or advice
        problems.add(leaf.place, message, hint)
        return None


def _inner_place(leaf: Leaf, match: re.Match[str], problems: Problems) -> Place:
    """Where the match stands in the file, if the leaf is on one line as written; else where the leaf begins."""
    line = problems.line(leaf.place)
    column = line.find(match.group(), leaf.place.column - 1)
    if column < 0 or leaf.block:
        return leaf.place
    return leaf.place.shifted(column + 1 - leaf.place.column, len(match.group()))
