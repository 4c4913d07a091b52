"""Conditions on hosts: ``gpus >= 4``, ``gpu_model == 'H200' and not nvlink``, ``protocols contains 'iscsi'``.

Grammar::

    either    = both {"or" both}
    both      = single {"and" single}
    single    = "not" single | "(" either ")" | name | name operator literal | literal ["not"] "in" name
    operator  = "==" "!=" "<" "<=" ">" ">=" "in" "not in" "contains"
    literal   = number | 'text' | "text" | true | false | "[" literal {"," literal} "]"

A name is a capability or variable of the host, with dots into nested ones.  A bare name holds when it is there and
is not false, 0 or empty.  A comparison of unlike types is an error, never just false.  Texts are ordered as versions
are: ``'580.9' < '580.10'``.

Parsed by hand and not with :mod:`ast`: ``contains`` and names with dashes are not Python, and every fault has its
column.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.shapes import described, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_TOKEN = re.compile(
    r"\s*(?:(?P<op><=|>=|==|!=|<|>|=|[()\[\],])|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<word>[^\s<>=!()\[\],'\"]+)|(?P<odd>\S))"
)
_VERSION = re.compile(r"v?[0-9]+(?:\.[0-9]+)+(?:[.+~_-]?[A-Za-z0-9]+)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*")
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPERATORS: Final = frozenset({"==", "!=", "in", "contains", *_ORDER})
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "contains", "true", "false"})


class WhereError(ValueError):
    """A condition is malformed, or compares unlike things.

    Attributes:
        position: Index of the fault in the text, from 0.
        width: Its length in characters.
    """

    def __init__(self, message: str, position: int = 0, width: int = 1) -> None:
        super().__init__(message)
        self.position = position
        self.width = width


class UnlikeTypes(WhereError):
    """A host's value and the literal it is compared with have different types.

    Attributes:
        name: The capability or variable.
        value: What the host has.
        wanted: The kind of the literal: ``number``, ``text`` ...
    """

    def __init__(self, name: str, value: object, wanted: str) -> None:
        super().__init__(f"{name!r} is {described(value)}, and the condition compares it with a {wanted}")
        self.name = name
        self.value = value
        self.wanted = wanted


@dataclass(frozen=True)
class Outcome:
    """Whether a condition holds, and in a few words why not: ``gpus is 2``."""

    holds: bool
    why: str = ""


@dataclass(frozen=True)
class _Token:
    text: str
    position: int
    quoted: bool = False


@dataclass(frozen=True)
class _Test:
    """``name operator literal``, or a bare name when ``sign`` is empty."""

    name: str
    position: int
    sign: str = ""
    literal: Any = None

    def names(self) -> Iterator[tuple[str, int]]:
        yield self.name, self.position

    def evaluate(self, values: Mapping[str, Any]) -> Outcome:
        found, value = lookup(values, self.name)
        if not found:
            return Outcome(False, f"no {self.name}")
        if not self.sign:
            return Outcome(bool(value), "" if value else f"{self.name} is {short(value)}")
        holds = self._compare(value)
        return Outcome(holds, "" if holds else f"{self.name} is {short(value)}")

    def _compare(self, value: Any) -> bool:
        if self.sign == "contains":
            if not isinstance(value, (list, tuple, dict, str)):
                raise UnlikeTypes(self.name, value, "list's item")
            return self.literal in value
        if self.sign in ("in", "not in"):
            listed = any(_kind(one) == _kind(value) and one == value for one in self.literal)
            return listed == (self.sign == "in")
        mine, literal = _alike(value, self.literal)
        if _kind(mine) != _kind(literal):
            raise UnlikeTypes(self.name, value, _kind(literal))
        if self.sign in _ORDER:
            if isinstance(literal, str):
                mine, literal = _version(mine), _version(literal)
            elif _kind(literal) != "number":
                raise UnlikeTypes(self.name, value, "number")
            return _ORDER[self.sign](mine, literal)
        return bool((mine == literal) == (self.sign == "=="))


@dataclass(frozen=True)
class _Not:
    inner: _Node

    def names(self) -> Iterator[tuple[str, int]]:
        yield from self.inner.names()

    def evaluate(self, values: Mapping[str, Any]) -> Outcome:
        outcome = self.inner.evaluate(values)
        if not outcome.holds:
            return Outcome(True)
        words = [f"{name} is {short(lookup(values, name)[1])}" for name, _ in self.inner.names()]
        return Outcome(False, ", ".join(dict.fromkeys(words)))


@dataclass(frozen=True)
class _Joined:
    """Terms joined by ``and`` (``every``) or by ``or``."""

    every: bool
    terms: tuple[_Node, ...]

    def names(self) -> Iterator[tuple[str, int]]:
        for term in self.terms:
            yield from term.names()

    def evaluate(self, values: Mapping[str, Any]) -> Outcome:
        outcomes = [term.evaluate(values) for term in self.terms]
        holds = (all if self.every else any)(one.holds for one in outcomes)
        return Outcome(holds, "" if holds else ", ".join(dict.fromkeys(one.why for one in outcomes if one.why)))


_Node = _Test | _Not | _Joined


class Where:
    """A condition, parsed.

    Raises:
        WhereError: If ``text`` is not a condition.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._root = self._either()
        if self._at < len(self._tokens):
            raise self._error(f"{self._tokens[self._at].text!r} is not expected here")

    def __str__(self) -> str:
        return self.text

    def names(self) -> list[tuple[str, int]]:
        """Every name in it with its position."""
        return list(self._root.names())

    def evaluate(self, values: Mapping[str, Any]) -> Outcome:
        """Whether it holds for these capabilities and variables.

        Raises:
            UnlikeTypes: If it compares, say, a text with a number.
        """
        return self._root.evaluate(values)

    def _peek(self) -> str:
        if self._at == len(self._tokens) or self._tokens[self._at].quoted:
            return ""
        return self._tokens[self._at].text

    def _take(self) -> _Token:
        if self._at == len(self._tokens):
            raise self._error("something is missing at the end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _error(self, message: str, token: _Token | None = None) -> WhereError:
        if token is None and self._at < len(self._tokens):
            token = self._tokens[self._at]
        position, width = (token.position, len(token.text)) if token else (len(self.text), 1)
        return WhereError(f"{message} in the condition {self.text!r}", position, width)

    def _either(self) -> _Node:
        return self._joined("or", self._both, every=False)

    def _both(self) -> _Node:
        return self._joined("and", self._single, every=True)

    def _joined(self, word: str, inner: Callable[[], _Node], every: bool) -> _Node:
        terms = [inner()]
        while self._peek() == word:
            self._take()
            terms.append(inner())
        return terms[0] if len(terms) == 1 else _Joined(every, tuple(terms))

    def _single(self) -> _Node:
        token = self._take()
        if not token.quoted and token.text == "not":
            return _Not(self._single())
        if not token.quoted and token.text == "(":
            inner = self._either()
            if self._peek() != ")":
                raise self._error("')' is missing")
            self._take()
            return inner
        if token.quoted or typed(token.text) in (True, False) or _is_number(token.text):
            return self._listed(token)
        self._check_name(token)
        if self._peek() == "=":
            raise self._error("write '==' to compare")
        if self._peek() not in {*_OPERATORS, "not"}:
            return _Test(token.text, token.position)
        sign = self._take().text
        if sign == "not":
            if self._peek() != "in":
                raise self._error("'in' is missing after 'not'")
            sign = f"not {self._take().text}"
        literal = self._literal()
        if sign in ("in", "not in") and not isinstance(literal, list):
            raise self._error("'in' takes a list, as in  gpu_model in ['H100', 'H200']", self._tokens[self._at - 1])
        return _Test(token.text, token.position, sign, literal)

    def _listed(self, token: _Token) -> _Node:
        """``'iscsi' in protocols``, which is ``protocols contains 'iscsi'``."""
        negated = self._peek() == "not"
        if negated:
            self._take()
        if self._peek() != "in":
            raise self._error(f"{token.text!r} is not the name of a capability", token)
        self._take()
        name = self._take()
        self._check_name(name)
        literal = token.text[1:-1] if token.quoted else typed(token.text)
        test = _Test(name.text, name.position, "contains", literal)
        return _Not(test) if negated else test

    def _check_name(self, token: _Token) -> None:
        if token.quoted or token.text in _KEYWORDS or not _NAME.fullmatch(token.text):
            raise self._error(f"{token.text!r} is not the name of a capability", token)

    def _literal(self) -> Any:
        token = self._take()
        if token.quoted:
            return token.text[1:-1]
        if token.text == "[":
            items = [self._literal()]
            while self._peek() == ",":
                self._take()
                items.append(self._literal())
            if self._peek() != "]":
                raise self._error("']' is missing")
            self._take()
            return items
        value = typed(token.text)
        if value is None or isinstance(value, str):
            advice = f"quote a text: '{token.text}'"
            raise self._error(f"{token.text!r} is neither a number nor true or false ({advice})", token)
        return value


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        assert kind is not None
        token = _Token(match[kind], match.start(kind), kind == "quoted")
        if kind == "odd":
            raise WhereError(f"{token.text!r} is not expected here in the condition {text!r}", token.position)
        found.append(token)
    return found


def lookup(values: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Whether there is a value of this name, with dots into nested ones, and the value."""
    if name in values:
        return True, values[name]
    value: Any = values
    for part in name.split("."):
        if not (hasattr(value, "keys") and part in value):
            return False, None
        value = value[part]
    return True, value


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, (list, tuple)) else "mapping" if isinstance(value, dict) else "value"


def _is_number(text: str) -> bool:
    return isinstance(typed(text), (int, float))


def _alike(value: Any, literal: Any) -> tuple[Any, Any]:
    """A number and a version as two versions: ``driver: 1.9`` is a number in YAML, ``driver: 1.10`` is not."""
    if _kind(value) == "number" and isinstance(literal, str) and _VERSION.fullmatch(literal):
        return str(value), literal
    if _kind(literal) == "number" and isinstance(value, str) and _VERSION.fullmatch(value):
        return value, str(literal)
    return value, literal


def _version(text: str) -> list[tuple[int, int, str]]:
    """``text`` cut so that comparing compares its numbers as numbers."""
    pieces = re.findall(r"[0-9]+|[A-Za-z]+", text)
    # Numbers after letters: 2.0 comes after 2.0rc1 only by its length, so the end counts as more than a word.
    cut = [(2, int(piece), "") if piece.isdigit() else (0, 0, piece.casefold()) for piece in pieces]
    return [*cut, (1, 0, "")]


def short(value: object) -> str:
    """A value in few words."""
    text = repr(value) if isinstance(value, (list, dict)) else described(value).replace("the number ", "")
    return text.replace("the text ", "") if len(text) <= 60 else text[:57] + "..."
