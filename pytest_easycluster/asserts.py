"""Far-side asserts explain themselves like local ones.

What is sent to far sides is rewritten here by pytest's own rewriter, and what was compared there is explained here,
by ``pytest_assertrepr_compare`` of all plugins.  Both are private to pytest: where they are not as expected, far-side
asserts stay plain, and a warning says so once.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# The module that rewritten code takes pytest's functions from, and ours that has them on far sides.
THEIRS, OURS = "_pytest.assertion.rewrite", "easycluster.far.asserts"
# The functions there that rewritten code may use.
KNOWN = frozenset(
    (
        "_saferepr",
        "_format_assertmsg",
        "_should_repr_global_name",
        "_format_boolop",
        "_call_reprcompare",
        "_format_explanation",
        "_check_if_assertion_pass_impl",
        "_call_assertion_pass",
    )
)


class NotAsExpectedError(Exception):
    """This pytest rewrites in a way that we do not know."""


class Rewriting:
    """Rewrites code for far sides; the same code once."""

    def __init__(self, rewriter: Callable[[ast.Module, bytes], None]) -> None:
        self._rewriter = rewriter
        self._known: dict[bytes, bytes] = {}
        self._gave_up = False

    def __call__(self, source: str, filename: str, first_line: int = 0) -> bytes:
        """Return the rewritten code as a packed tree, ``b""`` if it is to be sent as it is."""
        if "assert" not in source or self._gave_up:
            return b""
        key = hashlib.sha256(f"{first_line}\0{source}".encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._rewritten(source, first_line)
        return known

    def _rewritten(self, source: str, first_line: int) -> bytes:
        from easycluster.far.trees import pack_tree

        source = "\n" * (first_line - 1) + textwrap.dedent(source)
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return b""  # the far side says what is wrong with it, or knows newer syntax
        try:
            self._rewriter(tree, source.encode())
            _lead_to_ours(tree)
            return pack_tree(tree)
        except RecursionError:
            return b""
        except Exception as exc:  # noqa: BLE001 - a private part of pytest has changed
            self._gave_up = True
            text = f"asserts of far sides stay plain: pytest {pytest.__version__} does not rewrite them ({exc!r})"
            warnings.warn(pytest.PytestWarning(text), stacklevel=2)
            return b""


def _lead_to_ours(tree: ast.Module) -> None:
    """Have rewritten code import our module instead of pytest's.

    Raises:
        NotAsExpectedError: If it wants something that ours does not have.
    """
    name = ""
    for statement in tree.body:
        for alias in statement.names if isinstance(statement, ast.Import) else ():
            if alias.name == THEIRS and alias.asname and alias.asname.startswith("@"):
                alias.name, name = OURS, alias.asname
    for node in ast.walk(tree) if name else ():
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.value.id == name and node.attr not in KNOWN:
            raise NotAsExpectedError(node.attr)


def make_rewriting() -> Rewriting | None:
    """Return what rewrites, or None with a pytest that has no rewriter where we look for it."""
    try:
        from _pytest.assertion.rewrite import rewrite_asserts
    except ImportError:
        return None
    return Rewriting(rewrite_asserts)


def explain(config: pytest.Config) -> Callable[[str, Any, Any], str | None]:
    """Return what explains a comparison of a far side, with the hooks that are in force for the running test."""

    def explain_one(operator: str, left: Any, right: Any) -> str | None:
        try:
            from _pytest.assertion import util

            return util._reprcompare(operator, left, right) if util._reprcompare is not None else None
        except (ImportError, AttributeError):
            pass
        found = config.hook.pytest_assertrepr_compare(config=config, op=operator, left=left, right=right)
        lines = next((list(each) for each in found if each), None)
        return None if not lines else "\n~".join(line.replace("\n", "\\n") for line in lines).replace("%", "%%")

    return explain_one


def longest_repr(config: pytest.Config) -> int | None:
    """Characters that an explanation shows of each value, as pytest has them for its verbosity; None for all."""
    verbosity = config.get_verbosity(pytest.Config.VERBOSITY_ASSERTIONS)
    return None if verbosity >= 2 else 2400 if verbosity == 1 else 240
